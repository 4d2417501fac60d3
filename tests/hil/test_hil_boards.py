"""Every board builds every sample model and runs it, bit for bit, on its emulator."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hil_support import SAMPLE_MODELS, assemble, integer_network, need_emulator, need_toolchain

from codesign.errors import InputError
from codesign.hil import DeviceError, emulator_spec, open_target
from codesign.hil.emulators import EmulatedBoard
from codesign.quantization import read_integer_network
from codesign.semantics import simulate
from codesign.toolchain import build, list_boards, load_board

if TYPE_CHECKING:
    from codesign.toolchain import Board, Build

Built = Callable[[str, str], "Build"]
MODELS = Path(__file__).parents[2] / "models"
NAMES = ("vowels", "digits", "motion")


@pytest.mark.parametrize("model", NAMES)
@pytest.mark.parametrize("board", list_boards())
def test_every_sample_model_runs_on_every_board(board: str, model: str, built: Built) -> None:
    described = load_board(board)
    assert described.emulator is not None
    need_emulator(described.emulator.kind)
    network = integer_network(model)
    firmware = built(model, board)
    q = np.random.default_rng(5).integers(-128, 128, (4, *network.input.shape)).astype(np.int8)
    q[0], q[1] = -128, 127
    with open_target(firmware, emulate=True) as target:
        inferences = [target.device.infer(values) for values in q]
        metrics = target.device.metrics()
        assert target.identity.board == board
    assert np.array_equal(np.stack([i.output for i in inferences]), simulate(network, q).reshape(len(q), -1))
    counts = [target.count(i) for i in inferences]
    assert all(count is not None and 5_000 < count < 1_000_000 for count in counts)
    assert max(counts) - min(counts) < 0.1 * min(counts)  # type: ignore[type-var, operator]
    assert 0 < metrics.stack_high_water < metrics.stack_size


def test_the_sample_models_are_those_of_today() -> None:
    """What stands here for the converted models/NAME.h5 was made from the files that are there now."""
    made_from = json.loads((SAMPLE_MODELS / "made_from.json").read_text())
    assert set(made_from) == {f"{name}.{kind}" for name in NAMES for kind in ("h5", "calib.npz")}
    for name, digest in made_from.items():
        now = hashlib.sha256((MODELS / name).read_bytes()).hexdigest()
        assert now == digest, f"models/{name} changed: run python tools/board_matrix.py --convert"


def with_memory(board: str, kind: str, size: int) -> Board:
    described = load_board(board)
    memories = [dataclasses.replace(m, size=size) if m.kind == kind else m for m in described.memories]
    return dataclasses.replace(described, memories=tuple(memories), stack_bytes=1024)


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("flash", 8192, r"it needs at least \d+ bytes of flash, and there are 8192"),  # known before anything is built
        ("ram", 1600, r"it needs at least \d+ bytes of RAM, and there are 1600"),
        ("flash", 16384, r"it needs \d+ bytes of flash, and there are 16384"),  # the linker says so
    ],
)
def test_a_model_that_does_not_fit_is_refused_for_its_size(kind: str, size: int, message: str, tmp_path: Path) -> None:
    need_toolchain()
    with pytest.raises(InputError, match=message):
        build(integer_network("vowels"), with_memory("microbit", kind, size), tmp_path / "firmware")


def test_cores_with_the_same_instructions_count_the_same(built: Built) -> None:
    """Unicorn's exact count and QEMU's SysTick agree on Cortex-M3 and M4, and the M0's timer with the M0+'s SysTick."""
    need_emulator("unicorn")
    need_emulator("qemu")
    q = np.zeros(integer_network("digits").input.shape, np.int8)

    @cache
    def count(board: str) -> int:
        with open_target(built("digits", board), emulate=True) as target:
            result = target.count(target.device.infer(q))
        assert result is not None
        return result

    assert abs(count("nucleo_f103") - count("mps2_an385")) <= 100 + 0.05 * count("mps2_an385")
    assert abs(count("nucleo_l476") - count("mps2_an386")) <= 100 + 0.05 * count("mps2_an386")
    assert abs(count("pico") - count("microbit")) <= 200


CHANGES: list[tuple[str, dict[str, Any], str]] = [
    ("nucleo_f446", {"clock_hz": 168_000_000}, "the core runs at 180000000 Hz, the board file says 168000000"),
    ("nucleo_f446", {"hse_hz": 25_000_000}, "is outside 1 to 2 MHz"),
    ("nucleo_f446", {"alternate_function": 8}, r"pin PA2 is not set to USART2 \(AF8\)"),
    ("nucleo_l476", {"hse_hz": 16_000_000}, "outside its range|too few flash wait states"),
    ("nucleo_l476", {"pins": ("PA2", "PB3")}, "pin PB3 is not set to USART2|GPIOB is used while its clock is off"),
    ("nucleo_f103", {"hse_hz": 12_000_000}, "too few flash wait states|beyond its limit"),
    ("nucleo_f103", {"pins": ("PA4", "PA3")}, "pin PA4 is no output of USART2"),
    ("nrf52840dk", {"baud": 9600}, "UART0 runs at 114746 baud, the board file says 9600"),
    ("nrf52840dk", {"pins": ("P1.02", "P0.08")}, r"UART0 is not connected to pin P1\.02"),
    ("pico", {"hse_hz": 13_000_000}, "oscillator 1625000000 Hz is outside its range"),
    ("pico", {"pins": ("GP12", "GP1")}, "pin GP12 is not set to UART0"),
    ("pico", {"machine": "stm32f999"}, "machine stm32f999 is not modelled"),
]


@pytest.mark.parametrize(("board", "changes", "message"), CHANGES)
def test_a_firmware_for_other_hardware_is_stopped_with_the_reason(
    board: str, changes: dict[str, Any], message: str, built: Built
) -> None:
    """The firmware is set up for the board file; the emulated hardware is another."""
    from codesign.hil import Device

    need_emulator("unicorn")
    spec = dataclasses.replace(emulator_spec(load_board(board), built("digits", board).elf), **changes)

    def connect() -> None:
        with EmulatedBoard(spec) as emulated, Device(emulated.port, timeout=5, diagnose=emulated.failure) as device:
            device.connect(3.0)

    with pytest.raises(DeviceError, match=message):
        connect()


def test_rp2040_does_not_boot_a_damaged_second_stage(built: Built, tmp_path: Path) -> None:
    from codesign.hil import mutate

    need_emulator("unicorn")
    elf = built("digits", "pico").elf
    mutate.flip_bit(elf, tmp_path / "mutant.elf", "boot2", 20, 3)
    spec = dataclasses.replace(emulator_spec(load_board("pico"), elf), elf=str(tmp_path / "mutant.elf"))
    with pytest.raises(DeviceError, match="the boot ROM refuses the flash"):
        EmulatedBoard(spec)


@pytest.mark.parametrize("cpu", ["cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33"])
def test_peripherals_inside_an_it_block_leave_no_trace(cpu: str, tmp_path: Path) -> None:
    """Unicorn leaves the IT state set after such an access, and takes the next branch for an invalid instruction."""
    need_emulator("unicorn")
    from codesign.hil.emulators.cortexm import BoardFaultError, Core, Image, SystemControlSpace

    text = """
        ldr r4, =0xE000E014
        movs r0, #0
    1:  cmp r0, #0
        ittt eq
        ldreq r1, [r4]
        streq r1, [r4]
        moveq r2, #7
        cmp r0, #3
        add r0, r0, #1
        bne 1b
        bkpt #0
        .ltorg
    """
    image = Image.load(str(assemble(text, tmp_path)))
    core = Core(image, [(0x0800_0000, 0x1_0000, False), (0x2000_0000, 0x1_0000, True)], cpu)
    core.system = SystemControlSpace(core.now)
    with pytest.raises(BoardFaultError, match="BKPT"):
        core.run()


def test_int16_activations_on_a_board(tmp_path: Path) -> None:
    """And that firmware and model of different activations never match."""
    from hil_support import FIXTURES

    from codesign.hil import cross_check
    from codesign.network import load_network

    need_toolchain()
    need_emulator("qemu")
    network = read_integer_network(FIXTURES / "stacked.int16.tflite")
    real = load_network(FIXTURES / "stacked.h5")
    x = np.load(FIXTURES / "stacked.calib.npz")["x"].astype(np.float32)[:6]
    firmware = build(network, load_board("mps2_an505"), tmp_path / "firmware")
    journal = tmp_path / "hil.jsonl"
    with open_target(firmware, emulate=True) as target:
        result = cross_check(target, network, real, x, build_id=firmware.build_id, journal=journal)
        resumed = cross_check(target, network, real, x, build_id=firmware.build_id, journal=journal, resume=True)
        other = cross_check(target, read_integer_network(FIXTURES / "stacked.tflite"), real, x)
    assert (result["verdict"], result["failures"]) == ("PASS", [])
    assert result["summary"]["bit_exact"] == result["summary"]["samples"] == 6
    assert result["traces"][0]["layers"]
    assert resumed["samples"] == result["samples"]
    assert other["verdict"] == "FAIL"
    assert other["summary"]["samples"] == 0
