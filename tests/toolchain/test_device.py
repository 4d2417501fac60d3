"""The built ELF files run: under QEMU where it has the board, on Unicorn's core for the STM32F746."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from toolchain_support import STUB, STUB_HASH, frame, identify_fields, qemu, stub_output

from codesign.resources import resource_dir
from codesign.toolchain import Build, build_project, generate_project, load_board

MakeBuild = Callable[[str], Build]
QEMU_BOARDS = ("mps2_an386", "mps2_an500", "netduinoplus2")
pytestmark = pytest.mark.arm
needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed")
GUARD_HIT = 0x92  # MMARVALID, MSTKERR, DACCVIOL: the store and the fault's own frame lie in the MPU region
STACK_LIMIT = 1 << 20  # STKOF
STUB_BAD_READ, STUB_OVERFLOW, STUB_LOOP, STUB_LOOP_COUNT = 127, 126, 125, 360_000_000


def machine(build: Build) -> str:
    assert build.board.emulator is not None
    return build.board.emulator.machine


def zeros(first: int) -> bytes:
    return bytes([first & 0xFF]) + bytes(11)


@needs_qemu
@pytest.mark.parametrize("name", QEMU_BOARDS)
def test_device_answers(stub_build: MakeBuild, name: str) -> None:
    build = stub_build(name)
    with qemu(build.elf, machine(build), "-icount", "shift=0") as device:
        fields = identify_fields(device.wait_until_up().payload)
        assert fields["protocol"] == 1
        assert fields["hash"] == STUB_HASH
        assert fields["build"] == build.build_id
        assert fields["board"] == name
        assert (fields["input"], fields["output"], fields["steps"], fields["features"]) == (12, 5, 3, 4)
        assert (fields["counter"], fields["granularity"]) == (1, 1)
        # QEMU's STM32F405 has no clock tree: the firmware must say that it fell back.
        fallback = name == "netduinoplus2"
        assert (fields["flags"], fields["clock"]) == ((1, 16_000_000) if fallback else (0, build.board.clock_hz))
        counts = set()
        for seed in range(5):
            q = np.random.default_rng(seed).integers(-100, 100, 12).astype(np.int8)
            reply = device.ask(0x02, q.tobytes())
            assert reply.payload[:5] == stub_output(q)
            counts.add(struct.unpack("<Q", reply.payload[5:])[0])
        assert all(0 < c < 1000 for c in counts)
        assert max(counts) - min(counts) <= 2
        x = np.linspace(-5, 5, 12).astype(np.float32)
        assert np.frombuffer(device.ask(0x05, x.tobytes()).payload, np.int8).tolist() == x.astype(int).tolist()
        device.send(b"\xc5\xd1noise")
        while device.receive().type != 0xFF:
            pass
        used, size, invocations, bad = struct.unpack("<IIII", device.ask(0x04).payload)
        assert 64 < used < size == build.stack_size
        assert (invocations, bad) == (5, 1)


@needs_qemu
def test_a_board_of_the_users_own_without_fpu(tmp_path: Path) -> None:
    """A Cortex-M3 from a board file outside the package."""
    text = (resource_dir("boards") / "mps2_an386.toml").read_text()
    for old, new in (("386", "385"), ("cortex-m4", "cortex-m3"), ("fpv4-sp-d16", ""), ('"hard"', '"soft"')):
        text = text.replace(old, new)
    (tmp_path / "mine.toml").write_text(text)
    board = load_board(tmp_path / "mine.toml")
    build = build_project(generate_project(STUB, board, tmp_path / "fw"), "00" * 32)
    with qemu(build.elf, machine(build)) as device:
        assert identify_fields(device.wait_until_up().payload)["board"] == "mps2_an385"
        q = np.arange(12, dtype=np.int8)
        assert device.ask(0x02, q.tobytes()).payload[:5] == stub_output(q)


@needs_qemu
def test_counter_passes_the_24_bit_wrap(stub_build: MakeBuild) -> None:
    """720 million instructions are 18 million SysTick ticks, past the counter's 2^24."""
    build = stub_build("mps2_an386")
    with qemu(build.elf, machine(build), "-icount", "shift=0") as device:
        device.wait_until_up()
        base = struct.unpack("<Q", device.ask(0x02, zeros(0)).payload[5:])[0]
        count = struct.unpack("<Q", device.ask(0x02, zeros(STUB_LOOP)).payload[5:])[0]
    ticks = 2 * STUB_LOOP_COUNT / 40
    assert ticks > 1 << 24
    assert abs(count - base - ticks) <= 4


@needs_qemu
@pytest.mark.parametrize("name", [*QEMU_BOARDS, "mps2_an505"])
@pytest.mark.parametrize(("first", "symbol"), [(STUB_BAD_READ, "cs_model_invoke"), (STUB_OVERFLOW, "stub_overflow")])
def test_faults_are_reported(stub_build: MakeBuild, name: str, first: int, symbol: str) -> None:
    """A stack overflow by its guard, at its first access: what lies below the stack may be a hole that swallows writes,
    and a recursion that runs through it comes back to the program's own memory."""
    build = stub_build(name)
    with qemu(build.elf, machine(build)) as device:
        device.wait_until_up()
        reply = device.ask(0x02, zeros(first))
        assert reply.type == 0xFF
        code, request, pc, cfsr, hfsr = struct.unpack("<BBIII", reply.payload)
        assert (code, request) == (16, 0)
        assert hfsr & (1 << 30)  # FORCED: a fault that escalated
        place = build.image.symbol(symbol)
        if first == STUB_BAD_READ:
            assert place.address <= pc < place.address + place.size
        else:
            assert cfsr == (STACK_LIMIT if name == "mps2_an505" else GUARD_HIT)
        device.send(frame(0x01, 1))
        device.connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            device.receive()


class Stm32:
    """Unicorn's Cortex-M7 with the registers that start-up and USART3 need; `dead` clocks never get ready."""

    def __init__(self, build: Build, dead: bool) -> None:
        import unicorn
        from unicorn import arm_const

        self.unicorn, self.const = unicorn, arm_const
        self.dead = dead
        self.registers: dict[int, int] = {}
        self.writes: list[tuple[int, int]] = []
        self.input = b""
        self.output = b""
        self.cpu = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        self.cpu.ctl_set_cpu_model(arm_const.UC_CPU_ARM_CORTEX_M7)
        for memory in (build.board.flash, build.board.ram):
            self.cpu.mem_map(memory.origin, memory.size)
        self.cpu.mem_write(build.board.flash.origin, build.bin.read_bytes())
        self.cpu.mmio_map(0x40000000, 0x80000, self.read, None, self.write, None)
        self.cpu.mem_map(0xE0000000, 0x100000)
        self.reset = struct.unpack("<II", build.bin.read_bytes()[:8])

    def read(self, _uc: object, offset: int, _size: int, _data: object) -> int:
        address = 0x40000000 + offset
        value = self.registers.get(address, 0)
        if address == 0x4000481C:  # ISR: TXE, RXNE
            if not self.input and self.complete():
                self.cpu.emu_stop()
            return 0x80 | (0x20 if self.input else 0)
        if address == 0x40004824:
            byte, self.input = self.input[0], self.input[1:]
            return byte
        if self.dead:
            return value
        if address == 0x40023800:  # CR: a ready bit follows each enable bit
            return value | (value & 0x01010001) << 1
        if address == 0x40023808:  # CFGR: SWS follows SW
            return value | (value & 3) << 2
        if address == 0x40007004:  # CSR1 follows ODEN and ODSWEN
            return self.registers.get(0x40007000, 0) & 0x30000
        return value

    def complete(self) -> bool:
        out = self.output
        return len(out) >= 7 and len(out) == 11 + int.from_bytes(out[5:7], "little")

    def write(self, _uc: object, offset: int, _size: int, value: int, _data: object) -> None:
        address = 0x40000000 + offset
        self.writes.append((address, value))
        self.registers[address] = value
        if address == 0x40004828:
            self.output += bytes([value & 0xFF])

    def run(self, request: bytes) -> bytes:
        self.input = request
        self.cpu.reg_write(self.const.UC_ARM_REG_SP, self.reset[0])
        self.cpu.emu_start(self.reset[1], 0xFFFFFFFE, timeout=20_000_000)
        return self.output


@pytest.mark.parametrize("dead", [False, True])
def test_stm32f746_starts(stub_build: MakeBuild, dead: bool) -> None:
    pytest.importorskip("unicorn")
    board = Stm32(stub_build("nucleo_f746"), dead)
    reply = board.run(frame(0x01, 77))
    assert reply[:2] == b"\xc5\xd1"
    assert struct.unpack_from("<BH", reply, 2) == (0x81, 77)
    fields = identify_fields(reply[7:-4])
    assert (fields["flags"], fields["clock"]) == ((1, 16_000_000) if dead else (0, 216_000_000))
    assert fields["board"] == "nucleo_f746"
    written = dict(board.writes)
    assert written[0x4000480C] == round((16e6 if dead else 54e6) / 115200)  # BRR
    assert written[0x40020C04 - 4] >> 16 & 0xF == 0b1010  # GPIOD MODER: PD8 and PD9 alternate function
    assert written[0x40020C24] & 0xFF == 0x77  # AFRH: AF7
    if dead:
        assert written[0x40023808] & 3 == 0
    else:
        assert written[0x40023804] == 4 | 216 << 6 | 1 << 22 | 9 << 24 | 2 << 28  # PLLCFGR
        assert written[0x40023C00] & 15 == 7  # flash wait states
        assert written[0x40023808] == 2 | 5 << 10 | 4 << 13  # APB1 / 4, APB2 / 2, PLL
        latency = next(i for i, (a, _) in enumerate(board.writes) if a == 0x40023C00)
        switch = next(i for i, (a, v) in enumerate(board.writes) if a == 0x40023808 and v & 3 == 2)
        assert latency < switch  # never fast before the flash can follow
