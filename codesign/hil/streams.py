"""The cross-check of streams: one endless sequence through the device, step by step against the reference.

For certificates for any number of steps: the firmware is never reset between the steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.hil.protocol import DeviceError, steps_per_request
from codesign.hil.session import Session
from codesign.network.model import Float32Array, FloatNetwork
from codesign.quantization.integer import ActivationArray, IntegerNetwork
from codesign.soundness import require_never, require_within

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Stream:
    """Inputs x, float32 (steps, D), from the reset state on.

    `bound`: certified |device - float| of each output after every step, float64 (outputs,), None without a certificate.
    `margin`: of the float logits, above which the class is certified to be the same; None where none is.
    """

    x: Float32Array
    bound: Float64Array | None = None
    margin: float | None = None

    def checked(self, network: IntegerNetwork) -> Stream:
        """With its arrays as they have to be. InputError where they do not fit the network, or where its head does not
        give an output after every step."""
        from codesign.semantics import quantize
        from codesign.semantics.streams import integer_stream

        x = np.asarray(self.x, np.float32)
        features, outputs = network.input.shape[1], int(np.prod(network.output.shape))
        if x.ndim != 2 or x.shape[1] != features or not len(x):
            raise InputError(f"a stream has shape {x.shape}; the model takes (steps, {features}), at least one step")
        if not np.isfinite(x).all():
            raise InputError("a stream contains NaN or infinity")
        bound = None if self.bound is None else np.asarray(self.bound, np.float64).reshape(-1)
        if bound is not None and (bound.shape != (outputs,) or not np.isfinite(bound).all()):
            raise InputError(f"a stream's certified bound does not have {outputs} finite numbers")
        integer_stream(network, quantize(network.input, x[np.newaxis, :1]))
        return Stream(x, bound, self.margin)

    def digest(self) -> str:
        """SHA-256 of the inputs."""
        return hashlib.sha256(np.ascontiguousarray(self.x, "<f4").tobytes()).hexdigest()


def requests_of(stream: Stream, session: Session, network: IntegerNetwork) -> int:
    """How many requests the stream takes."""
    return -(-len(stream.x) // steps_per_request(session.target.identity, network.output.shape[-1]))


def run_stream(
    session: Session,
    network: IntegerNetwork,
    float_network: FloatNetwork,
    number: int,
    stream: Stream,
    advance: Callable[[], None],
) -> dict[str, Any]:
    """One stream's record for hil.json (`advance` is called after every request), of steps counted from 0.

    'bit_exact', 'within_bound', 'class_certified' and 'class_equal' count steps; 'first_wrong' names the first step
    whose output is not the reference's. DeviceError where the device does not answer, SoundnessAlarm where it is
    bit-exact and not as certified.
    """
    from codesign.semantics import dequantize, quantize
    from codesign.semantics.streams import float_stream, integer_stream

    x = stream.x[np.newaxis]
    q = quantize(network.input, x)
    reference = integer_stream(network, q)[0]
    real = float_stream(float_network, x)[0]
    logits = float_stream(float_network, x, logits=True)[0]
    output, count = session.stream(
        number, q[0], steps_per_request(session.target.identity, reference.shape[1]), advance
    )
    if output.shape != reference.shape:
        raise DeviceError(
            f"the device gives {output.shape[1]} outputs a step of a stream instead of {reference.shape[1]}"
        )
    value = dequantize(network.output, output)
    error = np.abs(value - real)
    exact = (output == reference).all(1)
    correct = np.logical_and.accumulate(exact)  # steps before the first error: the state is the reference's

    def evidence() -> dict[str, Any]:
        return {"stream": number, "inputs_sha256": stream.digest(), "inputs": stream.x, "margin": stream.margin}

    where = f"a step of stream {number}, bit-exact on the device"
    if stream.bound is not None and correct.any():
        worst = error[correct].max(0)
        require_within(f"{where}: |device - float| of an output", worst, stream.bound, evidence)
    classes = {}
    if stream.margin is not None and output.shape[1] > 1:
        ordered = np.sort(logits, axis=1)
        certified = ordered[:, -1] - ordered[:, -2] > stream.margin
        equal = output.argmax(1) == logits.argmax(1)
        flipped = bool((correct & certified & ~equal).any())
        require_never(f"{where}, is of another top-1 class than certified", flipped, evidence)
        classes = {"class_certified": int(certified.sum()), "class_equal": int((certified & equal).sum())}
    return {
        "number": number,
        "steps": len(output),
        "inputs_sha256": stream.digest(),
        "bit_exact": int(exact.sum()),
        "first_wrong": None if exact.all() else _first_wrong(output, reference, exact),
        "max_error": error.max(0).tolist(),
        "bound": None if stream.bound is None else stream.bound.tolist(),
        "within_bound": None if stream.bound is None else int((error <= stream.bound).all(1).sum()),
        "class_certified": classes.get("class_certified"),
        "class_equal": classes.get("class_equal"),
        "count": count,
    }


def _first_wrong(output: ActivationArray, reference: ActivationArray, exact: npt.NDArray[np.bool_]) -> dict[str, int]:
    step = int(np.argmin(exact))
    unit = int(np.argmax(output[step] != reference[step]))
    return {
        "step": step, "output": unit, "device": int(output[step, unit]), "reference": int(reference[step, unit]),
    }  # fmt: skip


def stream_failures(record: dict[str, Any]) -> list[str]:
    """What a stream's record says is wrong, in sentences."""
    failures, steps = [], record["steps"]
    where = f"of {steps} steps of stream {record['number']}"
    if record["bit_exact"] != steps:
        first = record["first_wrong"]
        failures.append(
            f"{steps - record['bit_exact']} {where} are not bit-exact with the reference; first at step "
            f"{first['step']}, output {first['output']}: it is {first['device']} on the device and "
            f"{first['reference']} in the reference"
        )
    if record["within_bound"] is not None and record["within_bound"] != steps:
        failures.append(f"{steps - record['within_bound']} {where} are outside the certified bound")
    if record["class_equal"] != record["class_certified"]:
        failures.append(
            f"{record['class_certified'] - record['class_equal']} {where} are of another top-1 class than certified"
        )
    return failures
