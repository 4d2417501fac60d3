"""How far the TensorFlow Lite interpreter is from what a TFLM device computes, for one model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.quantization.integer import IntegerNetwork
from codesign.semantics.interpreters import NO_INT16, TfliteInterpreter
from codesign.semantics.simulation import simulate


def compare_interpreters(network: IntegerNetwork, q: npt.ArrayLike) -> dict[str, Any]:
    """TFLite's outputs against the exact TFLM semantics on int8 inputs [B, T, D].

    Gives `inputs` (B), `differing_inputs` and `share` (inputs with any differing output), `max_difference` (output
    steps), `max_real_difference` (times the output scale), `histogram` (absolute difference in steps -> number of
    output values, keys as strings for JSON), `top1_differing_inputs` (inputs for which the first largest output of the
    last axis differs anywhere; None for a single output), `tflite_package` and `profile`.

    MissingToolError without a TFLite interpreter; InputError for inputs of another shape or none at all, and for
    models with int16 activations, which TFLite cannot run.
    """
    if network.activations == "int16":
        raise InputError(NO_INT16)
    exact = simulate(network, q).astype(np.int64)
    if len(exact) == 0:
        raise InputError("No inputs to compare the interpreters on.")
    interpreter = TfliteInterpreter(network.content)
    other = interpreter.run(np.asarray(q)).reshape(exact.shape).astype(np.int64)
    difference = np.abs(other - exact)
    steps, counts = np.unique(difference, return_counts=True)
    rows = difference.reshape(len(exact), -1)
    top1 = None
    if exact.shape[-1] > 1:
        changed = exact.argmax(-1) != other.argmax(-1)
        top1 = int(changed.reshape(len(exact), -1).any(1).sum())
    differing = int(rows.any(1).sum())
    return {
        "inputs": len(exact),
        "differing_inputs": differing,
        "share": differing / len(exact),
        "max_difference": int(difference.max()),
        "max_real_difference": float(difference.max() * network.output.scale),
        "histogram": {str(int(s)): int(c) for s, c in zip(steps, counts, strict=True)},
        "top1_differing_inputs": top1,
        "tflite_package": interpreter.package,
        "profile": network.profile,
    }
