"""The host's end of the serial link: requests with deadlines, bounded retries and resynchronisation.

It only ever sees a pyserial port name: a real /dev/ttyACM0 and an emulated board's pseudo-terminal take the same path.
"""

from __future__ import annotations

import errno
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError, MissingToolError
from codesign.hil.protocol import (
    CLOSING_LAYER,
    ERROR_TYPE,
    OVERHEAD,
    REPLY,
    Command,
    Decoder,
    DeviceError,
    DeviceTrace,
    ErrorCode,
    Frame,
    Identity,
    Inference,
    LinkLostError,
    Metrics,
    NoReplyError,
    TraceStep,
    UnsupportedError,
    encode,
    parse_identity,
    parse_inference,
    parse_metrics,
    parse_trace_step,
    parse_values,
    stream_payload,
)
from codesign.quantization.integer import ActivationArray, Activations
from codesign.tflm.arena import status_text

if TYPE_CHECKING:
    import serial

POLL_SECONDS = 0.05
_RESYNC_BYTES = 256
_START_TIMEOUT = 0.3
_START_GROWTH = 1.3
_FALLBACK_TIMEOUT = 0.5
_REOPEN_SECONDS = 0.05
_OWN_BAUD_SECONDS = 3.0
_LOCKED = (errno.EAGAIN, errno.EACCES, errno.EBUSY)
_FAULT = struct.Struct("<BBIII")


class _GarbledRequestError(Exception):
    """The device saw a damaged request: worth sending again at once. `refusal` says what it answered."""

    def __init__(self, refusal: str = "") -> None:
        super().__init__(refusal)
        self.refusal = refusal


@dataclass
class LinkStatistics:
    """What happened on the line since the port was opened: counts of events, and bytes that were no frame."""

    resent: int = 0
    refused: int = 0
    stale_replies: int = 0
    bad_crc: int = 0
    discarded_bytes: int = 0
    reopened: int = 0


class Device:
    """A device behind a serial port, opened at construction; also a context manager.

    `timeout` bounds, in seconds, the silence before a reply (transmission time at `baud` comes on top); a request is
    sent at most 1 + `retries` times. `diagnose` may tell why the link died (an emulator knows); its sentence goes into
    the error; `locate` tells a lost port's present name. The port is locked against other programs. All methods raise
    DeviceError; NoReplyError and LinkLostError are those after which `recover` may succeed.
    """

    def __init__(
        self,
        port: str,
        baud: int = 115200,
        timeout: float = 5.0,
        retries: int = 2,
        diagnose: Callable[[], str | None] | None = None,
        locate: Callable[[], str | None] | None = None,
    ) -> None:
        try:
            import serial
        except ImportError as error:
            raise MissingToolError("pyserial is missing: pip install 'codesign[board]'") from error
        if timeout <= 0 or retries < 0:
            raise InputError(f"timeout must be positive and retries not negative, got {timeout} and {retries}")
        self.port = port
        self.timeout = timeout
        self.retries = retries
        self._baud = baud
        self._diagnose = diagnose
        self._locate = locate
        # A late reply to an earlier user of the port shall not fit this one's first requests.
        self._sequence = time.monotonic_ns() % 0xFFFF
        self._decoder = Decoder()
        self._queue: deque[Frame] = deque()
        self._max_request = _RESYNC_BYTES
        self._activations: Activations = "int8"
        self._link_errors: tuple[type[Exception], ...] = (serial.SerialException, OSError, TypeError)
        self.statistics = LinkStatistics()
        self._lost = False
        self._serial: serial.Serial = self._open()

    def _open(self) -> serial.Serial:
        import serial

        port = self.port
        try:
            opened = serial.Serial(
                port,
                self._baud,
                timeout=POLL_SECONDS,
                write_timeout=self.timeout + self._airtime(1 << 16),
                exclusive=True,
            )
            opened.reset_input_buffer()
        except PermissionError as error:
            raise DeviceError(self._no_permission()) from error
        except (serial.SerialException, OSError, ValueError) as error:
            if "exclusively lock" in str(error) or getattr(error, "errno", None) in _LOCKED[:1]:
                raise DeviceError(f"serial port {port} is in use by another program; end it first") from error
            if getattr(error, "errno", None) == errno.EACCES:
                raise DeviceError(self._no_permission()) from error
            raise LinkLostError(f"serial port {port} cannot be opened: {_first_line(error)}") from error
        return opened

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the port; harmless when repeated."""
        self._serial.close()

    @property
    def baud(self) -> int:
        """The line's rate; `connect` may have changed it to a fallback."""
        return self._baud

    def connect(self, seconds: float = 10.0, fallback_bauds: Sequence[int] = ()) -> Identity:
        """Identify a device that may still be starting, and lose what it is sent until then: ask often at first, and
        wait longer for the answer each time: the device may be slow.

        After a while without an answer, `fallback_bauds` are tried in turn with the port's own rate.
        """
        patience = self.timeout, self.retries
        begun = time.monotonic()
        own = self._baud
        bauds = [own, *(baud for baud in fallback_bauds if baud != own)]
        turn = 0
        self.timeout, self.retries = min(self.timeout, _START_TIMEOUT), 0
        try:
            while (passed := time.monotonic() - begun) < seconds:
                if len(bauds) > 1 and passed > min(_OWN_BAUD_SECONDS, seconds / 2):
                    turn += 1
                    self._set_baud(bauds[turn % len(bauds)])
                    self.timeout = min(patience[0], _FALLBACK_TIMEOUT)
                try:
                    return self.identify()
                except NoReplyError:
                    self.timeout = min(patience[0], self.timeout * _START_GROWTH)
        except DeviceError:
            self._baud = own
            raise
        finally:
            self.timeout, self.retries = patience
        if turn:
            self._set_baud(own)
        raise NoReplyError(
            f"no valid reply from {self.port} within {seconds:g} s; is the firmware flashed and the port the right one?"
        )

    def recover(self, seconds: float = 10.0, fallback_bauds: Sequence[int] = ()) -> Identity:
        """Get a lost device back within `seconds`: open a port that vanished again, then `connect`.

        NoReplyError or LinkLostError where the device stays away; DeviceError where it is dead for good.
        """
        limit = time.monotonic() + seconds
        while True:
            try:
                if self._lost:
                    self._serial.close()
                    self.port = (self._locate() if self._locate else None) or self.port
                    self._serial = self._open()
                    self._lost = False
                    self.statistics.reopened += 1
                    self._forget()
                return self.connect(max(limit - time.monotonic(), POLL_SECONDS), fallback_bauds)
            except LinkLostError:
                self._lost = True
                if time.monotonic() >= limit:
                    raise
                time.sleep(_REOPEN_SECONDS)

    def _set_baud(self, baud: int) -> None:
        self._baud = baud
        try:
            self._serial.baudrate = baud
        except self._link_errors as error:
            raise self._broken(None, error) from error

    def identify(self) -> Identity:
        """Who is there: model hash, build id, sizes, board."""
        identity = parse_identity(self._single(Command.IDENTIFY, b""))
        self._max_request = 4 * identity.input_size + OVERHEAD + _RESYNC_BYTES
        self._activations = identity.activations
        return identity

    def infer(self, q: ActivationArray) -> Inference:
        """Run one inference on the input (T, D), of the type that `identify` told (int8 before it)."""
        return parse_inference(self._single(Command.INFER, self._bytes(q)), self._activations)

    def trace(self, q: ActivationArray) -> DeviceTrace:
        """Run one inference on the input (T, D), typed as for `infer`; gives every LSTM layer's hidden states."""
        steps: list[TraceStep] = []
        refusal = ""
        for attempt in self._attempts(Command.TRACE):
            steps = []
            try:
                for payload in self._request(Command.TRACE, self._bytes(q), many=True):
                    step = parse_trace_step(payload, self._activations)
                    if step.layer == CLOSING_LAYER:
                        return DeviceTrace(tuple(steps), step.hidden)
                    steps.append(step)
                refusal = ""
            except _GarbledRequestError as error:
                refusal = error.refusal
            self._resync(attempt)
        if refusal:
            raise DeviceError(refusal)
        raise self._silence(Command.TRACE, f" after {len(steps)} trace frames" if steps else "")

    def stream(self, first: int, q: ActivationArray) -> Inference:
        """Run steps of an endless sequence, q (steps, D) typed as for `infer`, and give the outputs of every step.

        `first` numbers the first of them: 0 begins anew, else it has to follow the request before. NoReplyError where
        the device has lost the stream: it was reset on the way.
        """
        payload = stream_payload(first, self._bytes(q))
        reply = parse_inference(self._single(Command.STREAM, payload), self._activations)
        if reply.output.size % len(q):
            raise DeviceError(f"the device answers {len(q)} steps with {reply.output.size} values")
        return Inference(reply.output.reshape(len(q), -1), reply.count)

    def metrics(self) -> Metrics:
        """Stack high-water mark and counts since reset."""
        return parse_metrics(self._single(Command.METRICS, b""))

    def quantize(self, x: npt.NDArray[np.float32]) -> ActivationArray:
        """Let the device quantise the float32 input (T, D); int8 or int16 of the same shape."""
        values = np.ascontiguousarray(x, dtype="<f4")
        quantized = parse_values(self._single(Command.QUANTIZE, values.tobytes()), self._activations)
        if quantized.size != values.size:
            raise DeviceError(f"the device quantised {values.size} values to {quantized.size}")
        return quantized.reshape(values.shape)

    def _bytes(self, q: ActivationArray) -> bytes:
        if q.dtype != self._activations:
            raise InputError(f"the device takes {self._activations} inputs, not {q.dtype}")
        return np.ascontiguousarray(q, q.dtype.newbyteorder("<")).tobytes()

    def _single(self, command: Command, payload: bytes) -> bytes:
        refusal = ""
        for attempt in self._attempts(command):
            try:
                for reply in self._request(command, payload, many=False):
                    return reply
                refusal = ""
            except _GarbledRequestError as error:
                refusal = error.refusal
            self._resync(attempt)
        if refusal:
            raise DeviceError(refusal)
        raise self._silence(command)

    def _attempts(self, command: Command) -> Iterator[int]:
        for attempt in range(1 + self.retries):
            if attempt and (reason := self._reason()):
                raise DeviceError(f"the device died during {command.name.lower()}: {reason}")
            self.statistics.resent += attempt > 0
            yield attempt

    def _request(self, command: Command, payload: bytes, many: bool) -> Iterator[bytes]:
        """Send once; yield the payloads of the replies. Ends in silence when a deadline passes."""
        self._sequence = self._sequence % 0xFFFF + 1  # 0 is left to errors about unreadable requests
        try:
            self._serial.write(encode(Frame(command, self._sequence, payload)))
        except self._link_errors as error:
            raise self._broken(command, error) from error
        sent = self._airtime(len(payload) + OVERHEAD)
        deadline = time.monotonic() + self.timeout + sent
        while (frame := self._receive(command, deadline)) is not None:
            yield frame.payload
            if not many:
                return
            deadline = time.monotonic() + self.timeout

    def _receive(self, command: Command, deadline: float) -> Frame | None:
        """The next reply to the current request, None at the deadline. Replies to older requests are dropped."""
        while True:
            while self._queue:
                frame = self._queue.popleft()
                if frame.type == ERROR_TYPE and frame.sequence in (0, self._sequence):
                    self._refuse(command, frame)
                elif frame.type == command | REPLY and frame.sequence == self._sequence:
                    return frame
                else:
                    self.statistics.stale_replies += 1
            if time.monotonic() >= deadline:
                self._queue.extend(self._decoder.flush())
                self._count_noise()
                if not self._queue:
                    return None
                continue
            try:
                data = self._serial.read(self._serial.in_waiting or 1)
            except self._link_errors as error:
                raise self._broken(command, error) from error
            self._queue.extend(self._decoder.feed(data))

    def _refuse(self, command: Command, frame: Frame) -> None:
        code, about = (*frame.payload[:2], 0, 0)[:2]
        if code in (ErrorCode.UNKNOWN_TYPE, ErrorCode.WRONG_LENGTH) and about != command:
            return  # about bytes that were on the line before
        self.statistics.refused += code != ErrorCode.FAULT
        if code == ErrorCode.BAD_CRC:
            raise _GarbledRequestError
        if code == ErrorCode.UNKNOWN_TYPE:
            raise DeviceError(f"the device does not know the request {command.name.lower()}; rebuild the firmware")
        if code == ErrorCode.WRONG_STEP:
            raise NoReplyError(f"the device on {self.port} has lost the stream: it was reset on the way")
        if code == ErrorCode.WRONG_LENGTH:
            # Said of a header that no CRC has covered yet: a damaged length looks the same.
            raise _GarbledRequestError(
                f"the device refuses the length of the {command.name.lower()} request: "
                "its model has another input shape"
            )
        if code == ErrorCode.UNSUPPORTED:
            raise UnsupportedError(f"the firmware's runtime gives no {command.name.lower()}")
        if code == ErrorCode.RUNTIME and len(frame.payload) == 3:
            raise DeviceError(
                f"the firmware's runtime cannot run the model: {status_text(frame.payload[2])}; build it again"
            )
        if code == ErrorCode.FAULT and len(frame.payload) == _FAULT.size:
            _, _, pc, cfsr, hfsr = _FAULT.unpack(frame.payload)
            raise DeviceError(
                f"the device's core faulted at pc 0x{pc:08x} (CFSR 0x{cfsr:08x}, HFSR 0x{hfsr:08x}) "
                f"before or during {command.name.lower()}; reset it"
            )
        raise DeviceError(f"the device refuses {command.name.lower()} with error {code}")

    def _resync(self, attempt: int) -> None:
        """Bring both ends back to a frame boundary: the device may wait for the rest of a damaged frame, which zeros
        complete (they contain no magic); this end forgets what it has half read."""
        padding = min(self._max_request, _RESYNC_BYTES << (2 * attempt))
        try:
            self._serial.write(bytes(padding))
            limit = time.monotonic() + self._airtime(padding) + self.timeout
            time.sleep(self._airtime(padding))
            while self._serial.read(self._serial.in_waiting or 1) and time.monotonic() < limit:
                pass
        except self._link_errors as error:
            raise self._broken(None, error) from error
        self._forget()

    def _forget(self) -> None:
        self._decoder.flush()
        self._queue.clear()
        self._count_noise()

    def _count_noise(self) -> None:
        self.statistics.bad_crc = self._decoder.bad_crc
        self.statistics.discarded_bytes = self._decoder.discarded

    def _airtime(self, count: int) -> float:
        return count * 10.0 / self._baud

    def _reason(self) -> str | None:
        return self._diagnose() if self._diagnose else None

    def _silence(self, command: Command, where: str = "") -> DeviceError:
        if reason := self._reason():
            return DeviceError(f"the device died during {command.name.lower()}: {reason}")
        tries = 1 + self.retries
        return NoReplyError(
            f"no valid reply to {command.name.lower()} on {self.port}{where} within {self.timeout:g} s, "
            f"sent {tries} time{'s' if tries > 1 else ''}; is the firmware flashed and the port the right one?"
        )

    def _broken(self, command: Command | None, error: Exception) -> DeviceError:
        self._lost = True
        # The emulator's own words come a moment after its end of the pseudo-terminal closes.
        limit = time.monotonic() + 1.0
        while self._diagnose and not self._reason() and time.monotonic() < limit:
            time.sleep(0.02)
        during = f" during {command.name.lower()}" if command else ""
        if reason := self._reason():
            return DeviceError(f"the device on {self.port} died{during}: {reason}")
        return LinkLostError(f"the device on {self.port} died{during}: the link broke ({_first_line(error)})")

    def _no_permission(self) -> str:
        return f"no permission to open {self.port}: add yourself to its group (sudo usermod -aG dialout $USER)"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
