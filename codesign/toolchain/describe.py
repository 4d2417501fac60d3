"""A board in words: memory map, clock, serial port, flashing, emulator."""

from __future__ import annotations

from codesign.toolchain.boards import Board

_MHZ = 1e6


def describe(board: Board) -> list[str]:
    """One fact a line."""
    lines = [
        f"{board.name}: {board.title} ({board.vendor})",
        *([f"  {board.url}"] if board.url else []),
        f"core      {board.core} at {board.clock_hz / _MHZ:g} MHz, "
        + (f"FPU {board.fpu} ({board.float_abi})" if board.fpu else "no FPU"),
        f"mcu       {board.mcu}",
    ]
    for memory in board.memories:
        lines.append(
            f"memory    {memory.name:<8} {memory.kind:<5} 0x{memory.origin:08x} to 0x{memory.end - 1:08x}  "
            f"{_size(memory.size)}"
        )
    lines.append(
        f"          program in {board.flash.name} ({_size(board.flash.size)}); stack of {_size(board.stack_bytes)} and "
        f"data in {_size(board.ram.size)} of RAM at 0x{board.ram.origin:08x}"
    )
    clock = board.clock
    if clock is not None:
        source = "external clock" if clock.hse_bypass else "crystal"
        lines.append(
            f"clock     {clock.hse_hz / _MHZ:g} MHz {source} / {clock.pll_m} * {clock.pll_n} / {clock.pll_p}, "
            f"{clock.flash_wait_states} flash wait states, APB1 / {clock.apb1_divider}, APB2 / {clock.apb2_divider}"
        )
    serial = board.serial
    pins = ""
    if serial.tx is not None and serial.rx is not None:
        pins = f", TX {serial.tx}, RX {serial.rx}" + (f" (AF{serial.af})" if serial.af is not None else "")
    lines.append(f"serial    {serial.peripheral} at {serial.baud} baud{pins}")
    lines.append(f"counter   {'DWT CYCCNT' if board.counter == 'dwt' else board.counter}")
    if board.flashing is None:
        lines.append("flash     cannot be flashed from here")
    else:
        usb = ", ".join(f"{vendor:04x}:{product:04x}" for vendor, product in board.flashing.usb)
        lines.append(
            f"flash     {board.flashing.method} with {', '.join(board.flashing.config)}"
            + (f"; probes {usb}" if usb else "")
        )
        if board.flashing.device_id is not None:
            address, value = board.flashing.device_id
            lines.append(f"          only a chip with device id 0x{value:x} at 0x{address:08x}")
    if board.emulator is None:
        lines.append("emulator  none: hardware only")
    else:
        lines.append(f"emulator  {board.emulator.kind}, machine {board.emulator.machine}")
    return lines


def _size(size: int) -> str:
    if size % (1 << 20) == 0:
        return f"{size >> 20} MiB"
    return f"{size >> 10} KiB" if size % 1024 == 0 else f"{size} bytes"
