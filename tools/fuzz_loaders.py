"""Fuzz every loader of untrusted files with atheris (coverage-guided): no error but the tool's own, no unbounded memory
or time, no file written elsewhere, no code run from a file.

Usage: python tools/fuzz_loaders.py [--share 1.0] [--seed 1] [--jobs 2] [LOADER ...]
A share of 1 is at least 10^6 cases over all loaders. Exit code 1: a defect was found; its input is kept in this folder.
The loaders are in tools/fuzz_targets.py. Each runs in a process whose address space is limited.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fuzz_targets import JSON, loader, mutate_json, seeds

MEMORY_MB = 2048
SECONDS_A_CASE = 120  # of the wall clock, on a machine that may be busy

# What no loader of data may do. The tool reads HDF5 files in a child process.
FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class", "socket.connect",
    "shutil.rmtree", "os.remove", "os.rename", "os.symlink", "os.link", "os.chmod", "exec", "marshal.loads", "import",
)  # fmt: skip
CHILD_PROCESS = ("h5_spawned",)
SPAWNING = ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec", "os.remove", "shutil.rmtree", "import")

# Cases at a share of 1.
RUNS = {
    "frames": 500_000,
    "board": 110_000,
    "regions": 30_000,
    "int8": 60_000,
    "float_tflite": 60_000,
    "certificate": 50_000,
    "hil": 50_000,
    "signoff": 30_000,
    "journal": 50_000,
    "calibration": 10_000,
    "calibration_array": 20_000,
    "proof": 10_000,
    "proof_array": 20_000,
    "elf": 10_000,
    "keras": 10_000,
    "keras_config": 30_000,
    "keras_weights": 15_000,
    "h5": 15_000,
    "h5_spawned": 100,
}


class Guard:
    """Notes forbidden events while a loader runs; an exception in an audit hook could be caught by what is tested."""

    def __init__(self, name: str, folder: Path) -> None:
        self.active = False
        self.seen: list[str] = []
        self._allowed = SPAWNING if name in CHILD_PROCESS else ()
        self._folder = os.fspath(folder)
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or flags & (os.O_WRONLY | os.O_RDWR)
            if writes and isinstance(path, (str, bytes, os.PathLike)) and not self._inside(os.fsdecode(path)):
                self.seen.append(f"open {path!r} {mode} {flags}")
        elif event in FORBIDDEN and event not in self._allowed:
            self.seen.append(f"{event} {arguments!r}"[:200])

    def _inside(self, path: str) -> bool:
        temporary = os.path.realpath(tempfile.gettempdir())
        return os.path.realpath(path).startswith((os.path.realpath(self._folder), temporary, "/dev/null"))


def child(name: str, runs: int, seed: int) -> None:
    """Fuzz one loader in this process; ends it."""
    import unicodedata  # noqa: F401  Python's parser of literals, which numpy uses, imports it on first use

    import atheris

    with atheris.instrument_imports(include=["codesign", "tflite", "flatbuffers", "elftools", "tomllib"]):
        from codesign.errors import CodesignError

        scratch = tempfile.mkdtemp(prefix="codesign-fuzz-")
        folder = Path(scratch)
        load = loader(name, folder)
        examples = seeds(name)
        for content in examples:  # also imports what is imported on first use
            load_or_refuse(load, content, CodesignError)
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, content in enumerate(examples):
        (corpus / str(number)).write_bytes(content)
    guard = Guard(name, folder)
    limit_memory()

    def case(data: bytes) -> None:
        guard.active = True
        try:
            load_or_refuse(load, data, CodesignError)
        finally:
            guard.active = False
        if guard.seen:
            raise AssertionError(f"the loader {name} did what it must not: {guard.seen[0]}")

    def mutated(data: bytes, longest: int, seed: int) -> bytes:
        changed = mutate_json(data, longest, seed) if seed % 4 else None
        return atheris.Mutate(data, longest) if changed is None else changed

    longest = max(map(len, examples)) + 4096
    options = [
        name, f"-runs={runs}", f"-seed={seed}", f"-max_len={longest}", f"-rss_limit_mb={MEMORY_MB}",
        f"-timeout={SECONDS_A_CASE}", f"-artifact_prefix={name}-", str(corpus),
    ]  # fmt: skip
    atheris.Setup(options, case, **({"custom_mutator": mutated} if name in JSON else {}))
    atheris.Fuzz()


def limit_memory() -> None:
    """An allocation that would take this process MEMORY_MB beyond what it has now fails."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (MEMORY_MB << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def load_or_refuse(load: Callable[[bytes], Any], data: bytes, refusal: type[Exception]) -> None:
    try:
        load(data)
    except refusal:
        return


def run(name: str, runs: int, seed: int) -> tuple[str, int, float, str]:
    """Fuzz one loader in a child process: name, cases done, seconds, and what went wrong ('' if nothing)."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="codesign-fuzz-parent-") as scratch:
        result = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), "--child", name, "--runs", str(runs), "--seed", str(seed)],
            capture_output=True, text=True, errors="replace", check=False,
            env=dict(os.environ, OPENBLAS_NUM_THREADS="1", TMPDIR=scratch, PYTHONDONTWRITEBYTECODE="1"),
        )  # fmt: skip
    done = re.search(r"Done (\d+) runs", result.stderr)
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("INFO", "WARNING", "#"))]
    problem = "" if result.returncode == 0 and done else "\n".join([result.stdout[-3000:], *lines[-10:]])
    return name, int(done[1]) if done else 0, time.monotonic() - begun, problem


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loaders", nargs="*", metavar="LOADER", help=", ".join(RUNS))
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.runs, arguments.seed)
        return 0
    if shutil.which("python3") is None or not _has_atheris():
        print("atheris is missing: pip install 'codesign[fuzz]'", file=sys.stderr)
        return 3
    names = arguments.loaders or list(RUNS)
    if unknown := [name for name in names if name not in RUNS]:
        parser.error(f"unknown loader {unknown[0]}")
    total = 0
    failed = False
    with ThreadPoolExecutor(arguments.jobs) as pool:
        counts = [max(1, round(RUNS[name] * arguments.share)) for name in names]
        for name, done, seconds, problem in pool.map(lambda n, c: run(n, c, arguments.seed), names, counts):
            total += done
            failed |= bool(problem)
            print(f"{name}: {done} cases in {seconds:.0f} s{': DEFECT' if problem else ''}", flush=True)
            if problem:
                print(problem, flush=True)
    print(f"{total} cases, {'a defect was found' if failed else 'no defect'}")
    return 1 if failed else 0


def _has_atheris() -> bool:
    from importlib.util import find_spec

    return find_spec("atheris") is not None


if __name__ == "__main__":
    sys.exit(main())
