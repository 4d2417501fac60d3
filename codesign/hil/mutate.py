"""Mutated copies of a firmware ELF, to show that the cross-check notices: a flipped weight bit, a changed table entry,
another model's hash. Constants are found by their ELF symbols."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from codesign.errors import InputError
from codesign.files import write_atomically


@dataclass(frozen=True)
class Constant:
    """A data symbol whose bytes are in the ELF: offset into the file and size, in bytes."""

    name: str
    offset: int
    size: int


def constants(elf: Path) -> dict[str, Constant]:
    """The initialised data symbols of a firmware, by name. InputError where the file is no ELF with symbols."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    found = {}
    try:
        with open(elf, "rb") as stream:
            file = ELFFile(stream)
            table = file.get_section_by_name(".symtab")
            if table is None:
                raise InputError(f"{elf} has no symbol table; build it without stripping")
            for symbol in table.iter_symbols():
                index = symbol["st_shndx"]
                if symbol["st_info"]["type"] != "STT_OBJECT" or not isinstance(index, int) or not symbol["st_size"]:
                    continue
                section = file.get_section(index)
                if section["sh_type"] == "SHT_PROGBITS":
                    offset = section["sh_offset"] + symbol["st_value"] - section["sh_addr"]
                    found[symbol.name] = Constant(symbol.name, offset, symbol["st_size"])
    except (ELFError, OSError) as error:
        raise InputError(f"{elf} is not a readable ELF file: {error}") from error
    return found


def overwrite(elf: Path, mutant: Path, symbol: str, offset: int, data: bytes) -> None:
    """Copy `elf` to `mutant` with `data` at byte `offset` of the constant. InputError where that changes nothing, or
    does not fit the constant."""
    constant = _constant(elf, symbol)
    if offset < 0 or not data or offset + len(data) > constant.size:
        raise InputError(f"{symbol} has {constant.size} bytes; bytes {offset} to {offset + len(data)} are not inside")
    content = bytearray(elf.read_bytes())
    place = constant.offset + offset
    if content[place : place + len(data)] == data:
        raise InputError(f"{symbol} holds these bytes already; that would be no mutation")
    content[place : place + len(data)] = data
    write_atomically(mutant, bytes(content))


def flip_bit(elf: Path, mutant: Path, symbol: str, byte: int, bit: int) -> None:
    """Copy `elf` to `mutant` with one bit of the constant flipped; bit 0 is the byte's least significant one."""
    if not 0 <= bit <= 7:
        raise InputError(f"a byte has bits 0 to 7, not {bit}")
    old = read(elf, symbol)
    if not 0 <= byte < len(old):
        raise InputError(f"{symbol} has {len(old)} bytes; there is no byte {byte}")
    overwrite(elf, mutant, symbol, byte, bytes([old[byte] ^ 1 << bit]))


def read(elf: Path, symbol: str) -> bytes:
    """The constant's bytes. InputError where the firmware has no such constant."""
    constant = _constant(elf, symbol)
    with open(elf, "rb") as stream:
        stream.seek(constant.offset)
        return stream.read(constant.size)


def _constant(elf: Path, symbol: str) -> Constant:
    known = constants(elf)
    if symbol not in known:
        raise InputError(f"{elf.name} has no constant '{symbol}'; it has {', '.join(sorted(known))}")
    return known[symbol]
