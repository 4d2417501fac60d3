"""An emulated Cortex-M on Unicorn: memories, peripherals, system control space, exact instruction count.

Instructions are counted by UC_HOOK_BLOCK: each translated block is decoded once to instruction addresses, and its
length is added when it runs. Inside a block, the program counter that Unicorn synchronises for memory hooks tells how
far the block has come, so that a load of CYCCNT sees the exact number of instructions executed before it. Instructions
that a failed condition in an IT block skips count as executed, as on QEMU with -icount.

What the hardware would refuse and an emulator might let pass is a `BoardFaultError`: unmapped or read-only memory,
floating point while CPACR disables it, peripherals and registers that are not modelled.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

PERIPHERAL_BASE = 0x4000_0000
PERIPHERAL_SIZE = 0x0008_0000
SYSTEM_BASE = 0xE000_0000
SYSTEM_SIZE = 0x0010_0000
_IT_BITS = 0x0600_FC00  # of xPSR
_SLOT_BITS = 10  # STM32 peripherals are 1 KiB apart

_MODELS = {
    "cortex-m0": "UC_CPU_ARM_CORTEX_M0",
    "cortex-m0plus": "UC_CPU_ARM_CORTEX_M0",  # Unicorn has no M0+; its instruction set is the M0's
    "cortex-m3": "UC_CPU_ARM_CORTEX_M3",
    "cortex-m4": "UC_CPU_ARM_CORTEX_M4",
    "cortex-m7": "UC_CPU_ARM_CORTEX_M7",
    "cortex-m33": "UC_CPU_ARM_CORTEX_M33",
}
_ACCESS = {16: "read", 17: "write", 18: "fetch", 19: "read", 20: "write", 21: "fetch"}


class BoardFaultError(Exception):
    """The firmware did what the board would not do; the message says what."""


class Peripheral(Protocol):
    """Registers as 32-bit words at word-aligned offsets."""

    name: str

    def read(self, offset: int) -> int: ...

    def write(self, offset: int, value: int) -> None: ...


@dataclass(frozen=True)
class Image:
    """A firmware ELF: load segments as (address, bytes), function symbols as sorted (address, name)."""

    segments: tuple[tuple[int, bytes], ...]
    functions: tuple[tuple[int, str], ...]

    @staticmethod
    def load(path: str) -> Image:
        """BoardFaultError where the file is no ELF for Arm."""
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile

        with open(path, "rb") as stream:
            try:
                elf = ELFFile(stream)
                if elf["e_machine"] != "EM_ARM":
                    raise BoardFaultError(f"{path} is an ELF for {elf['e_machine']}, not for Arm")
                segments = tuple(
                    (int(s["p_paddr"]), bytes(s.data()))
                    for s in elf.iter_segments()
                    if s["p_type"] == "PT_LOAD" and s["p_filesz"]
                )
                table = elf.get_section_by_name(".symtab")
                symbols = table.iter_symbols() if table else ()
                functions = sorted(
                    (int(s["st_value"]) & ~1, str(s.name)) for s in symbols if s["st_info"]["type"] == "STT_FUNC"
                )
            except ELFError as error:
                raise BoardFaultError(f"{path} is not an ELF file: {error}") from error
        return Image(segments, tuple(functions))

    def bytes_at(self, address: int, size: int) -> bytes:
        """What the ELF loads there; empty where it loads less."""
        for start, data in self.segments:
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        return b""

    def where(self, address: int) -> str:
        """'0x08001234 in function name'."""
        index = bisect_right(self.functions, (address, "\x7f")) - 1
        name = f" in {self.functions[index][1]}" if index >= 0 else ""
        return f"pc 0x{address:08x}{name}"


class Core:
    """The core with its memories. `memories` are (origin, size, writable); the vector table is at the lowest read-only
    memory. `cpu` is the core's name as in a board file; `windows` are the address ranges (origin, size) of peripherals;
    `first_vectors` is another place of the vector table. `wait` is called at WFI."""

    def __init__(
        self,
        image: Image,
        memories: list[tuple[int, int, bool]],
        cpu: str = "cortex-m7",
        windows: tuple[tuple[int, int], ...] = ((PERIPHERAL_BASE, PERIPHERAL_SIZE),),
        first_vectors: int | None = None,
    ) -> None:
        import unicorn
        from unicorn import arm_const

        self._unicorn = unicorn
        self._pc_register = arm_const.UC_ARM_REG_PC
        self._xpsr_register = arm_const.UC_ARM_REG_XPSR
        self.image = image
        engine: Any = unicorn.Uc
        self.uc: Any = engine(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        self.uc.ctl_set_cpu_model(getattr(arm_const, _MODELS[cpu]))
        self.peripherals: dict[int, tuple[Peripheral, int]] = {}
        self._windows = windows
        self.system: Peripheral | None = None
        self.floating_point_enabled: Callable[[], bool] = lambda: False
        self.wait: Callable[[], None] = lambda: None
        self.idle_cycles = 0
        self._retired = 0
        self._block: tuple[int, int] = (0, 0)
        self._blocks: dict[tuple[int, int], tuple[int, ...]] = {}
        self._problem: str | None = None
        self._map(memories)
        self._hook()
        vectors = min(origin for origin, _, writable in memories if not writable)
        self._memories = memories
        self._sp_register = arm_const.UC_ARM_REG_SP
        self.reset(vectors if first_vectors is None else first_vectors)

    def add(self, address: int, peripheral: Peripheral, size: int = 1 << _SLOT_BITS) -> None:
        """Put a peripheral at an address; it takes whole slots of 1 KiB."""
        for slot in range(address >> _SLOT_BITS, (address + size - 1 >> _SLOT_BITS) + 1):
            self.peripherals[slot] = (peripheral, address)

    def now(self) -> int:
        """Core cycles since reset: executed instructions, and the time slept."""
        return self.instructions() + self.idle_cycles

    def run(self) -> None:
        """Run until a BoardFaultError."""
        while True:
            try:
                self.uc.emu_start(self._pc | 1, 0xFFFF_FFFF)
            except self._unicorn.UcError as error:
                self._stop(f"the core cannot go on: {error}")
            if self._problem:
                raise BoardFaultError(self._problem)
            self.wait()  # Unicorn returns by itself only at WFI

    def start_at(self, entry: int, stack: int) -> None:
        """Let the core run from `entry`, as a boot ROM would."""
        self.uc.reg_write(self._sp_register, stack)
        self.uc.reg_write(self._pc_register, entry | 1)

    def reset(self, vectors: int) -> None:
        """Take stack pointer and program counter from a vector table. BoardFaultError where they make no sense."""
        stack, entry = struct.unpack("<II", self.uc.mem_read(vectors, 8))
        if not any(origin < stack <= origin + size for origin, size, writable in self._memories if writable):
            raise BoardFaultError(f"the vector table's initial stack pointer 0x{stack:08x} is not in RAM")
        if not entry & 1:
            raise BoardFaultError(f"the vector table's reset handler 0x{entry:08x} is no Thumb address")
        self.uc.reg_write(self._sp_register, stack & ~7)
        self.uc.reg_write(self._pc_register, entry)

    @property
    def _pc(self) -> int:
        return int(self.uc.reg_read(self._pc_register)) & ~1

    def _stop(self, problem: str, pc: int | None = None) -> None:
        """Stop the core; only the first problem counts, as Unicorn may end the block before it stops."""
        if self._problem is None:
            where = self.image.where(self._pc if pc is None else pc)
            self._problem = f"{problem} ({where}, after {self._retired} instructions)"
        self.uc.emu_stop()

    def _map(self, memories: list[tuple[int, int, bool]]) -> None:
        from random import Random

        uc, protect = self.uc, self._unicorn
        noise = Random(0)  # what RAM holds at power-up is nobody's friend: nothing may rely on zeros
        for origin, size, writable in memories:
            permissions = protect.UC_PROT_READ | protect.UC_PROT_EXEC | (protect.UC_PROT_WRITE if writable else 0)
            uc.mem_map(origin, -(-size // 4096) * 4096, permissions)
            uc.mem_write(origin, noise.randbytes(size) if writable else b"\xff" * size)
        for address, data in self.image.segments:
            inside = any(o <= address and address + len(data) <= o + s for o, s, w in memories if not w)
            if not inside:
                raise BoardFaultError(
                    f"the ELF loads {len(data)} bytes to 0x{address:08x}, which is not in this board's flash"
                )
            uc.mem_write(address, data)
        for base, size in (*self._windows, (SYSTEM_BASE, SYSTEM_SIZE)):
            uc.mmio_map(base, size, self._reader(base), None, self._writer(base), None)

    # Counting

    def _hook(self) -> None:
        uc, kinds = self.uc, self._unicorn
        uc.hook_add(kinds.UC_HOOK_BLOCK, self._on_block)
        # These do nothing: with them, Unicorn brings the program counter up to date before a peripheral is accessed.
        for base, size in (*self._windows, (SYSTEM_BASE, SYSTEM_SIZE)):
            access = kinds.UC_HOOK_MEM_READ | kinds.UC_HOOK_MEM_WRITE
            uc.hook_add(access, lambda *_: None, None, base, base + size - 1)
        uc.hook_add(kinds.UC_HOOK_MEM_INVALID, self._on_invalid_access)
        uc.hook_add(kinds.UC_HOOK_INTR, self._on_exception)

    def _on_block(self, uc: Any, address: int, size: int, _user: Any) -> None:
        key = (address, size)
        block = self._blocks.get(key)
        if block is None:
            block = self._decode(address, bytes(uc.mem_read(address, size)))
            if not block:
                return
            self._blocks[key] = block
        self._block = key
        self._retired += len(block)

    def _decode(self, address: int, code: bytes) -> tuple[int, ...]:
        """Addresses of a block's instructions; empty, with the problem noted, where it may not run."""
        addresses = []
        offset = 0
        while offset < len(code):
            first = code[offset] | code[offset + 1] << 8
            addresses.append(address + offset)
            if first >> 11 < 0b11101:
                offset += 2
                continue
            second = code[offset + 2] | code[offset + 3] << 8 if offset + 4 <= len(code) else 0
            if first & 0xEC00 == 0xEC00 and second >> 8 & 0xE == 0xA and not self.floating_point_enabled():
                self._stop(
                    "a floating-point instruction runs while CPACR disables the FPU: UsageFault NOCP", addresses[-1]
                )
                return ()
            offset += 4
        return tuple(addresses)

    def instructions(self) -> int:
        """Instructions executed since reset, up to the one that accesses a peripheral now."""
        block = self._blocks.get(self._block, ())
        pc = self._pc
        ahead = sum(1 for address in block if address >= pc) if block and block[0] <= pc <= block[-1] else 0
        return self._retired - ahead + (1 if ahead else 0)

    # Faults

    def _on_invalid_access(self, _uc: Any, access: int, address: int, size: int, value: int, _user: Any) -> bool:
        kind = _ACCESS.get(access)
        if kind:
            self._stop(f"{kind} of {size} bytes at unmapped address 0x{address:08x}")
        else:
            self._stop(f"write of {size} bytes to read-only address 0x{address:08x}")
        return False

    def _on_exception(self, uc: Any, number: int, _user: Any) -> None:
        names = {2: "SVC", 7: "BKPT", 8: "an exception return"}
        self._stop(f"{names.get(number, f'exception {number}')}, which this emulator does not model")

    # Peripherals

    def _reader(self, base: int) -> Callable[[Any, int, int, Any], int]:
        return lambda _uc, offset, size, _user: self._read(base + offset, size)

    def _writer(self, base: int) -> Callable[[Any, int, int, int, Any], None]:
        return lambda _uc, offset, size, value, _user: self._write(base + offset, size, value)

    def _leave_it_block(self) -> None:
        """Bringing the program counter up to date also sets the state of the IT block that the access is in, which
        Unicorn then leaves set behind the block: the next branch would be taken for an invalid instruction."""
        status = int(self.uc.reg_read(self._xpsr_register))
        if status & _IT_BITS:
            self.uc.reg_write(self._xpsr_register, status & ~_IT_BITS)

    def _read(self, address: int, size: int) -> int:
        self._leave_it_block()
        try:
            peripheral, offset = self._find(address)
            word = peripheral.read(offset & ~3)
        except BoardFaultError as fault:
            self._stop(str(fault))
            return 0
        return word >> 8 * (address & 3) & (1 << 8 * size) - 1

    def _write(self, address: int, size: int, value: int) -> None:
        self._leave_it_block()
        try:
            peripheral, offset = self._find(address)
            peripheral.write(offset & ~3, (value & (1 << 8 * size) - 1) << 8 * (address & 3))
        except BoardFaultError as fault:
            self._stop(str(fault))

    def _find(self, address: int) -> tuple[Peripheral, int]:
        """The peripheral at an address, and the offset into it. Exceptions may not leave Unicorn's callbacks."""
        if address >= SYSTEM_BASE and self.system:
            return self.system, address - SYSTEM_BASE
        found = self.peripherals.get(address >> _SLOT_BITS)
        if found is None:
            raise BoardFaultError(f"access to 0x{address:08x}, where no peripheral is modelled")
        peripheral, base = found
        return peripheral, address - base


class SystemControlSpace:
    """DWT cycle counter, SysTick without interrupt, and the parts of the SCB that start-up code touches."""

    name = "system control space"

    _CYCCNT, _DWT_CTRL, _LAR, _LSR = 0x1004, 0x1000, 0x1FB0, 0x1FB4
    _SYST_CSR, _SYST_RVR, _SYST_CVR, _SYST_CALIB = 0xE010, 0xE014, 0xE018, 0xE01C
    _CPUID, _ICSR, _VTOR, _AIRCR, _SCR, _CCR = 0xED00, 0xED04, 0xED08, 0xED0C, 0xED10, 0xED14
    _CPACR, _DEMCR = 0xED88, 0xEDFC
    _CACHE_ID = range(0xED78, 0xED88)
    _CACHE_OPERATIONS = range(0xEF50, 0xEF78)
    _MPU = range(0xED90, 0xEDBC)
    _PRIORITIES_AND_STATUS = range(0xED18, 0xED40)
    _FPU = range(0xEF34, 0xEF48)
    _CACHE_IDS = {0xED78: 0x0900_0003, 0xED7C: 0x8303_C003, 0xED80: 0xF003_E019, 0xED84: 0}  # noqa: RUF012
    _INTERRUPT_ENABLES = range(0xE100, 0xE180)
    _INTERRUPT_CLEARS = range(0xE180, 0xE600)
    _LAR_KEY = 0xC5AC_CE55

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._registers: dict[int, int] = {self._CCR: 0x0004_0200, self._SYST_CALIB: 0, self._CPUID: 0x411F_C271}
        self._registers.update(self._CACHE_IDS)
        self._cycles_base = 0  # CYCCNT = now - base while it runs, else the frozen value
        self._cycles_frozen: int | None = 0
        self._locked = True
        self._tick_start = 0

    def floating_point_enabled(self) -> bool:
        """Full access to CP10 and CP11."""
        return self._registers.get(self._CPACR, 0) >> 20 & 0xF == 0xF

    def read(self, offset: int) -> int:
        if offset == self._CYCCNT:
            return self._cycles() & 0xFFFF_FFFF
        if offset == self._SYST_CVR:
            return self._tick()
        if offset == self._LSR:
            return 0b11 if self._locked else 0b01
        if offset == self._SYST_CSR:
            return self._read_tick_control()
        if offset in self._registers or self._is_plain(offset):
            return self._registers.get(offset, 0)
        raise BoardFaultError(f"read of system register 0x{SYSTEM_BASE + offset:08x}, which is not modelled")

    def write(self, offset: int, value: int) -> None:
        if offset in (self._CYCCNT, self._DWT_CTRL):
            self._write_dwt(offset, value)
        elif offset == self._LAR:
            self._locked = value != self._LAR_KEY
        elif offset == self._DEMCR:
            self._registers[offset] = value
            self._update_cycles()
        elif offset in (self._SYST_CSR, self._SYST_CVR, self._SYST_RVR):
            self._write_tick(offset, value)
        elif offset == self._AIRCR and value >> 16 == 0x05FA and value & 0b100:
            raise BoardFaultError("the firmware asks for a system reset")
        elif offset in self._INTERRUPT_ENABLES and value:
            raise BoardFaultError("the firmware enables an interrupt; this emulator models none")
        elif offset in self._INTERRUPT_CLEARS or offset in self._CACHE_OPERATIONS:
            pass
        elif self._is_plain(offset):
            self._registers[offset] = value
        else:
            raise BoardFaultError(
                f"write of 0x{value:x} to system register 0x{SYSTEM_BASE + offset:08x}, which is not modelled"
            )

    def _is_plain(self, offset: int) -> bool:
        return (
            offset in (self._VTOR, self._AIRCR, self._SCR, self._CCR, self._CPACR, self._DEMCR, self._DWT_CTRL)
            or offset in (self._ICSR, self._SYST_RVR)
            or offset in self._CACHE_ID
            or offset in self._MPU
            or offset in self._PRIORITIES_AND_STATUS
            or offset in self._FPU
            or offset in self._INTERRUPT_ENABLES
            or offset in self._INTERRUPT_CLEARS
        )

    # DWT: on this core, stores are ignored until the lock access register is written its key.

    def _write_dwt(self, offset: int, value: int) -> None:
        if self._locked or not self._trace_enabled():
            return
        if offset == self._CYCCNT:
            if self._cycles_frozen is None:
                self._cycles_base = self._now() - value
            else:
                self._cycles_frozen = value
        else:
            self._registers[offset] = value
            self._update_cycles()

    def _trace_enabled(self) -> bool:
        return bool(self._registers.get(self._DEMCR, 0) >> 24 & 1)

    def _update_cycles(self) -> None:
        running = self._trace_enabled() and self._registers.get(self._DWT_CTRL, 0) & 1
        if running and self._cycles_frozen is not None:
            self._cycles_base = self._now() - self._cycles_frozen
            self._cycles_frozen = None
        elif not running and self._cycles_frozen is None:
            self._cycles_frozen = self._cycles()

    def _cycles(self) -> int:
        return self._now() - self._cycles_base if self._cycles_frozen is None else self._cycles_frozen

    # SysTick on the core clock

    def _write_tick(self, offset: int, value: int) -> None:
        if offset == self._SYST_CSR and value & 0b11 == 0b11:
            raise BoardFaultError("the firmware enables the SysTick interrupt; this emulator models none")
        if offset == self._SYST_CSR and value & 0b101 == 0b001:
            raise BoardFaultError("SysTick on the external clock is not modelled; select the core clock")
        if offset == self._SYST_CVR or value & 1:
            self._tick_start = self._now()
        if offset != self._SYST_CVR:
            self._registers[offset] = value

    def _period(self) -> int:
        return (self._registers.get(self._SYST_RVR, 0) & 0xFF_FFFF) + 1

    def _tick(self) -> int:
        if not self._registers.get(self._SYST_CSR, 0) & 1:
            return 0
        return (-(self._now() - self._tick_start)) % self._period()

    def _read_tick_control(self) -> int:
        control = self._registers.get(self._SYST_CSR, 0)
        wrapped = bool(control & 1) and self._now() - self._tick_start >= self._period()
        if wrapped:
            periods = (self._now() - self._tick_start) // self._period()
            self._tick_start += periods * self._period()
        return control | (1 << 16 if wrapped else 0)
