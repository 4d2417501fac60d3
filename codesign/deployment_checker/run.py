"""hil.json against exact simulation: every device output, error, bound, class, trace and stream, and every count."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from codesign.checker.forms import Array, Flags
from codesign.checker.result import demand, same
from codesign.network import FloatNetwork, evaluate, evaluate_layers
from codesign.network.model import Float32Array, Lstm
from codesign.proof.statement import region_box
from codesign.quantization import Calibration, IntegerNetwork
from codesign.quantization.integer import IntLstm
from codesign.samples import Samples
from codesign.semantics import dequantize, quantize, quantize_input, simulate_trace
from codesign.semantics.streams import float_stream, integer_stream

NEAR = 1e-9  # what float64 evaluations on two machines may be apart, relatively


def check_run(
    hil: dict[str, Any], document: dict[str, Any], network: FloatNetwork, device: IntegerNetwork, samples: Samples,
    build: dict[str, Any],
) -> None:  # fmt: skip
    """Invalid, naming the item, where hil.json is not what a run of these samples gives. `document`: the certificate,
    which was checked; `device`: the model under the firmware's semantics; `build`: of the ELF."""
    target, unit = hil["target"], hil["counter"]["unit"]
    for key in ("board", "build_id", "model_sha256"):
        same(f"hil.json: target/{key}", target[key], build[key])
    told = (target["description"].startswith("EMULATED"), target["port"].startswith("/dev/pts/"))
    same("hil.json: target/emulated, against its description and port", told, (target["emulated"],) * 2)
    demand(not (target["emulated"] and unit == "cycles"), "hil.json: counter/unit: an emulator counts no cycles")
    if hil["stack"] is not None:
        same("hil.json: stack/size_bytes", hil["stack"]["size_bytes"], build["stack_size"])
    entries, x = hil["samples"], samples.sent
    q = quantize_input(device, x)
    traced = simulate_trace(device, q).outputs
    reference, real = traced[-1].reshape(len(x), -1), evaluate(network, x).reshape(len(x), -1)
    holding = _holding(document, network, device, samples)
    demand(len(entries) <= len(x), f"hil.json: {len(entries)} samples, but {len(x)} were sent")
    for k, entry in enumerate(entries):
        _check_sample(entry, k, reference[k], real[k], holding[k], device, samples)
    for trace in hil["traces"]:
        _check_trace(trace, [layer[trace["sample"] : trace["sample"] + 1] for layer in traced], network, device, x)
    same("hil.json: streams", len(hil["streams"]), len(samples.streams))
    for number, (record, stream) in enumerate(zip(hil["streams"], samples.streams, strict=True)):
        _check_stream(record, number, stream, document, network, device)
    _check_counts(hil, len(x))
    wrong = [e for e in entries if not e["bit_exact"] or e["within_bound"] is False] or len(entries) < len(x)
    demand(not (wrong and hil["verdict"] == "PASS"), "hil.json: verdict: PASS, but its own entries say otherwise")
    same("hil.json: verdict, given its failures", hil["verdict"], "FAIL" if hil["failures"] else "PASS")


def _check_sample(
    entry: dict[str, Any], k: int, reference: Any, real: Array, holds: tuple[Array | None, str | None],
    device: IntegerNetwork, samples: Samples,
) -> None:  # fmt: skip
    name, output = f"hil.json: sample {k}", device.output
    same(f"{name}: index", entry["index"], k)
    same(f"{name}: label", entry["label"], _label(samples, device, k))
    value, stated = np.array(entry["device"], np.float64), np.array(entry["float"], np.float64)
    demand(value.shape == stated.shape == real.shape, f"{name}: has to have {len(real)} outputs")
    integer = np.rint(value / output.scale) + output.zero_point
    possible = (dequantize(output, integer) == value) & (output.q_min <= integer) & (integer <= output.q_max)
    demand(bool(possible.all()), f"{name}: device: no output of the model")
    exact = bool((integer == reference).all())
    demand(
        exact or not entry["bit_exact"], f"{name}: device: {entry['device']}, but the exact simulation gives another"
    )
    same(f"{name}: bit_exact", entry["bit_exact"], exact)
    demand(_near(stated, real), f"{name}: float: not what the float model gives")
    error = np.abs(value - stated)
    same(f"{name}: max_error", entry["max_error"], float(error.max()))
    bound, status = holds
    same(f"{name}: bound", entry["bound"], None if bound is None else bound.tolist())
    same(f"{name}: within_bound", entry["within_bound"], None if bound is None else bool((error <= bound).all()))
    top1, classes = None, output.shape[-1]
    if classes > 1:
        first, second = (v.reshape(-1, classes).argmax(1).tolist() for v in (value, stated))
        top1 = {"device": first, "float": second, "equal": first == second, "certified": status}
    same(f"{name}: top1", entry["top1"], top1)


def _near(stated: Array, found: Array) -> bool:
    return stated.shape == found.shape and bool((np.abs(stated - found) <= NEAR * (1 + np.abs(found))).all())


def _on_grid(device: IntegerNetwork, x: Float32Array) -> Float32Array:
    return dequantize(device.input, quantize(device.input, x)).astype(np.float32)


def _is_sample(samples: Samples, device: IntegerNetwork, k: int) -> bool:
    """Whether the input k is sample k of the data, as it is or on the quantisation grid."""
    x = samples.data.x
    if k >= len(x):
        return False
    return any(np.array_equal(samples.sent[k], own) for own in (x[k], _on_grid(device, x[k])))


def _label(samples: Samples, device: IntegerNetwork, k: int) -> int | None:
    y = samples.data.y
    return int(y[k]) if y is not None and y.ndim == 1 and _is_sample(samples, device, k) else None


def sent_data(samples: Samples, device: IntegerNetwork) -> Calibration:
    """What was sent, with the values that outputs aim at where the data has them, NaN for inputs that were drawn."""
    values = samples.data.values
    if values is not None:
        rows = [values[k] if _is_sample(samples, device, k) else values[0] * np.nan for k in range(len(samples.sent))]
        values = np.stack(rows)
    return Calibration(samples.sent, None, values)


def _holding(
    document: dict[str, Any], network: FloatNetwork, device: IntegerNetwork, samples: Samples
) -> list[tuple[Array | None, str | None]]:
    """For each input sent: the least bound that the certificate states for it, and the word on its class.

    A region holds for the sample that it is around, where that was sent; a whole domain for all inputs inside.
    """
    x, tensor = samples.sent, document["input_quantization"]
    bounds: list[Array | None] = [None] * len(x)
    words: list[str | None] = [None] * len(x)

    def note(k: int, bound: Array | None, word: str | None) -> None:
        known = [b for b in (bounds[k], bound) if b is not None]
        bounds[k] = np.minimum.reduce(known) if known else None
        words[k] = "proved" if "proved" in (words[k], word) else word or words[k]

    inside: Flags = np.zeros(len(x), bool)
    for region in document["regions"]:
        lo, hi = region_box(region, document["domain"], network.input_shape, tensor)
        held = ((lo <= x) & (x <= hi)).all((1, 2))
        if region["kind"] == "domain":
            inside = held
        elif region["kind"] == "grid":
            at = dequantize(device.input, quantize_input(device, x))
            held = (at.astype(np.float32) == x).all((1, 2)) & ((lo <= at) & (at <= hi)).all((1, 2))
        chosen = np.flatnonzero(held) if region["kind"] == "domain" else [region["sample"]]
        for k in chosen:
            if (
                k is not None
                and k < len(x)
                and held[k]
                and (region["kind"] == "domain" or _is_sample(samples, device, k))
            ):
                note(int(k), np.array(region["total_bound"]), region["top1"])
    margin = (document.get("all_inputs") or {}).get("same_class_margin")
    classes = device.output.shape[-1]
    if margin is not None and classes > 1:
        logits = np.sort(evaluate(network, x, logits=True).reshape(len(x), -1, classes), axis=2)
        for k in np.flatnonzero(inside & (logits[..., -1] - logits[..., -2] > margin).all(1)):
            note(int(k), None, "proved")
    return list(zip(bounds, words, strict=True))


def _check_trace(
    trace: dict[str, Any], traced: Sequence[Any], network: FloatNetwork, device: IntegerNetwork, x: Float32Array
) -> None:
    k = trace["sample"]
    name = f"hil.json: trace of sample {k}"
    demand(k < len(x), f"{name}: there is no such sample")
    hidden = zip(network.layers, evaluate_layers(network, x[k : k + 1]), strict=True)
    real = [values[0] for layer, values in hidden if isinstance(layer, Lstm)]
    exact = [(op, out[0]) for op, out in zip(device.ops, traced, strict=True) if isinstance(op, IntLstm)]
    same(f"{name}: layers", [layer["name"] for layer in trace["layers"]], [op.name for op, _ in exact])
    for layer, (op, integer), floats in zip(trace["layers"], exact, real, strict=True):
        errors = np.abs(dequantize(op.output, integer).reshape(floats.shape) - floats).max(-1)
        good = _near(np.array(layer["max_error"]), errors)
        demand(good, f"{name}: max_error of '{op.name}': not that of the exact simulation")


def _check_stream(
    record: dict[str, Any], number: int, x: Float32Array, document: dict[str, Any], network: FloatNetwork,
    device: IntegerNetwork,
) -> None:  # fmt: skip
    name = f"hil.json: stream {number}"
    digest, steps = hashlib.sha256(np.ascontiguousarray(x, "<f4").tobytes()).hexdigest(), len(x)
    for key, found in (("number", number), ("steps", steps), ("inputs_sha256", digest)):
        same(f"{name}: {key}", record[key], found)
    low, high = (np.asarray(document["domain"][end]) for end in ("lo", "hi"))
    demand(bool(((low <= x) & (x <= high)).all()), f"{name}: its inputs leave the certificate's domain")
    if record["bit_exact"] != steps:
        return  # what the device answered is not kept; the sign-off fails for it
    value = dequantize(device.output, integer_stream(device, quantize(device.input, x[None]))[0])
    error, logits = np.abs(value - float_stream(network, x[None])[0]), float_stream(network, x[None], logits=True)[0]
    demand(_near(np.array(record["max_error"]), error.max(0)), f"{name}: max_error: not that of the exact simulation")
    bound, margin = document["regions"][0]["total_bound"], document["all_inputs"]["same_class_margin"]
    same(f"{name}: first_wrong", record["first_wrong"], None)
    same(f"{name}: bound", record["bound"], bound)
    same(f"{name}: within_bound", record["within_bound"], int((error <= np.array(bound)).all(1).sum()))
    certified = equal = None
    if margin is not None and value.shape[1] > 1:
        ordered = np.sort(logits, axis=1)
        sure = ordered[:, -1] - ordered[:, -2] > margin
        certified, equal = int(sure.sum()), int((sure & (value.argmax(1) == logits.argmax(1))).sum())
    same(f"{name}: class_certified", record["class_certified"], certified)
    same(f"{name}: class_equal", record["class_equal"], equal)


def _check_counts(hil: dict[str, Any], sent: int) -> None:
    entries, summary, counter = hil["samples"], hil["summary"], hil["counter"]
    proved = [e["top1"] for e in entries if e["top1"] and e["top1"]["certified"] == "proved"]
    found = {
        "requested": sent,
        "samples": len(entries),
        "bit_exact": sum(e["bit_exact"] for e in entries),
        "with_bound": sum(e["bound"] is not None for e in entries),
        "within_bound": sum(e["within_bound"] is True for e in entries),
        "top1_proved": len(proved),
        "top1_as_certified": sum(t["equal"] for t in proved),
        "max_error": max((e["max_error"] for e in entries), default=None),
        "stream_steps": sum(s["steps"] for s in hil["streams"]),
    }
    for key, value in found.items():
        same(f"hil.json: summary/{key}", summary[key], value)
    checked = summary["quantize_equal"] <= summary["quantize_checked"] <= sent
    demand(checked, "hil.json: summary/quantize_equal: more than were checked, or sent")
    counts = [e["count"] for e in entries if e["count"] is not None]
    same("hil.json: counter/unit, given its counts", counter["unit"] == "none", not counts and bool(entries))
    shares = (min(counts), statistics.median(counts), max(counts)) if counts else (None,) * 3
    for key, value in zip(("min", "median", "max"), shares, strict=True):
        same(f"hil.json: counter/{key}", counter[key], value)
