"""Widens the ranges of an int8 .tflite file so that no input of the domain saturates it.

The converter takes ranges from calibration samples. Here every activation's range is joined with what the float network
can reach over the domain (`codesign.training.ranges`), scales and zero points are set anew, and so are the biases that
depend on them; a cell clip below the cell's new range goes; weights stay. The numbers are replaced where they lie in
the file: its structure does not change.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import CodesignError
from codesign.files import write_atomically
from codesign.network import Dense, FloatNetwork, Lstm, load_network
from codesign.quantization import Activations, convert, parse_integer_network, to_int16
from codesign.quantization.convert import check_request
from codesign.training.ranges import Ranges, float_ranges

FloatArray = npt.NDArray[np.float64]


def cover_domain(
    content: bytes, network: FloatNetwork, domain: tuple[FloatArray, FloatArray], steps: int | None
) -> bytes:
    """The int8 file `content`, converted from `network`, with ranges for inputs from `domain` (lo, hi; each (D,)).

    `steps`: the number of time steps, None for any. InputError where the float network has no bounded range,
    CodesignError where the file is not one that the converter makes of `network`.
    """
    patcher = _Patcher(content, network)
    patcher.run(domain, float_ranges(network, domain, steps))
    result = bytes(patcher.buffer)
    parse_integer_network(result, network.name)
    return result


def convert_for_domain(
    model: str | Path,
    output: str | Path,
    calibration: str | Path | None,
    activations: Activations,
    domain: tuple[FloatArray, FloatArray],
    steps: int | None,
) -> Path:
    """Convert as `codesign.quantization.convert` does, with ranges that cover the domain; returns the output's path."""
    network, path = load_network(model), Path(output)
    check_request(Path(model), path, activations)
    with tempfile.TemporaryDirectory(prefix="codesign-") as folder:
        plain = convert(model, Path(folder) / "model.tflite", calibration)
        content = cover_domain(plain.read_bytes(), network, domain, steps)
    if activations == "int16":
        content = to_int16(parse_integer_network(content, network.name), network)
        parse_integer_network(content, network.name)
    write_atomically(path, content)
    return path


class _Patcher:
    def __init__(self, content: bytes, network: FloatNetwork) -> None:
        import tflite

        self.buffer, self.network = bytearray(content), network
        self.model = tflite.Model.GetRootAsModel(self.buffer, 0)
        self.graph = self.model.Subgraphs(0)
        self.written: dict[int, bytes] = {}
        self.names = {v: k for k, v in vars(tflite.BuiltinOperator).items() if isinstance(v, int)}

    def run(self, domain: tuple[FloatArray, FloatArray], ranges: list[Ranges]) -> None:
        weighted = [(v, r) for v, r in zip(self.network.layers, ranges, strict=True) if isinstance(v, (Lstm, Dense))]
        source = self.graph.Inputs(0)
        self.widen(source, float(domain[0].min()), float(domain[1].max()))
        for index in range(self.graph.OperatorsLength()):
            operator = self.graph.Operators(index)
            code = self.model.OperatorCodes(operator.OpcodeIndex())
            kind = self.names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            inputs, output = operator.InputsAsNumpy(), operator.Outputs(0)
            if kind in ("UNIDIRECTIONAL_SEQUENCE_LSTM", "FULLY_CONNECTED"):
                layer, reach = weighted.pop(0)
                if kind == "FULLY_CONNECTED" and isinstance(layer, Dense):
                    self._dense(layer, reach, inputs, output)
                elif kind != "FULLY_CONNECTED" and isinstance(layer, Lstm):
                    self._lstm(layer, reach, inputs, output)
                    self._unclip(operator, inputs[19])
                else:
                    raise self._mismatch()
            elif kind in ("STRIDED_SLICE", "RESHAPE"):
                self.set(output, *self.quantization(inputs[0]))
            elif kind == "RELU":
                scale, zero = self.quantization(inputs[0])
                self.widen(output, 0.0, scale * (127 - zero))

    def _mismatch(self) -> CodesignError:
        return CodesignError(f"the int8 file is not a conversion of {self.network.name}: its layers differ")

    def _lstm(self, layer: Lstm, reach: Ranges, inputs: npt.NDArray[np.int32], output: int) -> None:
        for gate in range(4):
            self.bias(inputs[12 + gate], layer.b[gate], inputs[0], inputs[1 + gate])
        self.widen(inputs[18], reach.lo, reach.hi)
        self.set(output, *self.quantization(inputs[18]))
        scale = max(self.quantization(inputs[19])[0], 2.0**reach.cell_shift)
        self.set(inputs[19], scale, 0)

    def _unclip(self, operator: Any, cell: int) -> None:
        """No cell clip, where it is below the cell's range: the converter's 10 is none of a Keras model's."""
        import tflite
        from flatbuffers.number_types import UOffsetTFlags

        table = operator.BuiltinOptions()
        options = tflite.UnidirectionalSequenceLSTMOptions()
        options.Init(table.Bytes, table.Pos)
        if 0 < options.CellClip() < 32767 * self.quantization(cell)[0]:
            place = table.Pos + UOffsetTFlags.py_type(table.Offset(6))
            struct.pack_into("<f", self.buffer, place, 0.0)

    def _dense(self, layer: Dense, reach: Ranges, inputs: npt.NDArray[np.int32], output: int) -> None:
        if len(inputs) > 2 and inputs[2] >= 0:
            self.bias(inputs[2], layer.b, inputs[0], inputs[1])
        low = 0.0 if layer.activation == "relu" else reach.lo
        self.widen(output, low, max(reach.hi, low))

    def quantization(self, index: int) -> tuple[float, int]:
        q = self.graph.Tensors(int(index)).Quantization()
        return float(q.Scale(0)), int(q.ZeroPoint(0))

    def widen(self, index: int, lo: float, hi: float) -> None:
        """Join the tensor's range with [lo, hi]."""
        scale, zero = self.quantization(index)
        now_lo, now_hi = scale * (-128 - zero), scale * (127 - zero)
        if now_lo <= lo and hi <= now_hi:
            return
        lo, hi = min(lo, now_lo), max(hi, now_hi)
        scale = float(np.float32((hi - lo) / 254.5))  # half a step of room: the zero point is rounded
        self.set(index, scale, int(np.clip(np.rint(-128 - lo / scale), -128, 127)))

    def set(self, index: int, scale: float, zero: int) -> None:
        q = self.graph.Tensors(int(index)).Quantization()
        self.write(q.ScaleAsNumpy(), np.array([scale], np.float32))
        self.write(q.ZeroPointAsNumpy(), np.array([zero], np.int64))

    def bias(self, index: int, values: npt.NDArray[np.float32], x: int, weights: int) -> None:
        w = self.graph.Tensors(int(weights)).Quantization().ScaleAsNumpy().astype(np.float64)
        tensor = self.graph.Tensors(int(index))
        scales = self.quantization(x)[0] * w
        self.write(tensor.Quantization().ScaleAsNumpy(), scales.astype(np.float32))
        data = self.model.Buffers(tensor.Buffer()).DataAsNumpy().view(np.int32)
        self.write(data, np.rint(values.astype(np.float64) / scales).astype(np.int32))

    def write(self, target: Any, values: npt.NDArray[Any]) -> None:
        """Overwrite numbers in the file; two places that share their bytes must want the same."""
        if not isinstance(target, np.ndarray) or target.shape != values.shape or target.dtype != values.dtype:
            raise self._mismatch()
        place, data = int(target.__array_interface__["data"][0]), values.tobytes()
        if self.written.setdefault(place, data) != data:
            raise CodesignError(
                f"the int8 file of {self.network.name} shares constants between tensors; convert it anew"
            )
        target[...] = values
