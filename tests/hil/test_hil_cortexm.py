"""The emulated core in this process, with programs of a few instructions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hil_support import assemble

pytest.importorskip("unicorn", reason="unicorn is not installed")

from codesign.hil.emulators.cortexm import BoardFaultError, Core, Image, SystemControlSpace

pytestmark = pytest.mark.filterwarnings("error")  # an exception may not leave a callback of Unicorn

MEMORIES = [(0x0800_0000, 0x1_0000, False), (0x2000_0000, 0x1_0000, True)]
DWT_ON = """
    ldr r4, =0xE000EDFC
    mov r5, #0x01000000
    str r5, [r4]
    ldr r4, =0xE0001000
    ldr r5, =0xC5ACCE55
    str r5, [r4, #0xFB0]
    movs r5, #1
    str r5, [r4]
"""


def run(text: str, folder: Path) -> tuple[Core, str]:
    """The core after the program, and the fault that ended it."""
    core = Core(Image.load(str(assemble(text, folder))), MEMORIES)
    system = SystemControlSpace(core.now)
    core.system = system
    core.floating_point_enabled = system.floating_point_enabled
    with pytest.raises(BoardFaultError) as caught:
        core.run()
    return core, str(caught.value)


def register(core: Core, number: int) -> int:
    from unicorn import arm_const

    return int(core.uc.reg_read(arm_const.UC_ARM_REG_R0 + number))


@pytest.mark.parametrize("rounds", [1, 2, 1000, 65535])
def test_cycle_counter_counts_a_loop_of_known_length(rounds: int, tmp_path: Path) -> None:
    program = (
        DWT_ON
        + f"""
        movw r0, #{rounds}
        ldr r1, [r4, #4]
    1:  nop
        subs r0, #1
        bne 1b
        ldr r2, [r4, #4]
        subs r3, r2, r1
        bkpt #0
    """
    )
    core, _ = run(program, tmp_path)
    assert register(core, 3) == 3 * rounds + 1  # and the first load itself


def test_cycle_counter_inside_one_block(tmp_path: Path) -> None:
    """Straight-line code: nothing but the program counter tells the loads apart."""
    core, _ = run(DWT_ON + "ldr r1, [r4, #4]\nnop\nnop.w\nnop\nldr r2, [r4, #4]\nbkpt #0", tmp_path)
    assert register(core, 2) - register(core, 1) == 4


def test_skipped_conditional_instructions_count(tmp_path: Path) -> None:
    text = (
        DWT_ON
        + "movs r0, #0\nldr r1, [r4, #4]\ncmp r0, #1\nitt eq\nmoveq r0, #5\nmoveq r0, #6\nldr r2, [r4, #4]\nbkpt #0"
    )
    core, _ = run(text, tmp_path)
    assert register(core, 2) - register(core, 1) == 5
    assert register(core, 0) == 0


def test_systick_counts_the_same(tmp_path: Path) -> None:
    program = """
        ldr r4, =0xE000E010
        ldr r0, =0xFFFFFF
        str r0, [r4, #4]
        str r0, [r4, #8]
        movs r0, #5
        str r0, [r4]
        movw r0, #500
        ldr r1, [r4, #8]
    1:  subs r0, #1
        bne 1b
        ldr r2, [r4, #8]
        subs r3, r1, r2
        bkpt #0
    """
    core, _ = run(program, tmp_path)
    assert register(core, 3) == 2 * 500 + 1


def test_locked_cycle_counter_stays_put(tmp_path: Path) -> None:
    without_key = DWT_ON.replace("0xC5ACCE55", "0x12345678")
    core, _ = run(without_key + "nop\nldr r1, [r4, #4]\nbkpt #0", tmp_path)
    assert register(core, 1) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ldr r0, =0x30000000\nldr r1, [r0]", "read of 4 bytes at unmapped address 0x30000000 .*in start"),
        ("ldr r0, =0x30000000\nstrb r1, [r0]", "write of 1 bytes at unmapped address 0x30000000"),
        ("ldr r0, =0x08000100\nstr r1, [r0]", "write of 4 bytes to read-only address 0x08000100"),
        ("movs r0, #1\nbx r0", "fetch of .* at unmapped address 0x00000000"),
        ("ldr r0, =0x40001000\nldr r1, [r0]", "0x40001000, where no peripheral is modelled"),
        ("ldr r0, =0x40001000\nstr r1, [r0]", "0x40001000, where no peripheral is modelled"),
        ("ldr r0, =0xE0002000\nldr r1, [r0]", "system register 0xe0002000, which is not modelled"),
        ("ldr r0, =0xE000E100\nmovs r1, #1\nstr r1, [r0]", "enables an interrupt"),
        ("ldr r0, =0xE000E010\nmovs r1, #7\nstr r1, [r0]", "SysTick interrupt"),
        ("ldr r0, =0xE000ED0C\nldr r1, =0x05FA0004\nstr r1, [r0]", "system reset"),
        ("vmov.f32 s0, #1.0", "CPACR disables the FPU"),
        ("nop\nvldr s0, [r1]", "CPACR disables the FPU"),
        ("udf #0", "Invalid instruction"),
        ("svc #1", "SVC"),
        ("bkpt #0", "BKPT"),
        ("push {r0}\nb start", "write of 4 bytes at unmapped address 0x1f"),
    ],
)
def test_faults_say_what_and_where(text: str, message: str, tmp_path: Path) -> None:
    _, fault = run(text + "\nb .\n.ltorg", tmp_path)
    assert re.search(message, fault), fault
    assert "pc 0x" in fault


def test_floating_point_after_cpacr(tmp_path: Path) -> None:
    enable = "ldr r0, =0xE000ED88\nmov r1, #0xF00000\nstr r1, [r0]\ndsb\nisb\n"
    core, fault = run(enable + "vmov.f32 s0, #3.0\nvmul.f32 s0, s0, s0\nvmov r2, s0\nbkpt #0", tmp_path)
    assert "BKPT" in fault
    assert register(core, 2) == 0x4110_0000  # 9.0f


def test_ram_is_not_zero_at_reset(tmp_path: Path) -> None:
    core, _ = run("ldr r0, =0x20000000\nldr r1, [r0]\nldr r2, [r0, #4]\nbkpt #0", tmp_path)
    assert register(core, 1) != register(core, 2)


def test_elf_for_another_memory_map_is_refused(tmp_path: Path) -> None:
    image = Image.load(str(assemble("b .", tmp_path, flash=0x1000)))
    with pytest.raises(BoardFaultError, match="0x00001000, which is not in this board's flash"):
        Core(image, MEMORIES)


def test_stack_outside_ram_is_refused(tmp_path: Path) -> None:
    image = Image.load(str(assemble("b .", tmp_path, stack=0x3000_0000)))
    with pytest.raises(BoardFaultError, match="initial stack pointer 0x30000000"):
        Core(image, MEMORIES)


def test_not_an_elf(tmp_path: Path) -> None:
    path = tmp_path / "x.elf"
    path.write_bytes(b"not an ELF")
    with pytest.raises(BoardFaultError, match="not an ELF file"):
        Image.load(str(path))
