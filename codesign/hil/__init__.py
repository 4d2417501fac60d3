"""Hardware in the loop: the serial protocol, real and emulated boards behind a port name, and the cross-check."""

from codesign.hil import mutate
from codesign.hil.crosscheck import cross_check
from codesign.hil.device import Device
from codesign.hil.journal import Journal
from codesign.hil.ports import AttachedBoard, choose_port, find_boards
from codesign.hil.protocol import (
    CounterKind,
    DeviceError,
    DeviceTrace,
    Identity,
    Inference,
    LinkLostError,
    Metrics,
    NoReplyError,
    TraceStep,
)
from codesign.hil.result import HilResult, load_schema, validate_result, write_result
from codesign.hil.session import Recovery, Session
from codesign.hil.streams import Stream
from codesign.hil.target import Target, emulator_spec, find_ports, open_target

__all__ = [
    "AttachedBoard",
    "CounterKind",
    "Device",
    "DeviceError",
    "DeviceTrace",
    "HilResult",
    "Identity",
    "Inference",
    "Journal",
    "LinkLostError",
    "Metrics",
    "NoReplyError",
    "Recovery",
    "Session",
    "Stream",
    "Target",
    "TraceStep",
    "choose_port",
    "cross_check",
    "emulator_spec",
    "find_boards",
    "find_ports",
    "load_schema",
    "mutate",
    "open_target",
    "validate_result",
    "write_result",
]
