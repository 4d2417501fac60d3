"""A run against one device: every answer comes from the journal or from the device, and a device that is lost on the
way is got back where it can be.

What a run may not do is change its subject: a device that comes back has to be the same board with the same firmware
and the same model, or the run ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from codesign.errors import CodesignError, InputError
from codesign.hil.journal import Journal
from codesign.hil.protocol import DeviceError, Identity, LinkLostError, Metrics, NoReplyError
from codesign.hil.target import Target
from codesign.quantization.integer import ActivationArray

T = TypeVar("T")
_MAX_EVENTS = 100


@dataclass(frozen=True)
class Recovery:
    """How hard to try: a request is started at most 1 + `attempts` times, the whole run recovers at most `total` times,
    and each time the device has `seconds` to come back."""

    seconds: float = 10.0
    attempts: int = 2
    total: int = 20


class Session:
    """Asks a target, noting every loss and recovery in `events`."""

    def __init__(self, target: Target, journal: Journal | None = None, recovery: Recovery | None = None) -> None:
        self.target = target
        self.journal = journal
        self.recovery = recovery or Recovery()
        self.events: list[dict[str, Any]] = []
        self.recovered = 0
        self.answered = 0  # inferences and traces the device has answered in this session
        self.reused = 0  # answers taken from the journal
        self._begun = time.monotonic()

    def infer(self, sample: int, q: ActivationArray) -> tuple[ActivationArray, int | None]:
        """Output, int8 or int16 (outputs,), and counter value of one sample; from the journal where it is there."""
        known = self._known("infer", sample)
        if known is None:
            inference = self._asked("infer", sample, lambda: self.target.device.infer(q))
            self.answered += 1
            known = self._keep(
                "infer", sample, {"output": inference.output.tolist(), "count": self.target.count(inference)}
            )
        count = known.get("count")
        if count is not None and (type(count) is not int or count < 0):
            raise _damaged()
        return self._values(known, "output"), count

    def repeat(self, sample: int, q: ActivationArray) -> ActivationArray:
        """The output of a sample again, always from the device."""
        output = self._asked("infer", sample, lambda: self.target.device.infer(q)).output
        self.answered += 1
        return output

    def rehearse(self, x: Any, q: ActivationArray, traced: bool, quantized: bool, streamed: bool) -> None:
        """One request of each kind of which answers were taken from the journal, for the first sample, float32 and
        quantized (T, D): else the stack's high-water mark would not be that of an uninterrupted run."""
        device = self.target.device
        if quantized:
            self._asked("quantize", 0, lambda: device.quantize(x))
        if traced:
            self._asked("trace", 0, lambda: device.trace(q))
            self.answered += 1
        if streamed:
            self._asked("stream", 0, lambda: device.stream(0, q[:1]))

    def quantize(self, sample: int, x: Any) -> ActivationArray:
        """The device's own quantisation of x, float32 (T, D)."""
        known = self._known("quantize", sample)
        if known is None:
            values = self._asked("quantize", sample, lambda: self.target.device.quantize(x))
            known = self._keep("quantize", sample, {"values": values.reshape(-1).tolist()})
        quantized = self._values(known, "values")
        if quantized.size != np.size(x):
            raise _damaged()
        return quantized.reshape(np.shape(x))

    def stream(
        self, number: int, q: ActivationArray, steps: int, advance: Callable[[], None] = lambda: None
    ) -> tuple[ActivationArray, int | None]:
        """Outputs (L, outputs) after every step of the stream q (L, D), `steps` a request, and the counter's sum.

        From the journal where it is there. A device that is lost on the way starts it again.
        """
        known = self._known("stream", number)
        if known is None:
            outputs, count = self._asked("stream", number, lambda: self._run_stream(q, steps, advance))
            known = self._keep("stream", number, {"output": outputs.reshape(-1).tolist(), "count": count})
        count = known.get("count")
        values = self._values(known, "output")
        if (count is not None and (type(count) is not int or count < 0)) or not values.size or values.size % len(q):
            raise _damaged()
        return values.reshape(len(q), -1), count

    def _run_stream(
        self, q: ActivationArray, steps: int, advance: Callable[[], None]
    ) -> tuple[ActivationArray, int | None]:
        outputs, counts = [], []
        for first in range(0, len(q), steps):
            reply = self.target.device.stream(first, q[first : first + steps])
            outputs.append(reply.output)
            counts.append(self.target.count(reply))
            advance()
        if len({part.shape[1] for part in outputs}) != 1:
            raise DeviceError("the device changes the number of outputs a step during a stream")
        told = [count for count in counts if count is not None]
        return np.concatenate(outputs), sum(told) if told else None

    def record(
        self,
        kind: str,
        sample: int,
        make: Callable[[], Mapping[str, Any]],
        valid: Callable[[dict[str, Any]], bool],
    ) -> dict[str, Any]:
        """What `make` finds out about a sample by talking to the device; from the journal where it is there.

        InputError where the journal's record is not `valid`.
        """
        known = self._known(kind, sample)
        if known is None:
            known = self._keep(kind, sample, self._asked(kind, sample, make))
            self.answered += 1
        content = {key: value for key, value in known.items() if key not in ("kind", "sample")}
        if not valid(content):
            raise _damaged()
        return content

    def metrics(self) -> Metrics:
        """The device's counts since its reset."""
        return self._asked("metrics", None, self.target.device.metrics)

    def confirm_identity(self) -> None:
        """DeviceError where the device is not the one that the run began with."""
        self._compare(self._asked("identify", None, self.target.device.identify))

    def link(self) -> dict[str, Any]:
        """What happened on the line, for hil.json."""
        return {"recovered": self.recovered, "events": self.events, **asdict(self.target.device.statistics)}

    def _values(self, entry: Mapping[str, Any], key: str) -> ActivationArray:
        values, limits = entry.get(key), np.iinfo(self.target.identity.activations)
        if not isinstance(values, list) or not all(type(v) is int and limits.min <= v <= limits.max for v in values):
            raise _damaged()
        return np.array(values, self.target.identity.activations)

    def _known(self, kind: str, sample: int) -> dict[str, Any] | None:
        known = self.journal.entries.get((kind, sample)) if self.journal else None
        self.reused += known is not None
        return known

    def _keep(self, kind: str, sample: int, content: Mapping[str, Any]) -> dict[str, Any]:
        return self.journal.add(kind, sample, content) if self.journal else dict(content)

    def _asked(self, what: str, sample: int | None, ask: Callable[[], T]) -> T:
        for attempt in range(1 + self.recovery.attempts):
            try:
                return ask()
            except (NoReplyError, LinkLostError) as error:
                self.note(what, sample, f"lost: {error}")
                if attempt == self.recovery.attempts:
                    raise
                if self.recovered >= self.recovery.total:
                    raise DeviceError(f"the device was lost {self.recovered + 1} times; the last: {error}") from error
                self._recover(what, sample, error)
        raise AssertionError("unreachable")

    def _recover(self, what: str, sample: int | None, lost: DeviceError) -> None:
        begun = time.monotonic()
        seconds = self.recovery.seconds
        try:
            try:
                identity = self.target.device.recover(seconds)
            except NoReplyError:
                if self.target.reset is None:
                    raise
                self._reset(what, sample)
                identity = self.target.device.recover(seconds)
        except (NoReplyError, LinkLostError) as error:
            self.note(what, sample, f"not recovered: {error}")
            raise DeviceError(f"{lost}; it did not come back within {seconds:g} s") from error
        self._compare(identity)
        self.recovered += 1
        self.note(what, sample, f"recovered after {time.monotonic() - begun:.1f} s")

    def _reset(self, what: str, sample: int | None) -> None:
        """Restart a board that is there but silent; where that fails, what was tried is told."""
        assert self.target.reset
        try:
            self.target.reset()
            self.note(what, sample, "the board was reset through its debug probe")
        except CodesignError as error:
            self.note(what, sample, f"the board could not be reset: {error}")

    def _compare(self, identity: Identity) -> None:
        first = self.target.identity
        for name, field in (
            ("board", "board"),
            ("model", "model_hash"),
            ("firmware", "build_id"),
            ("protocol", "protocol"),
            ("clock", "clock_hz"),
        ):
            if getattr(identity, field) != getattr(first, field):
                raise DeviceError(f"the device was exchanged during the run: its {name} is not the one it began with")

    def note(self, what: str, sample: int | None, text: str) -> None:
        """Add to what is told about the link."""
        if len(self.events) < _MAX_EVENTS:
            seconds = round(time.monotonic() - self._begun, 3)
            self.events.append({"seconds": seconds, "request": what, "sample": sample, "text": text})


def _damaged() -> InputError:
    return InputError("the journal holds a damaged result; start again without --resume")
