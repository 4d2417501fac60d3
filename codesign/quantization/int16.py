"""From an int8 model to int16 activations x int8 weights, which the TensorFlow converter refuses to make for LSTMs.

Weights, their scales, cell scales and cell clips are the int8 model's. Activations become int16 with zero point 0,
biases int64 at scale s_x * s_W, rounded anew from the float model. Ranges:

- input: the int8 range made symmetric, so that no input saturates that did not before;
- LSTM output and hidden state: scale 2^-15, since |o tanh(c)| < 1: it cannot saturate, and the step is the gates';
- FULLY_CONNECTED and RELU outputs: twice the int8 range made symmetric, but no more than the layer can give (sum of
  |weights| times the largest input, plus |bias|): one bit against saturation on inputs unlike the calibration's;
- SOFTMAX, LOGISTIC and TANH outputs: scale 2^-15, as TFLM requires.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from codesign.errors import CodesignError, InputError
from codesign.network import Activation, Dense, FloatNetwork, Layer, Lstm, Reshape
from codesign.quantization.flatwriter import ModelWriter
from codesign.quantization.integer import (
    IntActivation,
    IntDense,
    IntegerNetwork,
    IntLastStep,
    IntLstm,
    IntOp,
    IntReshape,
    QuantizedTensor,
)
from codesign.quantization.multipliers import UNIT_SCALE

HEADROOM = 2.0
_MAX_BIAS = 2.0**46
_TANH, _RELU, _NONE, _INT64 = 4, 1, 0, 4  # ActivationFunctionType and TensorType
_KINDS = {"softmax": "SOFTMAX", "sigmoid": "LOGISTIC", "tanh": "TANH", "relu": "RELU"}


def to_int16(integer: IntegerNetwork, network: FloatNetwork) -> bytes:
    """The .tflite file of `integer`, an int8 network converted from `network`, with int16 activations.

    InputError where `integer` is not int8; CodesignError where its weights are not those of `network`.
    """
    if integer.activations != "int8":
        raise InputError(f"{integer.name} has {integer.activations} activations already; int8 ones are needed")
    return _Rewriter(integer, network).write()


class _Rewriter:
    """Walks the int8 operators; `scale`, `limit` and `current` belong to the int16 tensor that flows along."""

    def __init__(self, integer: IntegerNetwork, network: FloatNetwork) -> None:
        self.integer, self.network = integer, network
        self.writer = ModelWriter()
        self.weighted = [k for k, layer in enumerate(network.layers) if isinstance(layer, (Lstm, Dense))]
        self.scale = _scale(_range(integer.input))
        self.limit = 32768 * self.scale  # the largest real value that the tensor can hold
        self.current = self.writer.tensor(integer.input.name, (1, *integer.input.shape), "int16", (self.scale,))

    def write(self) -> bytes:
        ops = self.integer.ops
        if sum(isinstance(op, (IntLstm, IntDense)) for op in ops) != len(self.weighted):
            raise self._mismatch("has another number of layers")
        for index, op in enumerate(ops):
            if isinstance(op, IntLstm):
                self._lstm(op)
            elif isinstance(op, IntDense):
                self._dense(op, ops[index + 1 :])
            elif isinstance(op, IntActivation):
                self._activation(op)
            elif isinstance(op, IntLastStep):
                self._last_step(op)
            else:
                self._reshape(op)
        return self.writer.write(self.current, f"{self.network.name}, int16 activations x int8 weights (codesign)")

    def _mismatch(self, what: str) -> CodesignError:
        return CodesignError(f"the int8 model {self.integer.name} {what} than the float model {self.network.name}")

    def _next(self, kind: type[Lstm] | type[Dense]) -> tuple[Layer, Sequence[Layer]]:
        """The float layer of the next operator with weights, and the layers behind it."""
        position = self.weighted.pop(0)
        layer = self.network.layers[position]
        if not isinstance(layer, kind):
            raise self._mismatch("has its layers in another order")
        return layer, self.network.layers[position + 1 :]

    def _same(self, q: npt.NDArray[np.int8], scales: npt.NDArray[np.float64], real: npt.NDArray[np.float32]) -> None:
        if q.shape != real.shape or np.any(np.abs(q * scales - real) > 0.51 * scales):
            raise self._mismatch("has other weights")

    def _bias(self, name: str, b: npt.NDArray[np.float32], scales: npt.NDArray[np.float64]) -> int:
        q = np.rint(b.astype(np.float64) / scales)
        if np.any(np.abs(q) > _MAX_BIAS):
            raise CodesignError(f"layer {name} has a bias that is too large for the scales of its input and weights")
        return self.writer.constant(name, q.astype(np.int64), scales.tolist())

    def _advance(self, name: str, shape: Sequence[int], scale: float, limit: float) -> int:
        self.current = self.writer.tensor(name, (1, *shape), "int16", (scale,))
        self.scale, self.limit = scale, limit
        return self.current

    def _lstm(self, op: IntLstm) -> None:
        layer, _ = self._next(Lstm)
        assert isinstance(layer, Lstm)
        w, x = self.writer, self.current
        W_scale, R_scale = np.array(op.W_scale), np.array(op.R_scale)
        self._same(op.W, W_scale[:, None, None], layer.W)
        self._same(op.R, R_scale[:, None, None], layer.R)
        inputs = [-1] * 24
        inputs[0] = x
        for g, gate in enumerate("ifco"):
            inputs[1 + g] = w.constant(f"{op.name}/W_{gate}", op.W[g], op.W_scale[g : g + 1])
            inputs[5 + g] = w.constant(f"{op.name}/R_{gate}", op.R[g], op.R_scale[g : g + 1])
            inputs[12 + g] = self._bias(f"{op.name}/b_{gate}", layer.b[g], self.scale * W_scale[g : g + 1])
        inputs[18] = w.tensor(f"{op.name}/hidden", (1, op.units), "int16", (UNIT_SCALE,), variable=True)
        inputs[19] = w.tensor(f"{op.name}/cell", (1, op.units), "int16", (2.0**op.cell_shift,), variable=True)
        output = self._advance(op.name, op.output.shape, UNIT_SCALE, 1.0)
        w.operator(
            "UNIDIRECTIONAL_SEQUENCE_LSTM",
            inputs,
            output,
            "UnidirectionalSequenceLSTMOptions",
            FusedActivationFunction=_TANH,
            CellClip=op.cell_clip_q * 2.0**op.cell_shift,
        )

    def _dense(self, op: IntDense, following: Sequence[IntOp]) -> None:
        layer, behind = self._next(Dense)
        assert isinstance(layer, Dense)
        w, x = self.writer, self.current
        scales = np.broadcast_to(np.array(op.W_scale), len(op.b))
        self._same(op.W, scales[:, None], layer.W)
        weights = w.constant(f"{op.name}/W", op.W, op.W_scale)
        bias = self._bias(f"{op.name}/b", layer.b, self.scale * np.array(op.W_scale))
        rows = np.abs(op.W * scales[:, None]).sum(1) * self.limit + np.abs(layer.b)
        largest = float(rows.max()) * (1 + 2.0**-12)  # with room for the rescaling's own rounding
        output = self._advance_ranged(op.output, largest, _power_of_two_inputs(following))
        w.operator(
            "FULLY_CONNECTED",
            (x, weights, bias),
            output,
            "FullyConnectedOptions",
            FusedActivationFunction=_RELU if _has_relu(op, layer, behind, following) else _NONE,
            KeepNumDims=True,
            QuantizedBiasType=_INT64,
        )

    def _advance_ranged(self, tensor: QuantizedTensor, largest: float, powers: Sequence[int]) -> int:
        calibrated = _range(tensor)
        scale = _avoid_powers(_scale(min(HEADROOM * calibrated, largest) or calibrated), powers)
        return self._advance(tensor.name, tensor.shape, scale, min(largest, 32768 * scale))

    def _activation(self, op: IntActivation) -> None:
        x = self.current
        if op.kind == "relu":
            self.writer.operator("RELU", (x,), self._advance_ranged(op.output, self.limit, ()))
            return
        output = self._advance(op.name, op.output.shape, UNIT_SCALE, 1.0)
        if op.kind == "softmax":
            self.writer.operator("SOFTMAX", (x,), output, "SoftmaxOptions", Beta=op.beta)
        else:
            self.writer.operator(_KINDS[op.kind], (x,), output)

    def _last_step(self, op: IntLastStep) -> None:
        bounds = [
            self.writer.constant(f"{op.name}/{what}", np.array(values, np.int32))
            for what, values in (("begin", (0, -1, 0)), ("end", (0, 0, 0)), ("strides", (1, 1, 1)))
        ]
        x = self.current
        output = self._advance(op.name, op.output.shape, self.scale, self.limit)
        self.writer.operator(
            "STRIDED_SLICE",
            (x, *bounds),
            output,
            "StridedSliceOptions",
            BeginMask=0b101,
            EndMask=0b111,
            ShrinkAxisMask=0b010,
        )

    def _reshape(self, op: IntReshape) -> None:
        shape = self.writer.constant(f"{op.name}/shape", np.array((1, *op.output.shape), np.int32))
        x = self.current
        self.writer.operator("RESHAPE", (x, shape), self._advance(op.name, op.output.shape, self.scale, self.limit))


def _range(tensor: QuantizedTensor) -> float:
    """The largest magnitude an int8 tensor can hold."""
    return tensor.scale * max(tensor.q_max - tensor.zero_point, tensor.zero_point - tensor.q_min)


def _scale(largest: float) -> float:
    return float(np.float32(largest / 32767))


def _power_of_two_inputs(following: Sequence[IntOp]) -> tuple[int, ...]:
    """The powers of two near which the next operator takes its input scale for that power (`table_multiplier`)."""
    next_op = next((op for op in following if not isinstance(op, IntReshape)), None)
    kind = next_op.kind if isinstance(next_op, IntActivation) else ""
    return {"sigmoid": (-12,), "tanh": (-12, -11)}.get(kind, ())


def _avoid_powers(scale: float, powers: Sequence[int]) -> float:
    """`scale`, raised where LOGISTIC or TANH would round it to a power of two: up to 0.3 % more range."""
    for power in powers:
        if abs(math.log2(scale) - power) < 0.002:
            return float(np.float32(2.0 ** (power + 0.002)))
    return scale


def _has_relu(op: IntDense, layer: Dense, behind: Sequence[Layer], following: Sequence[IntOp]) -> bool:
    """Whether the operator clips at 0. In an int8 file with zero point -128 only the float model tells."""
    if op.act_min > op.output.q_min:
        return True
    next_layer = next((v for v in behind if not isinstance(v, Reshape)), None)
    next_op = next((v for v in following if not isinstance(v, IntReshape)), None)
    asked = layer.activation == "relu" or (isinstance(next_layer, Activation) and next_layer.kind == "relu")
    separate = isinstance(next_op, IntActivation) and next_op.kind == "relu"
    return asked and not separate and op.act_min == op.output.zero_point
