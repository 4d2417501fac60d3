"""Flashing against the real openocd, which is given its dummy adapter or made to think that a chip is there."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from codesign.errors import CodesignError, InputError, MissingToolError
from codesign.resources import resource_dir
from codesign.toolchain import Board, flash_elf, list_boards, load_board, openocd_command, reset_board

FLASHABLE = [name for name in list_boards() if load_board(name).flashing is not None]
needs_openocd = pytest.mark.skipif(shutil.which("openocd") is None, reason="openocd is not installed")


def dummy(name: str) -> Board:
    """The board behind openocd's dummy adapter, which drives no wires."""
    board = load_board(name)
    assert board.flashing is not None
    flashing = dataclasses.replace(board.flashing, config=("interface/dummy.cfg", "target/stm32f7x.cfg"))
    return dataclasses.replace(board, flashing=flashing)


def with_a_chip(command: list[str], device_id: int) -> subprocess.CompletedProcess[str]:
    """The command line as it is, but for the words that need hardware."""
    words = (
        f"proc init {{}} {{ echo INIT }}; proc mrw {{ address }} {{ return {device_id:#x} }}; "
        'proc program { file args } { echo "PROGRAM $file $args"; shutdown }; proc reset { how } { echo "RESET $how" }'
    )
    return subprocess.run(
        [*command[:-2], "-c", words, *command[-2:]],
        capture_output=True, text=True, timeout=30, check=False, cwd=resource_dir("firmware"),
    )  # fmt: skip


@needs_openocd
@pytest.mark.parametrize("name", FLASHABLE)
def test_every_boards_command_line_programs_verifies_and_resets(name: str) -> None:
    board = load_board(name)
    assert board.flashing is not None
    identity = board.flashing.device_id[1] if board.flashing.device_id else 0
    result = with_a_chip(openocd_command(board, "program {/x/a b.elf} verify reset exit", "0123ABC"), identity)
    assert result.returncode == 0, result.stderr
    assert "PROGRAM /x/a b.elf verify reset exit" in result.stderr
    if board.flashing.device_id:
        foreign = with_a_chip(openocd_command(board, "program x verify reset exit"), identity ^ 1)
        assert foreign.returncode != 0
        assert "PROGRAM" not in foreign.stderr
        assert "not the board's" in foreign.stderr


@needs_openocd
def test_reset_runs_the_firmware() -> None:
    result = with_a_chip(openocd_command(load_board("nucleo_f746"), "init; reset run; shutdown"), 0x449)
    assert result.returncode == 0, result.stderr
    assert "RESET run" in result.stderr


@needs_openocd
def test_no_chip_behind_the_adapter_is_told(tmp_path: Path) -> None:
    elf = tmp_path / "firmware.elf"
    elf.write_bytes(b"\x7fELF")
    with pytest.raises(CodesignError, match="flashing NUCLEO-F746ZG failed: Error"):
        flash_elf(elf, dummy("nucleo_f746"))
    with pytest.raises(CodesignError, match="resetting NUCLEO-F746ZG failed: Error"):
        reset_board(dummy("nucleo_f746"))


@needs_openocd
def test_scripts_in_the_working_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "interface").mkdir()
    (tmp_path / "interface" / "dummy.cfg").write_text(f"exec touch {tmp_path}/ran\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CodesignError):
        reset_board(dummy("nucleo_f746"))
    assert not (tmp_path / "ran").exists()


def test_an_openocd_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "openocd"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(CodesignError, match="did not end within 1 s"):
        reset_board(load_board("nucleo_f746"), timeout=0.5 + 0.5)


def test_what_cannot_be_flashed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no way to be flashed"):
        openocd_command(load_board("mps2_an385"), "exit")
    with pytest.raises(InputError, match="cannot take the file name"):
        flash_elf(tmp_path / "a} ; exec evil ; {.elf", load_board("nucleo_f746"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match="sudo apt install openocd"):
        flash_elf(tmp_path / "x.elf", load_board("nucleo_f746"))
