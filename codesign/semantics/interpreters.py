"""Adapters to the TFLM and TFLite interpreters: the executable definitions that the simulation is checked against."""

from __future__ import annotations

import struct
import sys
from typing import Any, Protocol

import numpy as np

from codesign.errors import InputError, MissingToolError
from codesign.quantization.integer import ActivationArray, Activations

TFLM_COMMAND = "pip install tflite-micro==0.dev20261023182759"
MIN_ARENA_BYTES = 1 << 20
NO_INT16 = (
    "TensorFlow Lite cannot run models with int16 activations (its LSTM has none), so there is nothing to compare: "
    "TFLM runs them, and 'codesign compare' takes int8 models."
)


class Interpreter(Protocol):
    """Runs an integer .tflite on inputs [B, T, D], every sequence from the reset state."""

    name: str

    def run(self, q: ActivationArray) -> ActivationArray:
        """Outputs [B, ...] for inputs [B, T, D], of the model's type."""
        ...


def _check(q: ActivationArray, shape: tuple[int, ...], dtype: Activations) -> None:
    if q.dtype != dtype or q.shape[1:] != shape:
        raise InputError(
            f"Inputs have to be {dtype} of shape [batch, {', '.join(map(str, shape))}], not "
            f"{q.dtype} of shape {list(q.shape)}."
        )


class TflmInterpreter:
    """The host build of the TensorFlow Lite Micro interpreter (package tflite-micro, reference kernels).

    Give it only files that `read_integer_network` has accepted: the native code trusts the flatbuffer and can crash the
    process. MissingToolError without the package, InputError for a model that TFLM refuses.
    """

    name = "tflm"

    def __init__(self, content: bytes, arena_bytes: int | None = None) -> None:
        try:
            from tflite_micro.python.tflite_micro import runtime
        except ImportError as error:
            raise MissingToolError(
                f"The TFLM interpreter is not installed (Python 3.11 only): run '{TFLM_COMMAND}'."
            ) from error
        try:
            arena = arena_bytes or max(MIN_ARENA_BYTES, 8 * len(content))
            self._interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, struct.error) as error:
            raise InputError(f"TensorFlow Lite Micro refuses this model: {error}.") from error
        source, result = self._interpreter.get_input_details(0), self._interpreter.get_output_details(0)
        self._dtype = _common_type(source, result)
        self._input_shape = tuple(int(d) for d in source["shape"])
        self._output_shape = tuple(int(d) for d in result["shape"])

    def run(self, q: ActivationArray) -> ActivationArray:
        """[B, ...] for [B, T, D], int8 or int16 as the model is; the interpreter is reset before every sequence."""
        _check(q, self._input_shape[1:], self._dtype)
        shape = _batched(self._output_shape, self._input_shape[0])
        results = np.empty((len(q), *shape), self._dtype)
        for k in range(len(q)):
            self._interpreter.reset()
            self._interpreter.set_input(np.ascontiguousarray(q[k : k + 1]), 0)
            self._interpreter.invoke()
            results[k] = self._interpreter.get_output(0).reshape(shape)
        return results


class TfliteInterpreter:
    """The TensorFlow Lite interpreter: tflite-runtime, else ai-edge-litert, else TensorFlow's own.

    The same warning and errors as TflmInterpreter's; `package` tells which one runs. It has no LSTM with int16
    activations: such models are an InputError.
    """

    name = "tflite"

    def __init__(self, content: bytes) -> None:
        self.package, factory = _tflite_factory()
        try:
            self._interpreter = factory(model_content=content)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise InputError(f"TensorFlow Lite refuses this model: {error}.") from error
        source, result = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        if _common_type(source, result) == "int16":
            raise InputError(NO_INT16)
        self._input, self._output = int(source["index"]), int(result["index"])
        self._input_shape = tuple(int(d) for d in source["shape"])
        self._output_shape = tuple(int(d) for d in result["shape"])

    def run(self, q: ActivationArray) -> ActivationArray:
        """int8 [B, ...] for int8 [B, T, D]; variables are reset before every sequence."""
        _check(q, self._input_shape[1:], "int8")
        shape = _batched(self._output_shape, self._input_shape[0])
        results = np.empty((len(q), *shape), np.int8)
        for k in range(len(q)):
            self._interpreter.reset_all_variables()
            self._interpreter.set_tensor(self._input, q[k : k + 1])
            self._interpreter.invoke()
            results[k] = self._interpreter.get_tensor(self._output).reshape(shape)
        return results


def _common_type(source: dict[str, Any], result: dict[str, Any]) -> Activations:
    names = np.dtype(source["dtype"]).name, np.dtype(result["dtype"]).name
    if names == ("int8", "int8"):
        return "int8"
    if names == ("int16", "int16"):
        return "int16"
    raise InputError("The model's input and output are not both int8 or both int16: convert with 'codesign convert'.")


def _batched(shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """Shape without the batch, which FULLY_CONNECTED may have folded into the rows."""
    return shape[1:] if len(shape) > 1 and shape[0] == batch else shape


def _tflite_factory() -> tuple[str, Any]:
    # In a process that has loaded TensorFlow, tflite-runtime was seen to crash: they share native symbols.
    if sys.modules.get("tensorflow") is not None:
        return "tensorflow", sys.modules["tensorflow"].lite.Interpreter
    try:
        from tflite_runtime.interpreter import Interpreter as Runtime

        return "tflite-runtime", Runtime
    except ImportError:
        pass
    try:
        from ai_edge_litert.interpreter import Interpreter as Litert

        return "ai-edge-litert", Litert
    except ImportError:
        pass
    try:
        import tensorflow

        return "tensorflow", tensorflow.lite.Interpreter
    except ImportError as error:
        package = "tflite-runtime" if sys.version_info < (3, 12) else "ai-edge-litert"
        raise MissingToolError(
            f"The TensorFlow Lite interpreter is not installed: run 'pip install {package}'."
        ) from error
