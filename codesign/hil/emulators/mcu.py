"""Child process that emulates a microcontroller on Unicorn's core, its serial port on a pseudo-terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from codesign.hil.emulators.cortexm import BoardFaultError, Core
from codesign.hil.emulators.serial_port import SerialLine
from codesign.hil.emulators.terminal import announce, end_with_parent, ignore_interrupts, open_terminal

Builder = Callable[[dict[str, Any], SerialLine], Core]


def builders() -> dict[str, Builder]:
    """The function that makes each machine."""
    from codesign.hil.emulators import nrf52, rp2040, stm32, stm32_small

    return {
        **dict.fromkeys(stm32.MACHINES, stm32.build),
        "stm32f103": stm32_small.build_f1,
        "stm32l476": stm32_small.build_l4,
        "nrf52840": nrf52.build,
        "rp2040": rp2040.build,
    }


def main(argument: str) -> int:
    """Run until stdin ends or the board faults; the fault goes to stderr."""
    spec: dict[str, Any] = json.loads(argument)
    ignore_interrupts()
    master, slave = open_terminal()
    try:
        build = builders().get(spec["machine"])
        if build is None:
            raise BoardFaultError(f"machine {spec['machine']} is not modelled; {', '.join(builders())} are")
        line = SerialLine(master)
        core = build(spec, line)
        core.wait = line.sleep
        end_with_parent()
        announce(slave)
        core.run()
    except BoardFaultError as fault:
        print(fault, file=sys.stderr)
        sys.stderr.flush()
    return 1
