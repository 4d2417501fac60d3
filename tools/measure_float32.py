"""Measures what float32 sigmoid, tanh and exp are off by in TensorFlow, XLA and TensorFlow Lite.

    python tools/measure_float32.py [--stride 61]

Prints, for each implementation, the largest error over every `stride`-th float32 number (1: all of them), in units of
2^-24: absolute for sigmoid and tanh, relative for exp over [-87, 0]. These are the figures that docs/soundness.md
compares with the float32 model of certificates (`codesign.proof.float32`). Needs TensorFlow.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
Floats = npt.NDArray[np.float32]
CHUNK = 1 << 20
UNIT = 2.0**-24


def numbers(stride: int, largest: float) -> Iterator[Floats]:
    """Every `stride`-th positive float32 number up to `largest`, and the same with a sign, in chunks of one size."""
    end = int(np.array(largest, np.float32).view(np.uint32))
    for start in range(0, end, CHUNK * stride):
        bits = np.minimum(np.arange(start, start + CHUNK * stride, stride, dtype=np.int64), end).astype(np.uint32)
        for sign in (np.uint32(0), np.uint32(1 << 31)):
            yield (bits | sign).view(np.float32)


def truth(name: str, x: Floats) -> npt.NDArray[np.float64]:
    from scipy.special import expit

    wide = x.astype(np.float64)
    functions: dict[str, Callable[..., npt.NDArray[np.float64]]] = {"sigmoid": expit, "tanh": np.tanh, "exp": np.exp}
    return functions[name](wide)


def implementations() -> dict[str, Callable[[str], Callable[[Floats], Floats]]]:
    """Makers of a function by its name, for chunks."""
    import tensorflow as tf

    functions = {"sigmoid": tf.math.sigmoid, "tanh": tf.math.tanh, "exp": tf.math.exp}

    def eager(name: str) -> Callable[[Floats], Floats]:
        return lambda x: functions[name](x).numpy()

    def xla(name: str) -> Callable[[Floats], Floats]:
        compiled = tf.function(functions[name], jit_compile=True)
        return lambda x: compiled(tf.constant(x)).numpy()

    def lite(name: str, plain: bool) -> Callable[[Floats], Floats]:
        signature = [tf.TensorSpec([1, CHUNK], tf.float32)]
        concrete = tf.function(lambda x: functions[name](x), input_signature=signature).get_concrete_function()
        content = tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()
        kinds = tf.lite.experimental.OpResolverType
        interpreter = tf.lite.Interpreter(
            model_content=content, experimental_op_resolver_type=kinds.BUILTIN_REF if plain else kinds.AUTO
        )
        interpreter.allocate_tensors()
        source, target = (d[0]["index"] for d in (interpreter.get_input_details(), interpreter.get_output_details()))

        def run(x: Floats) -> Floats:
            interpreter.set_tensor(source, x[None])
            interpreter.invoke()
            result: Floats = interpreter.get_tensor(target)[0]
            return result

        return run

    return {
        "TensorFlow, as Keras calls it": eager,
        "TensorFlow, compiled by XLA": xla,
        "TensorFlow Lite, XNNPACK": lambda name: lite(name, False),
        "TensorFlow Lite, reference": lambda name: lite(name, True),
    }


def measure(name: str, function: Callable[[Floats], Floats], stride: int) -> tuple[float, float, float]:
    """(largest error in units of 2^-24, where, largest magnitude of a result)."""
    worst, where, size = 0.0, 0.0, 0.0
    for x in numbers(stride, 87.0 if name == "exp" else 3e38):
        if name == "exp" and x[0] >= 0 and not np.signbit(x[0]):
            continue
        y, exact = function(x).astype(np.float64), truth(name, x)
        error = np.abs(y - exact) / (exact if name == "exp" else 1.0) / UNIT
        k = int(np.nanargmax(error)) if np.isfinite(y).all() else int(np.flatnonzero(~np.isfinite(y))[0])
        size = max(size, float(np.abs(y).max()))
        if not error[k] <= worst:
            worst, where = float(error[k]), float(x[k])
    return worst, where, size


def main() -> None:
    parser = argparse.ArgumentParser(description="Largest errors of float32 sigmoid, tanh and exp")
    parser.add_argument("--stride", type=int, default=61, help="take every N-th float32 number (default %(default)s)")
    stride = parser.parse_args().stride
    for title, make in implementations().items():
        for name in ("sigmoid", "tanh", "exp"):
            worst, where, size = measure(name, make(name), stride)
            print(f"{title}: {name} {worst:.3f} units at {where!r}, largest result {size!r}", flush=True)


if __name__ == "__main__":
    main()
