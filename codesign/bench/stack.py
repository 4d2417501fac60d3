"""The stack that a function can use at most, from the compiler's own call graph (-fcallgraph-info=su).

Library routines that the compiler calls by itself (memcpy, 64-bit products on small cores) are not in that graph; where
the objects need any, the deepest of them is added once, with every push in its code counted.
"""

from __future__ import annotations

import re
import subprocess

from codesign.bench.program import Program
from codesign.errors import CodesignError

_NODE = re.compile(r'node: \{ title: "([^"]+)" label: "([^"]*)"')
_EDGE = re.compile(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"')
_BYTES = re.compile(r"\\n(\d+) bytes \((\w+)[^)]*\)")
_INDIRECT = "__indirect_call"


def stack_bound(program: Program, root: str) -> int:
    """Bytes of stack that `root` and all it calls can use. Callbacks (the trace hook) are the caller's and not counted.

    CodesignError where no bound exists: recursion, or a frame whose size is only known at run time.
    """
    frames: dict[str, int] = {}
    calls: dict[str, set[str]] = {}
    for path in program.call_graphs:
        text = path.read_text(encoding="utf-8")
        for title, label in _NODE.findall(text):
            found = _BYTES.search(label)
            if found is None:
                continue
            if found[2] != "static":
                raise CodesignError(f"the stack of {title} has no bound known when compiling ({found[2]})")
            frames[title] = int(found[1])
        for source, target in _EDGE.findall(text):
            calls.setdefault(source, set()).add(target)
    library = {name for name in set().union(*calls.values(), {root}) if name not in frames} - {_INDIRECT}
    library |= program.library
    depth = max((_pushed(program, name) for name in library), default=0)
    return _deepest(root, frames, calls, ()) + depth


def _deepest(name: str, frames: dict[str, int], calls: dict[str, set[str]], path: tuple[str, ...]) -> int:
    if name in path:
        raise CodesignError(f"{name} calls itself: its stack has no bound")
    below = [_deepest(callee, frames, calls, (*path, name)) for callee in calls.get(name, ()) if callee in frames]
    return frames.get(name, 0) + max(below, default=0)


def _pushed(program: Program, name: str) -> int:
    """Bytes of all pushes in a library routine; CodesignError where it calls another or moves the stack otherwise."""
    if name not in program.symbols:
        return 0
    listing = subprocess.run(
        ["arm-none-eabi-objdump", "-d", "--no-show-raw-insn", f"--disassemble={name}", str(program.elf)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    total = 0
    for line in listing.splitlines():
        fields = line.strip().split("\t")
        if len(fields) < 2:
            continue
        operation, operands = fields[1], fields[2] if len(fields) > 2 else ""
        if operation == "push" or (operation.startswith("stmdb") and operands.startswith("sp!")):
            registers = operands[operands.index("{") + 1 : operands.index("}")]
            total += 4 * sum(_register_count(part) for part in registers.split(","))
        elif operation.startswith("sub") and operands.startswith("sp"):
            total += int(operands.split("#")[1].split()[0], 0)
        elif operation == "bl" and f"<{name}" not in operands:
            raise CodesignError(f"library routine {name} calls another: its stack is not known")
    return total


def _register_count(part: str) -> int:
    first, _, last = part.strip().partition("-")
    return int(last[1:]) - int(first[1:]) + 1 if last else 1
