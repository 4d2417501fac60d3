"""Streams: sequences of any length through networks whose head reads the last step, with the output after every step.

For checking certificates for any number of steps: what firmware that never resets computes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.network import evaluate, evaluate_layers
from codesign.network.model import FloatNetwork, Lstm, Reshape
from codesign.quantization.integer import (
    ActivationArray,
    IntegerNetwork,
    IntLastStep,
    IntLstm,
    IntReshape,
    QuantizedTensor,
)
from codesign.semantics.simulation import run_operator

Array = npt.NDArray[np.float64]


def _longer(tensor: QuantizedTensor, steps: int) -> QuantizedTensor:
    return replace(tensor, shape=(steps, *tensor.shape[1:]))


def integer_stream(network: IntegerNetwork, q: ActivationArray) -> ActivationArray:
    """Integer outputs (B, L, M) after each of the L steps of q (B, L, D), from one reset. InputError for other
    heads."""
    batch, steps = q.shape[:2]
    value, sequence = q, True
    for op in network.ops:
        if isinstance(op, IntLstm) and sequence:
            value = run_operator(
                replace(op, input=_longer(op.input, steps), output=_longer(op.output, steps)), value, network
            )
        elif isinstance(op, IntLastStep):
            value, sequence = value.reshape(batch * steps, -1), False
        elif sequence or isinstance(op, (IntLstm, IntReshape)):
            raise InputError("streams need LSTM layers whose last step feeds the head")
        else:
            value = run_operator(op, value, network)
    return value.reshape(batch, steps, -1)


def float_stream(network: FloatNetwork, x: npt.ArrayLike, logits: bool = False) -> Array:
    """Float outputs (B, L, M) after each of the L steps of x (B, L, D), from one reset; `logits`: without a final
    softmax. InputError for other heads."""
    values = np.asarray(x, np.float64)
    batch, steps, features = values.shape
    lstms = [layer for layer in network.layers if isinstance(layer, Lstm)]
    rest = network.layers[len(lstms) :]
    if tuple(network.layers[: len(lstms)]) != tuple(lstms) or any(isinstance(v, Reshape) for v in rest):
        raise InputError("streams need LSTM layers whose last step feeds the head")
    hidden = evaluate_layers(replace(network, input_shape=(steps, features), layers=tuple(lstms)), values)[-1]
    if not rest:
        return hidden
    rows = hidden.reshape(batch * steps, 1, -1)
    out = evaluate(replace(network, input_shape=(1, rows.shape[2]), layers=rest), rows, logits=logits)
    return np.asarray(out).reshape(batch, steps, -1)
