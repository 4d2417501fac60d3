"""Where a device first leaves the exact reference: layer, step and unit, from a trace of its hidden states."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.hil.device import Device
from codesign.hil.protocol import DeviceTrace, UnsupportedError
from codesign.network.model import FloatNetwork, Lstm
from codesign.quantization.integer import ActivationArray, IntegerNetwork, IntLstm

OUTPUT = "output"


def find_divergence(device: Device, network: IntegerNetwork, q: ActivationArray) -> dict[str, Any]:
    """Trace the input (T, D), whose inference went wrong, and name the first difference from the reference.

    The result has 'text' (one sentence), 'layer', 'step', 'unit' (None where they do not apply), 'device' and
    'reference' (integers). DeviceError where the trace itself fails.
    """
    try:
        trace = device.trace(q)
    except UnsupportedError as error:
        return _difference(f"where it begins cannot be told: {error}", None, None, None, None, None)
    difference = _first_difference(network, q, trace)
    if difference is None:
        text = "tracing the same input gave the right output: the device does not repeat itself"
        difference = _difference(text, None, None, None, None, None)
    return difference


def compare_trace(
    network: IntegerNetwork,
    float_network: FloatNetwork,
    x: npt.NDArray[np.float32],
    q: ActivationArray,
    trace: DeviceTrace,
) -> tuple[dict[str, Any], str | None]:
    """A record for hil.json of one traced sample, and what differs from the reference, if anything does.

    The record has 'layers': a LSTM each, with 'name' and 'max_error': the largest |device - float| of the hidden state
    at each step.
    """
    from codesign.network import evaluate_layers
    from codesign.semantics import dequantize

    difference = _first_difference(network, q, trace)
    hidden = evaluate_layers(float_network, x[np.newaxis])
    real = [h[0] for h, layer in zip(hidden, float_network.layers, strict=True) if isinstance(layer, Lstm)]
    layers = []
    for number, (op, floats) in enumerate(zip(_lstms(network), real, strict=True)):
        steps = [s for s in trace.steps if s.layer == number and s.step < len(floats) and len(s.hidden) == op.units]
        errors = [float(np.max(np.abs(dequantize(op.output, s.hidden) - floats[s.step]))) for s in steps]
        layers.append({"name": op.name, "max_error": errors})
    return {"layers": layers}, difference["text"] if difference else None


def _lstms(network: IntegerNetwork) -> list[IntLstm]:
    return [op for op in network.ops if isinstance(op, IntLstm)]


def _first_difference(network: IntegerNetwork, q: ActivationArray, trace: DeviceTrace) -> dict[str, Any] | None:
    """In the device's order of execution."""
    from codesign.semantics import simulate_trace

    reference = simulate_trace(network, q[np.newaxis])
    hidden = [out[0] for out, op in zip(reference.outputs, network.ops, strict=True) if isinstance(op, IntLstm)]
    ops = _lstms(network)
    seen: set[tuple[int, int]] = set()
    for step in trace.steps:
        fits = step.layer < len(ops) and step.step < len(hidden[step.layer])
        if not fits or (step.layer, step.step) in seen or len(step.hidden) != ops[step.layer].units:
            text = (
                f"the device traces layer {step.layer}, step {step.step} with {len(step.hidden)} units: not this model"
            )
            return _difference(text, None, None, None, None, None)
        seen.add((step.layer, step.step))
        expected = hidden[step.layer][step.step]
        wrong = np.flatnonzero(step.hidden != expected)
        if len(wrong):
            unit = int(wrong[0])
            return _named(ops[step.layer].name, step.step, unit, int(step.hidden[unit]), int(expected[unit]))
    if len(seen) != sum(len(h) for h in hidden):
        text = f"the device traced {len(seen)} of {sum(len(h) for h in hidden)} steps"
        return _difference(text, None, None, None, None, None)
    final = reference.outputs[-1][0].reshape(-1)
    if trace.output.shape != final.shape:
        text = f"the device traced {trace.output.size} outputs instead of {final.size}"
        return _difference(text, None, None, None, None, None)
    wrong = np.flatnonzero(trace.output != final)
    if not len(wrong):
        return None
    unit = int(wrong[0])
    return _named(OUTPUT, None, unit, int(trace.output[unit]), int(final[unit]))


def _named(layer: str, step: int | None, unit: int, device: int, reference: int) -> dict[str, Any]:
    if step is None:
        place = f"all hidden states are right, output {unit}"
    else:
        place = f"first at layer {layer}, step {step}, unit {unit}: it"
    text = f"{place} is {device} on the device and {reference} in the reference"
    return _difference(text, layer, step, unit, device, reference)


def _difference(
    text: str, layer: str | None, step: int | None, unit: int | None, device: int | None, reference: int | None
) -> dict[str, Any]:
    return {"text": text, "layer": layer, "step": step, "unit": unit, "device": device, "reference": reference}
