"""What an ELF file holds: sections, symbols, sizes and the memory map, read with pyelftools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codesign.errors import CodesignError
from codesign.toolchain.boards import Memory

SHF_WRITE = 0x1
SHF_ALLOC = 0x2
STACK_SECTION = ".stack"


@dataclass(frozen=True)
class Section:
    """An allocated section: run address, load address and size in bytes. `loaded`: its content is in flash."""

    name: str
    address: int
    load_address: int
    size: int
    loaded: bool
    writable: bool
    memory: str


@dataclass(frozen=True)
class Symbol:
    """A function or object, with its size in bytes."""

    name: str
    address: int
    size: int
    kind: str  # 'function' or 'object'
    section: str


@dataclass(frozen=True)
class Image:
    """An ELF's content. Sizes in bytes; `ram_bytes` is .data and .bss, `stack_bytes` the stack reserved beside them."""

    entry: int
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    flash_bytes: int
    ram_bytes: int
    stack_bytes: int

    def symbol(self, name: str) -> Symbol:
        """The symbol of that name; KeyError where there is none."""
        for symbol in self.symbols:
            if symbol.name == name:
                return symbol
        raise KeyError(name)


def read_image(path: Path, memories: Sequence[Memory]) -> Image:
    """Read `path`; every section is attributed to one of `memories` (CodesignError where it lies in none)."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as stream:
            elf = ELFFile(stream)
            segments = [s.header for s in elf.iter_segments("PT_LOAD")]
            names = [s.name for s in elf.iter_sections()]
            sections = []
            for section in elf.iter_sections():
                header = section.header
                if not header.sh_flags & SHF_ALLOC or header.sh_size == 0:
                    continue
                load = header.sh_addr
                for segment in segments:
                    if segment.p_vaddr <= header.sh_addr < segment.p_vaddr + max(segment.p_memsz, 1):
                        load = segment.p_paddr + header.sh_addr - segment.p_vaddr
                sections.append(
                    Section(
                        name=section.name,
                        address=header.sh_addr,
                        load_address=load,
                        size=header.sh_size,
                        loaded=header.sh_type != "SHT_NOBITS",
                        writable=bool(header.sh_flags & SHF_WRITE),
                        memory=_memory_of(section.name, header.sh_addr, header.sh_size, memories),
                    )
                )
            symbols = []
            table = elf.get_section_by_name(".symtab")
            for entry in table.iter_symbols() if table is not None else ():
                kind = {"STT_FUNC": "function", "STT_OBJECT": "object"}.get(entry["st_info"]["type"])
                if kind is None or not isinstance(entry["st_shndx"], int):
                    continue
                address = entry["st_value"] & ~1 if kind == "function" else entry["st_value"]
                symbols.append(Symbol(entry.name, address, entry["st_size"], kind, names[entry["st_shndx"]]))
            start = elf.header.e_entry
    except (ELFError, OSError) as error:
        raise CodesignError(f"{path} cannot be read as an ELF file: {error}") from None
    return Image(
        entry=start,
        sections=tuple(sections),
        symbols=tuple(sorted(symbols, key=lambda s: (s.address, s.name))),
        flash_bytes=sum(s.size for s in sections if s.loaded),
        ram_bytes=sum(s.size for s in sections if s.writable and s.name != STACK_SECTION),
        stack_bytes=sum(s.size for s in sections if s.name == STACK_SECTION),
    )


def _memory_of(name: str, address: int, size: int, memories: Sequence[Memory]) -> str:
    for memory in memories:
        if memory.contains(address, size):
            return memory.name
    raise CodesignError(f"section {name} at {address:#x} ({size} bytes) lies outside the board's memories")


def read_constant(path: Path, name: str) -> bytes:
    """The initial bytes of an object symbol. CodesignError: no readable ELF, or no such constant in it."""
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as stream:
            elf = ELFFile(stream)
            table = elf.get_section_by_name(".symtab")
            for symbol in table.get_symbol_by_name(name) or () if table is not None else ():
                if symbol["st_info"]["type"] != "STT_OBJECT" or not isinstance(symbol["st_shndx"], int):
                    continue
                section = elf.get_section(symbol["st_shndx"])
                start = symbol["st_value"] - section["sh_addr"]
                if section["sh_type"] == "SHT_PROGBITS" and 0 <= start <= section["sh_size"] - symbol["st_size"]:
                    return bytes(section.data()[start : start + symbol["st_size"]])
    except Exception as error:  # a damaged ELF makes pyelftools raise errors of many kinds
        raise CodesignError(f"{path} cannot be read as an ELF file: {str(error) or type(error).__name__}") from None
    raise CodesignError(f"{path} has no constant '{name}'")
