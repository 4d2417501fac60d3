"""Build and flash a firmware project."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codesign.errors import CodesignError, InputError
from codesign.quantization.integer import IntegerNetwork
from codesign.toolchain import pio
from codesign.toolchain.boards import Board
from codesign.toolchain.elf import Image, Section, Symbol, read_image
from codesign.toolchain.firmware import OWN_PROFILE, OWN_RUNTIME, Firmware
from codesign.toolchain.flash import flash_elf
from codesign.toolchain.project import Project, Sources, generate_project

if TYPE_CHECKING:
    from codesign.codegen import Weights
    from codesign.tflm import TflmRuntime

OVERFLOW = re.compile(r"region [`'](\w+)' overflowed by (\d+) bytes?")


LARGEST_FRAME = 0xFFFF
COUNTER_BYTES = 8
LARGEST_ARENA = 1 << 20
_TFLM_RAM = 2048  # the interpreter's own variables and the application's


@dataclass(frozen=True)
class Build:
    """A built firmware. Sizes in bytes.

    `flash_bytes` is all content in flash; `ram_bytes` is static data (.data and .bss); `stack_size` is the stack
    reserved beside it. `build_id` (32 hex digits) and `model_sha256` (64) are what the firmware reports when asked to
    identify. `runtime` runs the model, by the semantics `profile`; `weights` is how the generated C packs them;
    `arena_bytes` TFLM's tensor arena, part of `ram_bytes`.
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
    runtime: str = OWN_RUNTIME
    profile: str = OWN_PROFILE
    weights: str = "int8"
    arena_bytes: int | None = None

    @property
    def memory_map(self) -> dict[str, tuple[Section, ...]]:
        """Sections by memory region ('flash' and 'ram'), in address order; .data counts in both."""
        flash = [s for s in self.sections if s.loaded]
        ram = [s for s in self.sections if s.writable]
        return {
            "flash": tuple(sorted(flash, key=lambda s: s.load_address)),
            "ram": tuple(sorted(ram, key=lambda s: s.address)),
        }


def build(
    network: IntegerNetwork,
    board: Board,
    folder: Path | str,
    weights: Weights = "int8",
    runtime: TflmRuntime | None = None,
) -> Build:
    """Generate the sources for `network` and the PlatformIO project in `folder`, and build it.

    With `runtime`, TFLM's interpreter runs the model, else C generated with `weights`. InputError: the network does not
    fit the board (with the figures), or TFLM cannot run it. MissingToolError: compiler or PlatformIO missing.
    CodesignError: the build failed (with the compiler's first error).
    """
    from codesign.codegen import generate

    check_buildable(network, board, weights, runtime)
    if runtime is not None:
        return _build_tflm(network, board, folder, runtime)
    with tempfile.TemporaryDirectory(prefix="codesign-") as scratch:
        generate(network, Path(scratch), weights)
        project = generate_project(Path(scratch), board, folder)
    return replace(build_project(project, network.sha256), profile=network.profile, weights=weights)


def check_buildable(
    network: IntegerNetwork, board: Board, weights: Weights = "int8", runtime: TflmRuntime | None = None
) -> None:
    """Raise early what `build` would raise: for a model that cannot fit or run, and for tools that are missing."""
    from codesign.tflm.sources import kernel_files

    pio.require_compiler()
    pio.require_platformio()
    if runtime is None:
        check_fits(network, board, weights)
        return
    if weights != "int8":
        raise InputError("TFLM reads the weights as the model's file has them: leave out --weights")
    profile = runtime.profile(network)
    if network.profile != profile:
        raise InputError(
            f"the network was read for the semantics profile '{network.profile}', and this TFLM has '{profile}': "
            "read it with that profile"
        )
    pio.require_cxx_compiler()
    kernel_files(network, runtime)
    _largest_arena(network, board)


def _largest_arena(network: IntegerNetwork, board: Board) -> int:
    largest = board.ram.size - board.stack_bytes - _TFLM_RAM - frame_bytes(network)
    if largest < 1024:
        raise _does_not_fit(board, "RAM", f"more than {board.ram.size - largest}", board.ram.size)
    return min(largest, LARGEST_ARENA) & ~15


def _build_tflm(network: IntegerNetwork, board: Board, folder: Path | str, runtime: TflmRuntime) -> Build:
    """Without a size given, the first build has the largest arena that fits, and the second the smallest that works."""
    from codesign.tflm import measure_arena, runtime_files

    arena = runtime.arena or _largest_arena(network, board)

    def attempt(arena: int) -> Build:
        files = runtime_files(network, runtime, arena)
        sources = Sources(files.files, files.includes, ("CS_RUNTIME_TFLM=1", *files.defines))
        built = build_project(generate_project(sources, board, folder), network.sha256)
        return replace(built, runtime=runtime.name, profile=network.profile, arena_bytes=arena)

    built = attempt(arena)
    needed = measure_arena(built)
    if runtime.arena is None and needed < arena:
        built = attempt(needed)
        measure_arena(built)
    return built


def check_fits(network: IntegerNetwork, board: Board, weights: Weights = "int8") -> None:
    """Refuse a network whose constants or static buffers alone exceed the board's flash or RAM (InputError).

    A lower bound, to fail before any C is written; the linker has the last word. Also refuses a network whose input or
    output does not fit a frame of the serial protocol.
    """
    from codesign.codegen import memory_estimate

    estimate = memory_estimate(network, weights)
    parameters = int(estimate["flash_bytes"])
    buffers = frame_bytes(network) + int(estimate["ram_bytes"]) + board.stack_bytes
    if parameters > board.flash.size:
        raise _does_not_fit(board, "flash", f"at least {parameters}", board.flash.size)
    if buffers > board.ram.size:
        raise _does_not_fit(board, "RAM", f"at least {buffers}", board.ram.size)


def frame_bytes(network: IntegerNetwork) -> int:
    """RAM of the application's buffers: a request, an input, an output. InputError where one does not fit a frame."""
    size = 1 if network.activations == "int8" else 2
    inputs, outputs = (int(np.prod(tensor.shape)) for tensor in (network.input, network.output))
    if size * inputs > LARGEST_FRAME or size * outputs + COUNTER_BYTES > LARGEST_FRAME:
        raise InputError(
            f"the model has {inputs} input and {outputs} output values: one frame of the serial protocol "
            f"takes {LARGEST_FRAME // size} and {(LARGEST_FRAME - COUNTER_BYTES) // size}; use fewer time steps"
        )
    request = 4 * inputs if 4 * inputs <= LARGEST_FRAME else size * inputs
    return request + size * (inputs + outputs)


def build_project(project: Project, model_sha256: str) -> Build:
    """Build a generated project with PlatformIO Core; the errors are those of `build`."""
    board = project.board
    cache = {"CODESIGN_OBJECT_CACHE": str(pio.object_cache(pio.require_compiler()))}
    result = pio.run(project.folder, "--environment", board.name, extra=cache)
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
