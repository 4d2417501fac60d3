from __future__ import annotations

import re
from pathlib import Path

import pytest

from codesign.errors import InputError
from codesign.resources import resource_dir
from codesign.toolchain import list_boards, load_board
from codesign.toolchain.boards import CORES

F746 = (resource_dir("boards") / "nucleo_f746.toml").read_text()


def test_every_board_loads() -> None:
    names = list_boards()
    assert {"nucleo_f746", "mps2_an386", "mps2_an500", "nucleo_f446", "netduinoplus2"} <= set(names)
    assert len(names) >= 10
    cores = set()
    for name in names:
        board = load_board(name)
        cores.add(board.core)
        assert board.name == name
        assert board.flash.size >= 128 * 1024
        assert board.ram.size >= 16 * 1024
        assert (board.flashing is not None) or (board.emulator is not None)
    assert cores == set(CORES)


def test_nucleo_f746_has_the_real_memory_map() -> None:
    board = load_board("nucleo_f746")
    assert (board.flash.origin, board.flash.size) == (0x08000000, 1024 * 1024)
    assert [(m.name, m.origin, m.size) for m in board.memories if m.kind == "ram"] == [
        ("dtcm", 0x20000000, 64 * 1024),
        ("sram1", 0x20010000, 240 * 1024),
        ("sram2", 0x2004C000, 16 * 1024),
    ]
    assert (board.ram.origin, board.ram.size) == (0x20000000, 320 * 1024)
    assert board.clock_hz == 216_000_000
    assert board.serial.peripheral == "USART3"
    assert board.serial.unit == 3
    assert (board.serial.tx.port, board.serial.tx.number, board.serial.af) == ("D", 8, 7)
    assert board.flashing is not None
    assert (0x0483, 0x374B) in board.flashing.usb


def test_separate_ram_is_not_joined() -> None:
    board = load_board("mps2_an386")
    assert sum(m.kind == "ram" for m in board.memories) == 2
    assert board.ram.size == 4 * 1024 * 1024


def test_unknown_board_lists_what_exists() -> None:
    with pytest.raises(InputError, match=r"unknown board 'nucleo'.*mps2_an386.*nucleo_f746"):
        load_board("nucleo")
    with pytest.raises(InputError, match=r"no board file .*missing\.toml"):
        load_board("missing.toml")


def test_board_from_a_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(F746.replace('name = "nucleo_f746"', 'name = "mine"').replace("115200", "460800"))
    board = load_board(path)
    assert (board.name, board.serial.baud) == ("mine", 460800)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name = ", "nam = ", "'name' is missing"),
        ('core = "cortex-m7"', 'core = "cortex-a9"', "'core' is 'cortex-a9'"),
        ("clock_hz = 216_000_000", "clock_hz = 200_000_000", "216000000 Hz, but 'clock_hz' is 200000000"),
        ("clock_hz = 216_000_000", 'clock_hz = "fast"', "'clock_hz' has to be of type int"),
        ("pll_n = 216", "pll_n = 500", "pll_n in 50..432"),
        ("pll_m = 4", "pll_m = 2", r"hse_hz / pll_m has to lie"),
        ("apb1_divider = 4", "apb1_divider = 3", "APB dividers"),
        ("origin = 0x2001_0000", "origin = 0x2000_8000", "'dtcm' and 'sram1' overlap"),
        ("size = 0x10_0000", "size = -1", "'size' has to be positive"),
        ("size = 0x10_0000", "size = 0xF800_0001", "32-bit address space"),
        ('kind = "flash"', 'kind = "rom"', "'kind' is 'rom'"),
        ('kind = "flash"', 'kind = "ram"', "no memory of kind 'flash'"),
        ('tx = "PD8"', 'tx = "D8"', "'tx' is 'D8'"),
        ("af = 7", "af = 16", "'af' has to lie in 0..15"),
        ('support = "stm32f7"', 'support = "avr"', "no board support 'avr'"),
        ("stack_bytes = 8192", "stack_bytes = 8191", "multiple of 8"),
        ("stack_bytes = 8192", "stack_bytes = 800000", "more than the RAM"),
        ('config = "board/st_nucleo_f7.cfg"', 'config = "x; rm -rf"', "openocd's own scripts"),
        ('config = "board/st_nucleo_f7.cfg"', 'config = "../evil.cfg"', "openocd's own scripts"),
        ('config = "board/st_nucleo_f7.cfg"', 'config = "/tmp/evil.cfg"', "openocd's own scripts"),
        ("[[0x0483, 0x374b],", "[[0x0483, -1],", "numbers of 16 bits"),
        ("[[0x0483, 0x374b],", "[[0x0483, true],", "numbers of 16 bits"),
        ('kind = "dwt"', 'kind = "sundial"', "'kind' is 'sundial'"),
        ('kind = "dwt"', 'kind = "board"', "has no counter of its own"),
        ('core = "cortex-m7"', 'core = "cortex-m0"', "cortex-m0 has no DWT cycle counter"),
        (", af = 7", "", "needs 'af' in 'pins'"),
        ('support = "stm32f7"', 'support = "stm32f1"', "has no 'af' in 'pins'"),
        ("baud = 115200", "baud = 99999999999999999999", "'baud' has to fit 32 bits"),
        ("baud = 115200", "baud = 1" + 5000 * "0", "not valid TOML"),
        ("name = ", "x = " + 20_000 * "[" + "\nname = ", "not valid TOML"),
        ("[counter]", "# " + "x" * (1 << 20) + "\n[counter]", "too large"),
        ("[counter]", "[kounter]", r"the table \[counter\] is missing"),
        ('mcu = "', 'colour = "red"\nmcu = "', "unknown key 'colour'"),
        ('title = "NUCLEO-F746ZG"', 'title = "a */ b"', "one line of text"),
        ("[serial]", "[serial", "not valid TOML"),
    ],
)
def test_bad_board_files_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in F746
    path = tmp_path / "bad.toml"
    path.write_text(F746.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        load_board(path)
    assert re.match(r"board file bad\.toml", str(caught.value))
