"""Build and flash a firmware project."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codesign.errors import CodesignError, InputError
from codesign.quantization.integer import IntegerNetwork
from codesign.toolchain import pio
from codesign.toolchain.boards import Board
from codesign.toolchain.elf import Image, Section, Symbol, read_image
from codesign.toolchain.firmware import Firmware
from codesign.toolchain.flash import flash_elf
from codesign.toolchain.project import Project, generate_project

OVERFLOW = re.compile(r"region [`'](\w+)' overflowed by (\d+) bytes?")


LARGEST_FRAME = 0xFFFF
COUNTER_BYTES = 8


@dataclass(frozen=True)
class Build:
    """A built firmware. Sizes in bytes.

    `flash_bytes` is all content in flash; `ram_bytes` is static data (.data and .bss); `stack_size` is the stack
    reserved beside it. `build_id` (32 hex digits) and `model_sha256` (64) are what the firmware reports when asked to
    identify.
    """

    board: Board
    folder: Path
    elf: Path
    bin: Path
    flash_bytes: int
    ram_bytes: int
    stack_size: int
    flash_available: int
    ram_available: int
    build_id: str
    model_sha256: str
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    image: Image
    log: str

    @property
    def memory_map(self) -> dict[str, tuple[Section, ...]]:
        """Sections by memory region ('flash' and 'ram'), in address order; .data counts in both."""
        flash = [s for s in self.sections if s.loaded]
        ram = [s for s in self.sections if s.writable]
        return {
            "flash": tuple(sorted(flash, key=lambda s: s.load_address)),
            "ram": tuple(sorted(ram, key=lambda s: s.address)),
        }


def build(network: IntegerNetwork, board: Board, folder: Path | str) -> Build:
    """Generate C for `network` and the PlatformIO project in `folder`, and build it.

    InputError: the network does not fit the board (with the figures). MissingToolError: compiler or PlatformIO missing.
    CodesignError: the build failed (with the compiler's first error).
    """
    from codesign.codegen import generate

    check_fits(network, board)
    pio.require_compiler()
    pio.require_platformio()
    with tempfile.TemporaryDirectory(prefix="codesign-") as scratch:
        generate(network, Path(scratch))
        project = generate_project(Path(scratch), board, folder)
    return build_project(project, network.sha256)


def check_fits(network: IntegerNetwork, board: Board) -> None:
    """Refuse a network whose constants or static buffers alone exceed the board's flash or RAM (InputError).

    A lower bound, to fail before any C is written; the linker has the last word. Also refuses a network whose input or
    output does not fit a frame of the serial protocol.
    """
    from codesign.codegen import memory_estimate

    estimate = memory_estimate(network)
    parameters = int(estimate["flash_bytes"])
    input_bytes = int(np.prod(network.input.shape))
    output_bytes = int(np.prod(network.output.shape))
    if input_bytes > LARGEST_FRAME or output_bytes + COUNTER_BYTES > LARGEST_FRAME:
        raise InputError(
            f"the model has {input_bytes} input and {output_bytes} output values: one frame of the serial protocol "
            f"takes {LARGEST_FRAME} and {LARGEST_FRAME - COUNTER_BYTES}; use fewer time steps"
        )
    request_bytes = 4 * input_bytes if 4 * input_bytes <= LARGEST_FRAME else input_bytes
    buffers = request_bytes + input_bytes + output_bytes + int(estimate["ram_bytes"]) + board.stack_bytes
    if parameters > board.flash.size:
        raise _does_not_fit(board, "flash", f"at least {parameters}", board.flash.size)
    if buffers > board.ram.size:
        raise _does_not_fit(board, "RAM", f"at least {buffers}", board.ram.size)


def build_project(project: Project, model_sha256: str) -> Build:
    """Build a generated project with PlatformIO Core; the errors are those of `build`."""
    board = project.board
    pio.require_compiler()
    result = pio.run(project.folder, "--environment", board.name)
    log = result.stdout
    if result.returncode != 0:
        raise _build_error(log, board)
    output = project.folder / ".pio" / "build" / board.name
    elf = output / "program.elf"
    image = read_image(elf, (board.flash, board.ram))
    return Build(
        board=board,
        folder=project.folder,
        elf=elf,
        bin=output / "program.bin",
        flash_bytes=image.flash_bytes,
        ram_bytes=image.ram_bytes,
        stack_size=image.stack_bytes,
        flash_available=board.flash.size,
        ram_available=board.ram.size,
        build_id=project.build_id,
        model_sha256=model_sha256,
        sections=image.sections,
        symbols=image.symbols,
        image=image,
        log=log,
    )


def upload(build: Build | Firmware, board: Board, port: str | None = None, timeout: float = 120.0) -> str:
    """Flash the build through PlatformIO's upload target (openocd), or a Firmware without a project through openocd
    itself; what was written is verified. Returns the log.

    `port` is the serial port of the board (/dev/ttyACM0): where its USB serial number is known, it selects the debug
    probe among several. InputError: the board cannot be flashed. CodesignError: openocd failed.
    """
    if board.flashing is None:
        raise InputError(f"{board.title} has no way to be flashed: run it emulated, without --port")
    if board.name != build.board.name:
        raise InputError(f"the firmware was built for {build.board.name}, not for {board.name}: build it again")
    pio.require_openocd()
    if build.folder is None:
        return flash_elf(build.elf, board, _probe_serial(port), timeout)
    result = pio.run(
        build.folder,
        "--environment",
        board.name,
        "--target",
        "upload",
        timeout=timeout,
        extra={"CODESIGN_PROBE_SERIAL": _probe_serial(port)},
    )
    if result.returncode != 0:
        raise CodesignError(f"flashing {board.title} failed: {_first_error(result.stdout)}")
    return result.stdout


def _probe_serial(port: str | None) -> str:
    """USB serial number of the debug probe whose virtual COM port is `port` ('' where it cannot be told)."""
    if port is None:
        return ""
    from serial.tools import list_ports

    for found in list_ports.comports():
        if found.device == port and found.serial_number and re.fullmatch(r"[0-9A-Za-z]+", found.serial_number):
            return str(found.serial_number)
    return ""


def _does_not_fit(board: Board, what: str, needed: str, available: int) -> InputError:
    return InputError(
        f"the model does not fit {board.title}: it needs {needed} bytes of {what}, and there are {available}; "
        "take a smaller model or a larger board"
    )


def _build_error(log: str, board: Board) -> CodesignError:
    overflow = {region: int(count) for region, count in OVERFLOW.findall(log)}
    for region, what, available in (("ram", "RAM", board.ram.size), (board.flash.name, "flash", board.flash.size)):
        if region in overflow:
            return _does_not_fit(board, what, str(available + overflow[region]), available)
    return CodesignError(f"the firmware for {board.title} did not build: {_first_error(log)}")


def _first_error(log: str) -> str:
    """The most telling line: a compiler's or linker's complaint, else any error, else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for pattern in (r": (fatal )?error: ", r"undefined reference|multiple definition", r"\berror\b"):
        for line in lines:
            if re.search(pattern, line, re.IGNORECASE) and "collect2" not in line:
                return line
    return lines[-1] if lines else "no output"
