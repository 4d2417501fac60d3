"""What was observed on the samples that were run: classes, errors per output and per time step, work per inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codesign.network import decisions
from codesign.signoff.evidence import is_kind
from codesign.signoff.metrics import ErrorMetrics, accuracy, confusion_matrix, error_metrics

if TYPE_CHECKING:
    from codesign.network import FloatNetwork
    from codesign.quantization import Calibration, IntegerNetwork

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Classified:
    """One model's classes (N,) on the samples; accuracy and confusion matrix over those that have labels.

    Of one output the classes are 0 and 1: whether it is at least 0.5.
    """

    name: str
    classes: IntArray
    accuracy: float | None
    confusion: IntArray | None


@dataclass(frozen=True, eq=False)
class StepErrors:
    """Of one LSTM: largest and mean over samples of max_k |int h_t[k] - float h_t[k]|, each (T,).

    `device` is the same maximum on the device's own traced hidden states; `bound` what the certificate states.
    """

    layer: str
    largest: Float64Array
    mean: Float64Array
    samples: int
    device: Float64Array | None
    bound: Float64Array | None


@dataclass(frozen=True, eq=False)
class Work:
    """Multiply-accumulates of one inference, in all and by layer (name, kind, macs, constant bytes in flash)."""

    macs: int
    layers: tuple[tuple[str, str, int, int], ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Observations over the N samples run; O outputs (flattened). Empty where nothing was run.

    `device`, `real`: (N, O). `bound`: (N, O), NaN where none is certified. `models`: float, integer and device, where
    every sample has one class. `per_step`: only where the networks and the inputs are known. `against_values`: for each
    model, its errors against the real values that the outputs aim at, over the samples that have such.
    """

    device: Float64Array
    real: Float64Array
    bound: Float64Array
    metrics: ErrorMetrics | None
    models: tuple[Classified, ...]
    per_step: tuple[StepErrors, ...]
    work: Work | None
    against_values: Mapping[str, ErrorMetrics] = field(default_factory=dict)

    @property
    def error(self) -> Float64Array:
        result: Float64Array = np.abs(self.device - self.real)
        return result

    def to_json(self) -> dict[str, Any]:
        """For signoff.json."""
        result: dict[str, Any] = {
            "accuracy": {m.name: m.accuracy for m in self.models if m.accuracy is not None},
            "device_against_float": self.metrics.to_json() if self.metrics else None,
        }
        if self.against_values:
            result["against_values"] = {name: found.to_json() for name, found in self.against_values.items()}
        if len(self.models) > 1 and self.device.shape[1] > 1:
            by_name = {m.name: m.classes for m in self.models}
            result["top1_agreement"] = float(np.mean(by_name["device"] == by_name["float"]))
        return result


def compare(
    certificate: Mapping[str, Any] | None,
    hil: Mapping[str, Any] | None,
    float_network: FloatNetwork | None = None,
    integer_network: IntegerNetwork | None = None,
    data: Calibration | None = None,
) -> Comparison:
    """Gather the observations. `data.x[k]` is the input of the sample whose index is k; `data.values` (N, O) what its
    outputs aim at, NaN where that is not known."""
    samples = _usable((hil or {}).get("samples"))
    outputs = len(samples[0]["device"]) if samples else 0
    empty = np.zeros((0, outputs))
    device = np.array([s["device"] for s in samples], np.float64) if samples else empty
    real = np.array([s["float"] for s in samples], np.float64) if samples else empty
    none = [np.nan] * outputs
    bound = np.array([s.get("bound") or none for s in samples], np.float64) if samples else empty
    indices = [int(s["index"]) for s in samples]
    known = float_network is not None and integer_network is not None and data is not None
    inputs = data.x[indices] if known and data is not None and all(k < len(data.x) for k in indices) else None
    integer = None
    if integer_network is not None and inputs is not None and len(inputs):
        from codesign.semantics import dequantize, quantize_input, simulate

        simulated = simulate(integer_network, quantize_input(integer_network, inputs)).reshape(len(inputs), -1)
        integer = dequantize(integer_network.output, simulated)
    values = None if integer is None or data is None or data.values is None else data.values[indices]
    return Comparison(
        device,
        real,
        bound,
        error_metrics(device, real) if samples else None,
        _classes(samples, integer),
        _per_step(certificate, hil, float_network, integer_network, inputs),
        _work(integer_network),
        _against_values({"float": real, "integer": integer, "device": device}, values),
    )


def _against_values(models: Mapping[str, Float64Array | None], values: Float64Array | None) -> dict[str, ErrorMetrics]:
    """Each model's errors over the samples whose values are known."""
    if values is None:
        return {}
    known = np.isfinite(values).all(1)
    found = {name: v for name, v in models.items() if v is not None and v.shape == values.shape and known.any()}
    return {name: error_metrics(v[known], values[known]) for name, v in found.items()}


def _usable(samples: object) -> list[Mapping[str, Any]]:
    """The samples that have outputs of one length; the verdict has already failed for others."""
    entries = [s for s in samples if isinstance(s, Mapping)] if isinstance(samples, list) else []
    kept: list[Mapping[str, Any]] = []
    for entry in entries:
        device, real, bound = entry.get("device"), entry.get("float"), entry.get("bound")
        if not (is_kind(device, "numbers") and is_kind(real, "numbers") and is_kind(entry.get("index"), "count")):
            continue
        length = len(kept[0]["device"] if kept else device or ())
        lists = [device, real] if bound is None else [device, real, bound]
        if length and all(is_kind(v, "numbers") and len(v) == length for v in lists if v is not None):
            kept.append(entry)
    return kept


def _classes(samples: Sequence[Mapping[str, Any]], integer: Float64Array | None) -> tuple[Classified, ...]:
    """`integer` (N, O): outputs of the exact simulation, where they are known."""
    found = _decided(samples)
    if not found:
        return ()
    if integer is not None:
        found["integer"] = decisions(integer).tolist()
    elif all(s.get("bit_exact") is True for s in samples):
        found["integer"] = found["device"]
    labelled = [
        k for k, s in enumerate(samples) if s.get("label") is not None
    ]  # inputs drawn from the domain have none
    y = np.array([samples[k]["label"] for k in labelled], np.int64) if labelled else None
    count = max(len(samples[0]["device"]), 2, 1 + max(max(c) for c in found.values()))
    result = []
    for name in ("float", "integer", "device"):
        if name not in found:
            continue
        c = np.array(found[name], np.int64)
        fits = y is not None and y.min() >= 0 and y.max() < count
        result.append(
            Classified(
                name,
                c,
                None if y is None else accuracy(y, c[labelled]),
                confusion_matrix(y, c[labelled], count) if fits and y is not None else None,
            )
        )
    return tuple(result)


def _decided(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Classes by model; of one output only where there are labels, that is where it tells 0 from 1."""
    told = [s.get("top1") for s in samples]
    if told and all(_single(t) for t in told):
        return {name: [int(t[name][0]) for t in told if t is not None] for name in ("float", "device")}
    binary = bool(samples) and len(samples[0]["device"]) == 1 and any(s.get("label") is not None for s in samples)
    return {name: decisions([s[name] for s in samples]).tolist() for name in ("float", "device")} if binary else {}


def _single(top1: object) -> bool:
    """Whether an entry names one class for each side."""
    if not isinstance(top1, Mapping):
        return False
    lists = (top1.get("device"), top1.get("float"))
    return all(isinstance(v, list) and len(v) == 1 and is_kind(v[0], "count") for v in lists)


def _per_step(
    certificate: Mapping[str, Any] | None,
    hil: Mapping[str, Any] | None,
    float_network: FloatNetwork | None,
    network: IntegerNetwork | None,
    inputs: npt.NDArray[np.float32] | None,
) -> tuple[StepErrors, ...]:
    if float_network is None or network is None or inputs is None or not len(inputs):
        return ()
    from codesign.network import Lstm, evaluate_layers
    from codesign.quantization import IntLstm
    from codesign.semantics import dequantize, quantize_input, simulate_trace

    trace = simulate_trace(network, quantize_input(network, inputs)).outputs
    integer = [
        (op.name, dequantize(op.output, q)) for op, q in zip(network.ops, trace, strict=True) if isinstance(op, IntLstm)
    ]
    real = [
        h
        for layer, h in zip(float_network.layers, evaluate_layers(float_network, inputs), strict=True)
        if isinstance(layer, Lstm)
    ]
    names = [layer.name for layer in float_network.layers if isinstance(layer, Lstm)]
    result = []
    for index, ((_, h), exact) in enumerate(zip(integer, real, strict=True)):
        error = np.abs(h - exact).max(axis=2)
        result.append(
            StepErrors(
                names[index],
                error.max(axis=0),
                error.mean(axis=0),
                len(inputs),
                _traced(hil, index, error.shape[1]),
                _step_bound(certificate, index, len(integer), error.shape[1]),
            )
        )
    return tuple(result)


def _traced(hil: Mapping[str, Any] | None, layer: int, steps: int) -> Float64Array | None:
    rows = []
    for trace in (hil or {}).get("traces") or []:
        layers = trace.get("layers") or []
        if layer < len(layers) and len(layers[layer]["max_error"]) == steps:
            rows.append(layers[layer]["max_error"])
    return np.array(rows, np.float64).max(axis=0) if rows else None


def _step_bound(certificate: Mapping[str, Any] | None, layer: int, layers: int, steps: int) -> Float64Array | None:
    """Largest over regions of a region's 'step_bound': one list of T numbers an LSTM, or one for a single LSTM."""
    rows = []
    for region in (certificate or {}).get("regions") or []:
        told = region.get("step_bound") if isinstance(region, Mapping) else None
        if told is None:
            return None  # a bound that holds on some regions only would mislead
        rows.append(told[layer] if isinstance(told[0], list) else told if layers == 1 else None)
    if not rows or any(row is None or len(row) != steps for row in rows):
        return None
    result: Float64Array = np.array(rows, np.float64).max(axis=0)
    return result


def _work(network: IntegerNetwork | None) -> Work | None:
    if network is None:
        return None
    from codesign.codegen import memory_estimate

    estimate = memory_estimate(network)
    layers = tuple((str(l["name"]), str(l["kind"]), int(l["macs"]), int(l["flash_bytes"])) for l in estimate["layers"])  # noqa: E741
    return Work(int(estimate["macs"]), layers)
