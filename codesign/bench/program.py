"""Builds the measuring program of a model for a core: the model's C files, and a harness linked apart from them."""

from __future__ import annotations

import bisect
import importlib.util
import os
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codesign.bench.cores import Core
from codesign.codegen import Weights, generate
from codesign.errors import CodesignError, InputError, MissingToolError
from codesign.quantization.integer import ActivationArray, IntegerNetwork
from codesign.resources import resource_dir

LEVELS = ("O2", "Os", "O3")
KNOWN_ROUNDS = 500_000
_FLOATING = ("codesign_model_float.c", "cs_quantize.c", "cs_quantize16.c")


@dataclass(frozen=True)
class Program:
    """A linked measuring program. Sizes in bytes, of the model alone: code, constants and static RAM."""

    elf: Path
    core: Core
    segments: tuple[tuple[int, bytes], ...]
    symbols: dict[str, int]
    code_bytes: int
    constant_bytes: int
    ram_bytes: int
    call_graphs: tuple[Path, ...]
    functions: tuple[tuple[int, str], ...]  # by address
    sizes: dict[str, int]  # bytes of each function, its compiler's suffixes cut off
    library: frozenset[str]  # routines of the compiler's libraries that the model's objects need

    def function_at(self, address: int) -> str:
        """Name of the function at an address."""
        place = bisect.bisect_right(self.functions, (address, "\x7f"))
        return self.functions[place - 1][1].split(".")[0] if place else "?"

    def address(self, name: str) -> int:
        """Of a symbol; KeyError where the program lacks it."""
        return self.symbols[name]


def build_program(
    network: IntegerNetwork,
    core: Core,
    folder: Path,
    sample: ActivationArray,
    weights: Weights = "int8",
    level: str = "O2",
    repeats: int = 1,
    roomy: bool = False,
) -> Program:
    """Generate, compile and link; `sample` is the input that the program itself runs, `repeats` times.

    `roomy` gives it more memory than the emulated core has, to be looked at only.

    MissingToolError: no compiler, or no pyelftools. InputError: unknown level, or a model that does not fit the
    emulated core's memory.
    """
    from codesign.toolchain.pio import require_compiler

    if level not in LEVELS:
        raise InputError(f"there is no optimisation level {level!r}; the levels are {', '.join(LEVELS)}")
    compiler = require_compiler()
    if importlib.util.find_spec("elftools") is None:
        raise MissingToolError("pyelftools is missing: pip install 'codesign[board]'")
    sources = [p for p in generate(network, folder, weights) if p.suffix == ".c" and p.name not in _FLOATING]
    harness = resource_dir("firmware") / "bench"
    (folder / "cs_bench_config.h").write_text(
        f"#define CS_BENCH_ROUNDS {KNOWN_ROUNDS}u\n#define CS_BENCH_REPEATS {repeats}u\n", encoding="ascii"
    )
    values = ",".join(str(int(v)) for v in sample.reshape(-1))
    (folder / "cs_bench_input.c").write_text(
        '#include "codesign_model.h"\nextern const cs_model_value_t bench_input[];\n'
        f"const cs_model_value_t bench_input[] = {{{values}}};\n",
        encoding="ascii",
    )
    sizes = (1 << 27, 1 << 27) if roomy else (core.flash[1], core.ram[1])
    (folder / "memory.ld").write_text(
        f"MEMORY\n{{\n    flash (rx) : ORIGIN = {core.flash[0]:#x}, LENGTH = {sizes[0]:#x}\n"
        f"    ram (rwx) : ORIGIN = {core.ram[0]:#x}, LENGTH = {sizes[1]:#x}\n}}\n",
        encoding="ascii",
    )
    flags = [*core.flags, "-mthumb", f"-{level}", "-std=c99", "-ffunction-sections", "-fdata-sections", "-fno-common"]
    flags += ["-Wall", "-Wextra", "-Wconversion", "-Wdouble-promotion", "-Werror", f"-I{folder}"]
    extra = ["-fcallgraph-info=su"]

    def compile_one(path: Path) -> Path:
        target = folder / f"{path.stem}.o"
        own = extra if path in sources else ["-std=gnu11", "-Wno-pedantic"]
        _run([compiler, *flags, *own, "-c", str(path), "-o", str(target)])
        return target

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        objects = list(pool.map(compile_one, [*sources, harness / "cs_bench.c", folder / "cs_bench_input.c"]))
    elf = folder / "bench.elf"
    link = [compiler, *core.flags, "-mthumb", "-nostartfiles", "-Wl,--gc-sections", "-Wl,--build-id=none"]
    link += [f"-L{folder}", f"-T{harness / 'bench.ld'}", "-Wl,--undefined=cs_model_hash"]
    _run([*link, *map(str, objects), "-o", str(elf)], core, network)
    return _read(elf, core, [folder / f"{path.stem}.ci" for path in sources], objects[: len(sources)])


def _run(command: Sequence[str], core: Core | None = None, network: IntegerNetwork | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if core is not None and network is not None and "overflowed" in done.stderr:
        raise InputError(
            f"the model {network.name} does not fit the memory of the emulated {core.title} ({core.machine})"
        )
    first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
    raise CodesignError(f"the measuring program does not build: {first}")


def _undefined(objects: Iterable[Path]) -> frozenset[str]:
    """Symbols that the objects need and none of them has."""
    from elftools.elf.elffile import ELFFile

    needed: set[str] = set()
    defined: set[str] = set()
    for path in objects:
        with path.open("rb") as stream:
            file: Any = ELFFile(stream)
            for symbol in file.get_section_by_name(".symtab").iter_symbols():
                (needed if symbol["st_shndx"] == "SHN_UNDEF" else defined).add(symbol.name)
    return frozenset(needed - defined - {""})


def _read(elf: Path, core: Core, call_graphs: Iterable[Path], objects: Iterable[Path]) -> Program:
    from elftools.elf.elffile import ELFFile

    with elf.open("rb") as stream:
        file: Any = ELFFile(stream)
        sizes = {section.name: int(section["sh_size"]) for section in file.iter_sections()}
        segments = [(int(s["p_paddr"]), bytes(s.data())) for s in file.iter_segments("PT_LOAD") if s["p_filesz"]]
        table = list(file.get_section_by_name(".symtab").iter_symbols())
    symbols = {s.name: int(s["st_value"]) & ~(s["st_info"]["type"] == "STT_FUNC") for s in table if s.name}
    functions = sorted((symbols[s.name], s.name) for s in table if s["st_info"]["type"] == "STT_FUNC")
    sizes_of_functions = {s.name.split(".")[0]: int(s["st_size"]) for s in table if s["st_info"]["type"] == "STT_FUNC"}
    if sizes.get(".data"):
        raise CodesignError(
            "the generated model has initialised variables, which the measuring program does not support"
        )
    return Program(
        elf,
        core,
        tuple(segments),
        symbols,
        sizes.get(".text", 0),
        sizes.get(".rodata", 0),
        sizes.get(".bss", 0),
        tuple(call_graphs),
        tuple(functions),
        sizes_of_functions,
        _undefined(objects),
    )
