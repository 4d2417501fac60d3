"""Int8 and int16 .tflite models for tests: written from scratch with any scales, or a fixture patched in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np
import tflite

BUILTIN = tflite.BuiltinOperator
OPTIONS = tflite.BuiltinOptions
TYPES = {
    np.dtype("i1"): tflite.TensorType.INT8,
    np.dtype("i2"): tflite.TensorType.INT16,
    np.dtype("i4"): tflite.TensorType.INT32,
    np.dtype("i8"): tflite.TensorType.INT64,
}


def _vector(b: Any, start: Callable[..., Any], values: list[int], prepend: Callable[[int], Any]) -> Any:
    start(b, len(values))
    for v in reversed(values):
        prepend(v)
    return b.EndVector()


class ModelBuilder:
    """Collects tensors and operators, then writes the flatbuffer."""

    def __init__(self) -> None:
        self.tensors: list[dict[str, Any]] = []
        self.ops: list[tuple[int, list[int], list[int], int, Callable[[Any], Any] | None]] = []

    def tensor(self, dims, dtype="i1", scale=(), zero=(), data=None, variable=False) -> int:
        scale = [scale] if np.isscalar(scale) else list(scale)
        zero = [zero] * len(scale) if np.isscalar(zero) else list(zero)
        if data is not None:
            data = np.ascontiguousarray(data)
            dims, dtype = data.shape, data.dtype
        self.tensors.append(
            {
                "dims": list(dims),
                "dtype": np.dtype(dtype),
                "scale": scale,
                "zero": zero,
                "data": data,
                "variable": variable,
            }
        )
        return len(self.tensors) - 1

    def op(self, code, inputs, outputs, options_kind=0, options=None) -> None:
        self.ops.append((code, list(inputs), list(outputs), options_kind, options))

    def write(self, source: int, result: int) -> bytes:
        b = flatbuffers.Builder(1 << 16)
        buffers, tensors = [self._buffer(b, None)], []
        for k, t in enumerate(self.tensors):
            if t["data"] is None:
                number = 0
            else:
                number = len(buffers)
                buffers.append(self._buffer(b, t["data"].tobytes()))
            tensors.append(self._tensor(b, f"t{k}", number, **t))
        codes = sorted({op[0] for op in self.ops})
        code_tables = []
        for code in codes:
            tflite.OperatorCodeStart(b)
            tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, 127))
            tflite.OperatorCodeAddBuiltinCode(b, code)
            tflite.OperatorCodeAddVersion(b, 1)
            code_tables.append(tflite.OperatorCodeEnd(b))
        ops = []
        for code, inputs, outputs, kind, options in self.ops:
            table = options(b) if options else None
            i = _vector(b, tflite.OperatorStartInputsVector, inputs, b.PrependInt32)
            o = _vector(b, tflite.OperatorStartOutputsVector, outputs, b.PrependInt32)
            tflite.OperatorStart(b)
            tflite.OperatorAddOpcodeIndex(b, codes.index(code))
            tflite.OperatorAddInputs(b, i)
            tflite.OperatorAddOutputs(b, o)
            if table is not None:
                tflite.OperatorAddBuiltinOptionsType(b, kind)
                tflite.OperatorAddBuiltinOptions(b, table)
            ops.append(tflite.OperatorEnd(b))
        tv = _vector(b, tflite.SubGraphStartTensorsVector, tensors, b.PrependUOffsetTRelative)
        iv = _vector(b, tflite.SubGraphStartInputsVector, [source], b.PrependInt32)
        rv = _vector(b, tflite.SubGraphStartOutputsVector, [result], b.PrependInt32)
        ov = _vector(b, tflite.SubGraphStartOperatorsVector, ops, b.PrependUOffsetTRelative)
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, tv)
        tflite.SubGraphAddInputs(b, iv)
        tflite.SubGraphAddOutputs(b, rv)
        tflite.SubGraphAddOperators(b, ov)
        graph = tflite.SubGraphEnd(b)
        gv = _vector(b, tflite.ModelStartSubgraphsVector, [graph], b.PrependUOffsetTRelative)
        bv = _vector(b, tflite.ModelStartBuffersVector, buffers, b.PrependUOffsetTRelative)
        cv = _vector(b, tflite.ModelStartOperatorCodesVector, code_tables, b.PrependUOffsetTRelative)
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, 3)
        tflite.ModelAddOperatorCodes(b, cv)
        tflite.ModelAddSubgraphs(b, gv)
        tflite.ModelAddBuffers(b, bv)
        b.Finish(tflite.ModelEnd(b), file_identifier=b"TFL3")
        return bytes(b.Output())

    @staticmethod
    def _buffer(b, data: bytes | None):
        vector = None
        if data is not None:
            b.StartVector(1, len(data), 16)
            b.head -= len(data)
            b.Bytes[b.head : b.head + len(data)] = data
            vector = b.EndVector()
        tflite.BufferStart(b)
        if vector is not None:
            tflite.BufferAddData(b, vector)
        return tflite.BufferEnd(b)

    @staticmethod
    def _tensor(b, name, number, dims, dtype, scale, zero, data, variable):
        text = b.CreateString(name)
        shape = _vector(b, tflite.TensorStartShapeVector, dims, b.PrependInt32)
        quantization = None
        if scale:
            s = _vector(b, tflite.QuantizationParametersStartScaleVector, scale, b.PrependFloat32)
            z = _vector(b, tflite.QuantizationParametersStartZeroPointVector, zero, b.PrependInt64)
            tflite.QuantizationParametersStart(b)
            tflite.QuantizationParametersAddScale(b, s)
            tflite.QuantizationParametersAddZeroPoint(b, z)
            quantization = tflite.QuantizationParametersEnd(b)
        tflite.TensorStart(b)
        tflite.TensorAddShape(b, shape)
        tflite.TensorAddType(b, TYPES[dtype])
        tflite.TensorAddBuffer(b, number)
        tflite.TensorAddName(b, text)
        if quantization is not None:
            tflite.TensorAddQuantization(b, quantization)
        if variable:
            tflite.TensorAddIsVariable(b, True)
        return tflite.TensorEnd(b)


class Chain:
    """A model built operator by operator; `current` is the tensor that flows along."""

    def __init__(self, shape=(4, 3), scale=0.01, zero=0, dtype="i1") -> None:
        """`dtype` "i2": int16 activations and int64 biases; every zero point given is then taken as 0."""
        self.b = ModelBuilder()
        self.dtype, self.bias_dtype = dtype, "i4" if dtype == "i1" else "i8"
        zero = zero if dtype == "i1" else 0
        self.dims, self.scale, self.zero = (1, *shape), scale, zero
        self.source = self.current = self.b.tensor(self.dims, dtype, scale=scale, zero=zero)

    def _advance(self, dims, scale, zero) -> int:
        zero = zero if self.dtype == "i1" else 0
        self.current = self.b.tensor(dims, self.dtype, scale=scale, zero=zero)
        self.dims, self.scale, self.zero = tuple(dims), scale, zero
        return self.current

    def lstm(
        self,
        W,
        R,
        bias,
        W_scale,
        R_scale,
        scale,
        zero,
        cell_scale=2.0**-12,
        clip=0.0,
        fused=4,
        time_major=False,
        peephole=None,
        projection=None,
        norm=None,
        cell_state_scale=None,
    ) -> Chain:
        """W (4, H, D), R (4, H, H), bias (4, H), scales (4,)."""
        b, x, before = self.b, self.current, self.scale
        H = W.shape[1]
        w = [b.tensor(None, data=W[g], scale=W_scale[g], zero=0) for g in range(4)]
        r = [b.tensor(None, data=R[g], scale=R_scale[g], zero=0) for g in range(4)]
        c = [b.tensor(None, data=bias[g].astype(self.bias_dtype), scale=before * W_scale[g], zero=0) for g in range(4)]
        hidden = b.tensor((1, H), self.dtype, scale, zero if self.dtype == "i1" else 0, variable=True)
        cell = b.tensor((1, H), "i2", scale=cell_scale, zero=0, variable=True)
        extra = lambda given: -1 if given is None else b.tensor(None, data=given, scale=0.01, zero=0)  # noqa: E731
        inputs = [
            x,
            *w,
            *r,
            extra(peephole),
            -1,
            -1,
            *c,
            extra(projection),
            -1,
            hidden,
            cell,
            extra(norm),
            -1,
            -1,
            -1,
        ]

        def options(fb):
            tflite.UnidirectionalSequenceLSTMOptionsStart(fb)
            tflite.UnidirectionalSequenceLSTMOptionsAddFusedActivationFunction(fb, fused)
            tflite.UnidirectionalSequenceLSTMOptionsAddCellClip(fb, clip)
            tflite.UnidirectionalSequenceLSTMOptionsAddTimeMajor(fb, time_major)
            return tflite.UnidirectionalSequenceLSTMOptionsEnd(fb)

        out = self._advance((1, self.dims[1], H), scale, zero)
        b.op(BUILTIN.UNIDIRECTIONAL_SEQUENCE_LSTM, inputs, [out], OPTIONS.UnidirectionalSequenceLSTMOptions, options)
        return self

    def dense(self, W, bias, W_scale, scale, zero, fused=0, keep=False, bias_scale=None, W_zero=0) -> Chain:
        """W (M, N); bias (M,) or None; W_scale a number or (M,)."""
        b, x, before, dims = self.b, self.current, self.scale, self.dims
        w = b.tensor(None, data=W, scale=W_scale, zero=W_zero)
        inputs = [x, w]
        if bias is not None:
            bias_scale = before * np.asarray(W_scale) if bias_scale is None else bias_scale
            bias_scale = float(bias_scale) if np.ndim(bias_scale) == 0 else list(bias_scale)
            inputs.append(b.tensor(None, data=bias.astype(self.bias_dtype), scale=bias_scale, zero=0))
        else:
            inputs.append(-1)

        def options(fb):
            tflite.FullyConnectedOptionsStart(fb)
            tflite.FullyConnectedOptionsAddFusedActivationFunction(fb, fused)
            tflite.FullyConnectedOptionsAddKeepNumDims(fb, keep)
            return tflite.FullyConnectedOptionsEnd(fb)

        rows = int(np.prod(dims)) // W.shape[1]
        out = self._advance((*dims[:-1], W.shape[0]) if keep else (rows, W.shape[0]), scale, zero)
        b.op(BUILTIN.FULLY_CONNECTED, inputs, [out], OPTIONS.FullyConnectedOptions, options)
        return self

    def unary(self, code, scale, zero) -> Chain:
        x = self.current
        self.b.op(code, [x], [self._advance(self.dims, scale, zero)])
        return self

    def relu(self, scale, zero) -> Chain:
        return self.unary(BUILTIN.RELU, scale, zero)

    def logistic(self) -> Chain:
        return self.unary(BUILTIN.LOGISTIC, 1 / 256 if self.dtype == "i1" else 2.0**-15, -128)

    def tanh(self) -> Chain:
        return self.unary(BUILTIN.TANH, 1 / 128 if self.dtype == "i1" else 2.0**-15, 0)

    def softmax(self, beta=1.0) -> Chain:
        def options(fb):
            tflite.SoftmaxOptionsStart(fb)
            tflite.SoftmaxOptionsAddBeta(fb, beta)
            return tflite.SoftmaxOptionsEnd(fb)

        x = self.current
        out = self._advance(self.dims, 1 / 256 if self.dtype == "i1" else 2.0**-15, -128)
        self.b.op(BUILTIN.SOFTMAX, [x], [out], OPTIONS.SoftmaxOptions, options)
        return self

    def last_step(
        self, begin=(0, -1, 0), end=(0, 0, 0), begin_mask=5, end_mask=7, shrink=2, strides=(1, 1, 1)
    ) -> Chain:
        x = self.current
        bounds = [self.b.tensor(None, data=np.array(v, "i4")) for v in (begin, end, strides)]

        def options(fb):
            tflite.StridedSliceOptionsStart(fb)
            tflite.StridedSliceOptionsAddBeginMask(fb, begin_mask)
            tflite.StridedSliceOptionsAddEndMask(fb, end_mask)
            tflite.StridedSliceOptionsAddShrinkAxisMask(fb, shrink)
            return tflite.StridedSliceOptionsEnd(fb)

        out = self._advance((1, self.dims[2]), self.scale, self.zero)
        self.b.op(BUILTIN.STRIDED_SLICE, [x, *bounds], [out], OPTIONS.StridedSliceOptions, options)
        return self

    def reshape(self, *dims) -> Chain:
        x = self.current
        shape = self.b.tensor(None, data=np.array(dims, "i4"))
        self.b.op(BUILTIN.RESHAPE, [x, shape], [self._advance(dims, self.scale, self.zero)])
        return self

    def write(self) -> bytes:
        return self.b.write(self.source, self.current)


def random_int8(rng, shape, wide=True):
    if wide:
        return rng.integers(-128, 128, shape).astype("i1")
    return np.clip(np.round(rng.normal(0, 40, shape)), -127, 127).astype("i1")


def random_lstm(
    chain: Chain, rng, units: int, clip: float = 0.0, gain: float = 1.0, cell_shift: int | None = None
) -> Chain:
    """An LSTM of random weights; `gain` scales pre-activations (over about 5: gates saturate)."""
    features = chain.dims[2]
    scale, zero = float(np.float32(rng.uniform(0.002, 0.008))), int(rng.integers(-128, 128))
    scale = scale if chain.dtype == "i1" else scale / 256
    W_scale = [float(np.float32(gain * 2.0 ** rng.uniform(-9, -6))) for _ in range(4)]
    R_scale = [float(np.float32(gain * 2.0 ** rng.uniform(-9, -6))) for _ in range(4)]
    bias = np.stack([rng.integers(-2, 3) * rng.normal(0, 0.4, units) / (chain.scale * s) for s in W_scale])
    return chain.lstm(
        random_int8(rng, (4, units, features), rng.random() < 0.5),
        random_int8(rng, (4, units, units), rng.random() < 0.5),
        np.round(bias).astype("i8"),
        W_scale,
        R_scale,
        scale,
        zero,
        2.0 ** (cell_shift if cell_shift is not None else int(rng.integers(-15, -8))),
        clip,
    )


def random_dense(chain: Chain, rng, outputs: int, per_channel: bool, bias: bool = True, fused=0, keep=False) -> Chain:
    W = random_int8(rng, (outputs, chain.dims[-1]))
    s = np.float32(2.0 ** rng.uniform(-9, -5, outputs if per_channel else 1)).astype(float)
    steps = 128 if chain.dtype == "i1" else 32768
    real = steps * W.shape[1] ** 0.5 * 60 * chain.scale * float(s.max())
    b = rng.integers(-24 * steps, 24 * steps, outputs) if bias else None
    W_scale = s.tolist() if per_channel else float(s[0])
    scale = float(np.float32(real / steps * rng.uniform(0.3, 1.5)))
    return chain.dense(W, b, W_scale, scale, int(rng.integers(-128, 128)), fused, keep)


def patch_fixture(content: bytes, rng: np.random.Generator) -> bytes:
    """A fixture with new weight bytes, weight scales and cell scales, written over the old ones in place.

    int16: input and FULLY_CONNECTED output scales too.
    """
    data = bytearray(content)
    model = tflite.Model.GetRootAsModel(data, 0)
    graph = model.Subgraphs(0)
    cells, free = set(), {graph.Inputs(0)}
    for k in range(graph.OperatorsLength()):
        op = graph.Operators(k)
        kind = model.OperatorCodes(op.OpcodeIndex()).BuiltinCode()
        if kind == BUILTIN.UNIDIRECTIONAL_SEQUENCE_LSTM:
            cells.add(op.Inputs(19))
        elif kind == BUILTIN.FULLY_CONNECTED:
            free.add(op.Outputs(0))
        elif kind == BUILTIN.RESHAPE:
            free.discard(op.Inputs(0))  # both sides have one scale
    for k in range(graph.TensorsLength()):
        t = graph.Tensors(k)
        buffer = model.Buffers(t.Buffer())
        scales = t.Quantization().ScaleAsNumpy() if t.Quantization() and t.Quantization().ScaleLength() else None
        if t.Type() == tflite.TensorType.INT8 and buffer.DataLength():
            buffer.DataAsNumpy()[:] = rng.integers(0, 256, buffer.DataLength(), dtype=np.uint8)
            scales *= np.float32(2.0 ** rng.uniform(-2, 3))
        elif k in cells:
            scales[:] = 2.0 ** rng.integers(-17, -11)  # a cell range of +-1/4 to +-8
        elif t.Type() == tflite.TensorType.INT16 and k in free:
            scales *= np.float32(2.0 ** rng.uniform(-3, 1))
    return bytes(data)
