"""Fuzz every loader of untrusted files with atheris (coverage-guided): no error but the tool's own, no unbounded memory
or time, no file written elsewhere, no code run from a file.

Usage: python tools/fuzz_loaders.py [--share 1.0] [--seed 1] [--jobs 2] [LOADER ...]
A share of 1 is at least 10^6 cases over all loaders. Exit code 1: a defect was found; its input is kept in this folder.
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

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
MEMORY_MB = 2048
SECONDS_A_CASE = 30

# What no loader of data may do. HDF5 files are read in a child process of the tool's own.
FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class", "socket.connect",
    "shutil.rmtree", "os.remove", "os.rename", "os.symlink", "os.link", "os.chmod", "exec", "marshal.loads", "import",
)  # fmt: skip
CHILD_PROCESS = ("h5", "keras")
SPAWNING = ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec", "os.remove", "shutil.rmtree", "import")

# Cases at a share of 1.
RUNS = {
    "frames": 680_000,
    "board": 80_000,
    "int8": 40_000,
    "float_tflite": 40_000,
    "certificate": 20_000,
    "hil": 40_000,
    "signoff": 40_000,
    "journal": 50_000,
    "calibration": 10_000,
    "elf": 5_000,
    "keras": 1_000,
    "h5": 200,
}


def seeds(name: str) -> list[bytes]:
    """Valid content, from which the fuzzer starts."""
    if name == "board":
        return [path.read_bytes() for path in sorted((ROOT / "boards").glob("*.toml"))]
    if name in ("int8", "float_tflite"):
        pattern = "*.float.tflite" if name == "float_tflite" else "*.tflite"
        return [p.read_bytes() for p in sorted(FIXTURES.glob(pattern)) if p.stat().st_size < 20_000]
    if name == "h5":
        return [(FIXTURES / "tiny.h5").read_bytes()]
    if name == "keras":
        return [(ROOT / "models" / "digits.keras").read_bytes()]
    if name == "calibration":
        return [(FIXTURES / "tiny.calib.npz").read_bytes()]
    if name == "elf":
        return [_small_elf()]
    if name == "frames":
        sys.path.insert(0, str(ROOT / "tests" / "hil"))
        from fake_device import frame

        return [frame(kind, 7, bytes(range(80))) for kind in (0x81, 0x82, 0x83, 0x84, 0x85, 0xFF)]
    return [(FIXTURES.parent / "hil" / "seeds" / name).read_bytes()]


def _small_elf() -> bytes:
    """Little more than the constants that a firmware is known by."""
    source = (
        "const unsigned char build_id[16] = {1}; const unsigned char model_hash[32] = {2};"
        'const char board_name[] = "mps2_an385";'
        "int start(void) { return build_id[0] + model_hash[0] + board_name[0]; }"
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "arm-none-eabi-gcc",
            "-mcpu=cortex-m3",
            "-nostdlib",
            "-Wl,-e,start",
            "-x",
            "c",
            "-",
            "-o",
            f"{folder}/x",
        ]
        subprocess.run(command, input=source, text=True, check=True, capture_output=True)
        return (Path(folder) / "x").read_bytes()


def loader(name: str, folder: Path) -> Callable[[bytes], Any]:
    """The function under test: bytes of a file -> anything, or a CodesignError."""
    suffix = {"board": ".toml", "h5": ".h5", "keras": ".keras", "calibration": ".npz", "elf": ".elf"}
    path = folder / f"case{suffix.get(name, '.tflite' if 'tflite' in name or name == 'int8' else '.json')}"

    def through_a_file(load: Callable[[Path], Any]) -> Callable[[bytes], Any]:
        def run(data: bytes) -> Any:
            path.write_bytes(data)
            return load(path)

        return run

    if name == "frames":
        return _frames
    if name == "hil":
        return _hil
    if name == "board":
        from codesign.toolchain import load_board
        from codesign.toolchain.project import _config_header, _manifest, _memory_script, _platformio_ini

        def board(file: Path) -> None:
            found = load_board(file)
            for write in (_memory_script, _manifest, _platformio_ini, lambda b: _config_header(b, "00" * 16)):
                write(found)

        return through_a_file(board)
    if name == "int8":
        from codesign.quantization import read_integer_network

        return through_a_file(read_integer_network)
    if name in ("float_tflite", "h5", "keras"):
        from codesign.network import load_network

        return through_a_file(load_network)
    if name == "calibration":
        from codesign.quantization import load_calibration

        return through_a_file(lambda file: load_calibration(file, (4, 3)))
    if name == "certificate":
        from codesign.certificate import load_certificate
        from codesign.hil.deployment import certified_regions
        from codesign.quantization import read_integer_network

        network = read_integer_network(FIXTURES / "tiny.tflite")
        return through_a_file(lambda file: certified_regions(load_certificate(file), network))
    if name == "signoff":
        from codesign.hil import deployment

        (folder / "deployment").mkdir(exist_ok=True)
        path = folder / "deployment" / "signoff.json"
        return through_a_file(lambda file: deployment.load_deployment(file.parent, FIXTURES / "tiny.h5"))
    if name == "journal":
        from codesign.hil import Journal

        return through_a_file(lambda file: Journal(file, {"a": 1}, resume=True).close())
    if name == "elf":
        from codesign.toolchain import load_board, read_firmware

        mps2 = load_board("mps2_an385")
        return through_a_file(lambda file: read_firmware(file, mps2))
    raise ValueError(name)


def _frames(data: bytes) -> None:
    from codesign.errors import CodesignError
    from codesign.hil import protocol

    decoder = protocol.Decoder()
    half = len(data) // 2
    for frame in [*decoder.feed(data[:half]), *decoder.feed(data[half:]), *decoder.flush()]:
        assert protocol.encode(frame) in data
    for parse in (
        protocol.parse_identity, protocol.parse_inference, protocol.parse_trace_step, protocol.parse_metrics
    ):  # fmt: skip
        for payload in (data, data[7:-4]):
            try:
                parse(payload)
            except CodesignError:
                continue


def _hil(data: bytes) -> None:
    import json

    from codesign.hil import validate_result

    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return
    validate_result(document)


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

    def case(data: bytes) -> None:
        guard.active = True
        try:
            load_or_refuse(load, data, CodesignError)
        finally:
            guard.active = False
        if guard.seen:
            raise AssertionError(f"the loader {name} did what it must not: {guard.seen[0]}")

    longest = max(map(len, examples)) + 4096
    atheris.Setup(
        [
            name, f"-runs={runs}", f"-seed={seed}", f"-max_len={longest}", f"-rss_limit_mb={MEMORY_MB}",
            f"-timeout={SECONDS_A_CASE}", f"-artifact_prefix={name}-", str(corpus),
        ],
        case,
    )  # fmt: skip
    atheris.Fuzz()


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
