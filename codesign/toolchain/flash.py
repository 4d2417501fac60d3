"""Programming and resetting a real board with openocd, where no PlatformIO project is at hand to do it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from codesign.errors import CodesignError, InputError
from codesign.resources import resource_dir
from codesign.toolchain import pio
from codesign.toolchain.boards import Board

FLASH_SECONDS = 120.0
RESET_SECONDS = 30.0


def openocd_command(board: Board, actions: str, probe_serial: str = "") -> list[str]:
    """openocd's command line: the board's scripts, the probe, the check of the chip, then `actions`.

    InputError where the board has no [flash] table.
    """
    if board.flashing is None:
        raise InputError(f"{board.title} has no way to be flashed: run it emulated, without --port")
    command = ["openocd"]
    for script in board.flashing.config:
        command += ["-f", script]
    if probe_serial:
        command += ["-c", f"adapter serial {probe_serial}"]
    check = ""
    if board.flashing.device_id is not None:
        command += ["-f", str(resource_dir("firmware") / "platform" / "openocd_check.cfg")]
        address, value = board.flashing.device_id
        check = f"init; codesign_require_device {address:#x} {value:#x}; "
    return [*command, "-c", check + actions]


def flash_elf(elf: Path, board: Board, probe_serial: str = "", timeout: float = FLASH_SECONDS) -> str:
    """Program `elf`, verify it and start it; openocd's log. CodesignError, in openocd's words, where that fails."""
    if any(character in str(elf.resolve()) for character in '{}[]$"\\\n'):
        raise InputError(f"openocd cannot take the file name {elf}; copy the ELF to a plainer path")
    return _run(
        openocd_command(board, f"program {{{elf.resolve()}}} verify reset exit", probe_serial),
        board,
        "flashing",
        timeout,
    )


def reset_board(board: Board, probe_serial: str = "", timeout: float = RESET_SECONDS) -> str:
    """Reset the board and let its firmware run; openocd's log. The errors are those of `flash_elf`."""
    return _run(openocd_command(board, "init; reset run; shutdown", probe_serial), board, "resetting", timeout)


def _run(command: list[str], board: Board, what: str, timeout: float) -> str:
    pio.require_openocd()
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            cwd=resource_dir("firmware"),  # openocd looks for scripts in its working folder first
        )
    except subprocess.TimeoutExpired:
        raise CodesignError(f"{what} {board.title} did not end within {timeout:.0f} s") from None
    if result.returncode != 0:
        lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
        told = next((line for line in lines if line.startswith("Error")), lines[-1] if lines else "no output")
        raise CodesignError(f"{what} {board.title} failed: {told}")
    return result.stdout
