"""Emulated boards as processes behind a pseudo-terminal."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hil_support import assemble, load_model, need_emulator, need_toolchain, processes_with, wait_until_gone

from codesign.errors import InputError, MissingToolError
from codesign.hil import Device, DeviceError, emulator_spec, open_target
from codesign.hil.emulators import EmulatedBoard, EmulatorSpec, MemoryRegion
from codesign.quantization.integer import IntLstm
from codesign.semantics import quantize_input, simulate
from codesign.toolchain import build, load_board

if TYPE_CHECKING:
    from codesign.toolchain import Build

Built = Callable[[str, str], "Build"]
BOARDS = [("unicorn", "nucleo_f746"), ("qemu", "mps2_an500")]
ROOT = Path(__file__).parents[2]


def qemu_spec(elf: Path) -> EmulatorSpec:
    return EmulatorSpec("qemu", "mps2-an500", "mps2_an500", str(elf), 25_000_000, 115200)


def f746_spec(elf: Path) -> EmulatorSpec:
    return emulator_spec(load_board("nucleo_f746"), elf)


def failure_of(board: EmulatedBoard) -> str:
    limit = time.monotonic() + 10
    while (reason := board.failure()) is None:
        assert time.monotonic() < limit, "the emulator goes on"
        time.sleep(0.02)
    return reason


@pytest.mark.parametrize(
    ("kind", "board", "model", "samples"),
    [
        ("unicorn", "nucleo_f746", "tiny", 40),
        ("unicorn", "nucleo_f746", "stacked", 20),
        ("qemu", "mps2_an500", "tiny", 40),
        ("qemu", "mps2_an500", "stacked", 20),
    ],
)
def test_firmware_is_bit_exact(kind: str, board: str, model: str, samples: int, built: Built) -> None:
    need_emulator(kind)
    networks = load_model(model)
    rng = np.random.default_rng(1)
    q = rng.integers(-128, 128, (samples, *networks.integer.input.shape)).astype(np.int8)
    q[0], q[1] = -128, 127
    firmware = built(model, board)
    reference = simulate(networks.integer, q).reshape(samples, -1)
    with open_target(firmware, emulate=True) as target:
        assert target.emulated
        assert target.description.startswith("EMULATED")
        assert target.counter == "instructions"
        outputs = np.stack([target.device.infer(sample).output for sample in q])
        metrics = target.device.metrics()
    assert np.array_equal(outputs, reference)
    assert metrics.invocations == samples
    assert 0 < metrics.stack_high_water < metrics.stack_size
    assert metrics.bad_frames == 0


def counts(firmware: Build, samples: int = 8) -> list[int | None]:
    networks = load_model("tiny")
    q = quantize_input(networks.integer, networks.x[:samples])
    with open_target(firmware, emulate=True) as target:
        return [target.count(target.device.infer(sample)) for sample in q]


def test_instruction_counts_repeat_and_agree_between_emulators(built: Built) -> None:
    """Unicorn counts single instructions, QEMU in SysTick periods of 40: the same kernels on both boards."""
    need_emulator("unicorn")
    need_emulator("qemu")
    exact = counts(built("tiny", "nucleo_f746"))
    assert counts(built("tiny", "nucleo_f746")) == exact
    coarse = counts(built("tiny", "mps2_an500"))
    assert all(c is not None and c % 40 == 0 for c in coarse)
    for fine, rough in zip(exact, coarse, strict=True):
        assert fine is not None
        assert rough is not None
        assert fine > 1000
        assert abs(fine - rough) <= 40 + 60  # a period, and what reading the other counter takes


@pytest.mark.parametrize("rounds", [20_000, 400_000])
def test_qemu_counts_a_loop_of_known_length(rounds: int, tmp_path: Path) -> None:
    need_emulator("qemu")
    import serial

    program = f"""
        ldr r4, =0xE000E010
        ldr r0, =0xFFFFFF
        str r0, [r4, #4]
        str r0, [r4, #8]
        movs r0, #5
        str r0, [r4]
        ldr r5, =0x40004000
        movs r0, #3
        str r0, [r5, #8]
    2:  ldr r0, [r5, #4]
        tst r0, #2
        beq 2b
        ldr r0, [r5]
        ldr r0, ={rounds}
        ldr r1, [r4, #8]
    1:  subs r0, #1
        bne 1b
        ldr r2, [r4, #8]
        subs r3, r1, r2
        lsls r3, #8 @ the counter has 24 bits, and may have started again in between
        lsrs r3, #8
        str r3, [r5]
        movs r6, #3
    3:  lsrs r3, #8
    4:  ldr r0, [r5, #4]
        tst r0, #1
        bne 4b
        str r3, [r5]
        subs r6, #1
        bne 3b
        b .
        .ltorg
    """
    elf = assemble(program, tmp_path, flash=0)
    with EmulatedBoard(qemu_spec(elf)) as board, serial.Serial(board.port, timeout=10) as port:
        port.write(b"?")
        ticks = int.from_bytes(port.read(4), "little")
    assert abs(ticks * 40 - (2 * rounds + 1)) <= 40


def test_inference_of_usual_size_is_exact_and_fast(tmp_path: Path) -> None:
    """28 steps of 28 features, 20 units: 107,520 multiplications in the LSTM."""
    need_emulator("unicorn")
    need_toolchain()
    tiny = load_model("tiny").integer
    lstm = tiny.ops[0]
    assert isinstance(lstm, IntLstm)
    rng = np.random.default_rng(0)
    source = dataclasses.replace(tiny.input, shape=(28, 28))
    output = dataclasses.replace(lstm.output, shape=(28, 20))
    weights = [rng.integers(-127, 128, (4, 20, n)).astype(np.int8) for n in (28, 20)]
    bias = rng.integers(-2000, 2000, (4, 20)).astype(np.int32)
    lstm = dataclasses.replace(lstm, input=source, output=output, W=weights[0], R=weights[1], b=bias)
    network = dataclasses.replace(tiny, input=source, output=output, ops=(lstm,))
    q = rng.integers(-128, 128, (3, 28, 28)).astype(np.int8)
    with open_target(build(network, load_board("nucleo_f746"), tmp_path), emulate=True) as target:
        outputs = [target.device.infer(sample).output for sample in q]
        begun = time.monotonic()
        inference = target.device.infer(q[0])
        seconds = time.monotonic() - begun
    assert np.array_equal(np.stack(outputs), simulate(network, q).reshape(3, -1))
    assert inference.count > 107_520
    assert seconds < 2.0


def test_idle_emulator_sleeps(built: Built) -> None:
    need_emulator("unicorn")
    firmware = built("tiny", "nucleo_f746")
    with open_target(firmware, emulate=True):
        (process,) = processes_with(str(firmware.elf))

        def ticks() -> int:
            fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
            return int(fields[11]) + int(fields[12])

        before = ticks()
        time.sleep(1.0)
        assert (ticks() - before) / os.sysconf("SC_CLK_TCK") < 0.2


def test_port_can_be_opened_again(built: Built) -> None:
    need_emulator("unicorn")
    firmware = built("tiny", "nucleo_f746")
    with open_target(firmware, emulate=True) as target:
        target.device.close()
        for _ in range(3):
            with Device(target.port) as device:
                assert device.identify() == target.identity


def test_firmware_survives_garbage(built: Built) -> None:
    need_emulator("unicorn")
    import serial

    with EmulatedBoard(f746_spec(built("tiny", "nucleo_f746").elf)) as board:
        for junk in (b"\xc5\xd1\x02\x01\x00\x0c\x00abc", b"\xc5\xd1\x02\x01\x00\xff\xff", os.urandom(500)):
            with serial.Serial(board.port) as port:
                port.write(junk)
            with Device(board.port, timeout=2) as device:
                assert device.identify().board == "nucleo_f746"


# Ends


@pytest.mark.parametrize(("kind", "board"), BOARDS)
def test_no_process_is_left_when_the_user_raises(kind: str, board: str, built: Built) -> None:
    need_emulator(kind)
    firmware = built("tiny", board)

    def use() -> None:
        with open_target(firmware, emulate=True):
            assert processes_with(str(firmware.elf))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert processes_with(str(firmware.elf)) == []


@pytest.mark.parametrize(("kind", "board"), BOARDS)
def test_no_process_is_left_when_the_host_is_killed(kind: str, board: str, built: Built) -> None:
    need_emulator(kind)
    firmware = built("tiny", board)
    spec = repr(emulator_spec(load_board(board), firmware.elf))
    script = (
        "import os, time\nfrom codesign.hil.emulators import EmulatedBoard, EmulatorSpec, MemoryRegion\n"
        f"board = EmulatedBoard({spec})\nprint(board.port, flush=True)\ntime.sleep(60)\n"
    )
    host = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert host.stdout
        assert host.stdout.readline().startswith(b"/dev/pts/")
        assert processes_with(str(firmware.elf))
    finally:
        host.send_signal(signal.SIGKILL)
        host.wait()
        if host.stdout:
            host.stdout.close()
    assert wait_until_gone(str(firmware.elf))


def test_busy_firmware_is_ended_too(tmp_path: Path) -> None:
    need_emulator("unicorn")
    elf = assemble("b .", tmp_path)
    with EmulatedBoard(f746_spec(elf)):
        assert processes_with(str(elf))
    assert processes_with(str(elf)) == []


@pytest.mark.parametrize("kind", ["unicorn", "qemu"])
def test_dead_emulator_is_reported_by_the_link(kind: str, built: Built) -> None:
    need_emulator(kind)
    firmware = built("tiny", dict(BOARDS)[kind])
    with open_target(firmware, emulate=True, timeout=5.0) as target:
        for process in processes_with(str(firmware.elf)):
            os.kill(process, signal.SIGKILL)
        with pytest.raises(DeviceError, match="died during identify: the emulator ended with exit code"):
            target.device.identify()


# What the emulated STM32F746 does not let pass


CLOCK_ON = """
    ldr r0, =0x40023800
    ldr r1, =0x10040000
    str r1, [r0, #0x40]
    mov r1, #8
    str r1, [r0, #0x30]
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ldr r0, =0x40004800\nldr r1, [r0, #0x1c]", "USART3 is used while its clock is off"),
        ("ldr r0, =0x40020C00\nldr r1, [r0]", "GPIOD is used while its clock is off"),
        ("ldr r0, =0x40023800\nmovs r1, #2\nstr r1, [r0, #8]", "switched to the PLL, which does not run"),
        ("ldr r0, =0x40023800\nmovs r1, #1\nstr r1, [r0, #8]", "switched to HSE, which does not run"),
        (
            "ldr r0, =0x40023800\nldr r1, =0x04403604\nstr r1, [r0, #4]\nldr r1, =0x01010083\nstr r1, [r0]\n"
            "movs r1, #2\nstr r1, [r0, #8]",
            "216000000 Hz with 0 flash wait states; it needs 7",
        ),
        (
            "ldr r0, =0x40023800\nldr r1, =0x04403604\nstr r1, [r0, #4]\nldr r1, =0x01010083\nstr r1, [r0]\n"
            "ldr r2, =0x40023C00\nmovs r1, #7\nstr r1, [r2]\nmovs r1, #2\nstr r1, [r0, #8]",
            "beyond its limit with the over-drive",
        ),
        (CLOCK_ON + "ldr r0, =0x40004800\nmovs r1, #65\nstr r1, [r0, #0x28]", "transmitter is off"),
        (
            CLOCK_ON + "ldr r0, =0x40004800\nmovs r1, #13\nstr r1, [r0]\nmovs r1, #65\nstr r1, [r0, #0x28]",
            "runs at 16000000 Hz, the board file says 216000000 Hz",
        ),
        (CLOCK_ON + "ldr r0, =0x40004800\nmovs r1, #0x2d\nstr r1, [r0]", "USART3 enables an interrupt"),
    ],
)
def test_wrong_set_up_is_refused(text: str, message: str, tmp_path: Path) -> None:
    need_emulator("unicorn")
    with EmulatedBoard(f746_spec(assemble(text + "\nb .\n.ltorg", tmp_path))) as board:
        assert message in failure_of(board)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baud": 9600}, "USART3 runs at 115"),
        ({"pins": ("PD8", "PD10")}, "pin PD10 is not set to USART3 (AF7)"),
        ({"clock_hz": 200_000_000}, "the board file says 200000000 Hz"),
        ({"serial": "USART2"}, "USART3"),
        ({"serial": "LPUART1"}, "LPUART1 is not modelled"),
        ({"memories": (MemoryRegion("flash", 0x0800_0000, 0x1000, "flash"),)}, "not in this board's flash"),
    ],
)
def test_firmware_of_another_board_is_refused(change: dict[str, object], message: str, built: Built) -> None:
    need_emulator("unicorn")
    spec = dataclasses.replace(f746_spec(built("tiny", "nucleo_f746").elf), **change)  # type: ignore[arg-type]

    def run() -> str:
        with EmulatedBoard(spec) as board:
            return failure_of(board)

    if "memories" in change or change.get("serial") == "LPUART1":
        with pytest.raises(DeviceError) as caught:
            run()
        assert message in str(caught.value)
    else:
        # USART2 at USART3's place: the firmware finds no peripheral there.
        expected = "where no peripheral is modelled" if "serial" in change else message
        assert expected in run()


# Bad input


def test_qemu_that_refuses_the_machine(built: Built) -> None:
    need_emulator("qemu")
    spec = dataclasses.replace(qemu_spec(built("tiny", "mps2_an500").elf), machine="no-such-board")
    with EmulatedBoard(spec) as board:
        assert "no-such-board" in failure_of(board) or "unsupported machine" in failure_of(board)


def test_missing_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    elf = tmp_path / "x.elf"
    elf.write_bytes(b"")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match="apt-get install qemu-system-arm"):
        EmulatedBoard(qemu_spec(elf))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingToolError, match="pip install"):
        EmulatedBoard(f746_spec(elf))


def test_bad_specs(tmp_path: Path) -> None:
    need_emulator("qemu")
    with pytest.raises(InputError, match="build it first"):
        EmulatedBoard(qemu_spec(tmp_path / "none.elf"))
    with pytest.raises(InputError, match="unknown emulator 'renode'"):
        EmulatedBoard(dataclasses.replace(qemu_spec(tmp_path), kind="renode"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nucleo_f446 has no emulator"):
        emulator_spec(dataclasses.replace(load_board("nucleo_f446"), emulator=None), tmp_path / "x.elf")


def test_not_an_elf(tmp_path: Path) -> None:
    need_emulator("unicorn")
    elf = tmp_path / "x.elf"
    elf.write_bytes(b"no ELF at all")
    with pytest.raises(DeviceError, match=r"did not start: .*x\.elf is not an ELF file"):
        EmulatedBoard(f746_spec(elf))
