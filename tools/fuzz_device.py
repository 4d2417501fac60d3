"""Fuzz the device's protocol code, compiled for this machine, with libFuzzer and the address and UB sanitizers.

Usage: python tools/fuzz_device.py [--runs N | --seconds S] [--seed N] [--frame-source FILE]
Needs clang with its run-time library (sudo apt install clang libclang-rt-dev). Exit code 1: a crash, its input kept.
--frame-source compiles another cs_frame.c, to see that the fuzzer would find a defect.
"""

from __future__ import annotations

import argparse
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests" / "toolchain"
LONGEST_INPUT = 2048
CONFIG = """
#define CS_BOARD_NAME "host"
#define CS_BUILD_ID {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
#define CS_COUNTER_KIND 1
#define CS_COUNTER_GRANULARITY 1
"""


def frame(kind: int, sequence: int, payload: bytes) -> bytes:
    body = struct.pack("<BHH", kind, sequence, len(payload)) + payload
    return b"\xc5\xd1" + body + struct.pack("<I", zlib.crc32(body))


def build(folder: Path, frame_source: Path) -> Path:
    """Compile the fuzz target; the stub model has 12 inputs and 5 outputs."""
    (folder / "cs_config.h").write_text(CONFIG)
    hil, stub = ROOT / "firmware" / "hil", TESTS / "stub_model"
    sources = [frame_source, hil / "cs_hil.c", stub / "codesign_model.c", TESTS / "fuzz_target.c"]
    includes = [f"-I{path}" for path in (folder, hil, stub, ROOT / "firmware" / "boards" / "common")]
    options = ["-std=c11", "-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
    target = folder / "fuzz"
    subprocess.run(["clang", *options, *includes, *map(str, sources), "-o", str(target)], check=True)
    return target


def write_seeds(folder: Path) -> None:
    """One good frame of every type and length that the device knows, and pieces of frames."""
    folder.mkdir()
    lengths = {1: 0, 2: 12, 3: 12, 4: 0, 5: 48, 9: 3}
    frames = [frame(kind, 7, bytes(range(length))) for kind, length in lengths.items()]
    # As fuzz_target.c takes a frame whose CRC it shall compute.
    marked = [bytes([0xA6, kind, length, *range(length)]) for kind, length in lengths.items()]
    pieces = [frames[1][:9] + frames[0], b"\xc5\xd1\x02\x00\x00\x30\x00", b"".join(frames)]
    for number, content in enumerate([*frames, *marked, *pieces]):
        (folder / str(number)).write_bytes(content)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=-1)
    parser.add_argument("--seconds", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--frame-source", type=Path, default=ROOT / "firmware" / "hil" / "cs_frame.c")
    arguments = parser.parse_args()
    if shutil.which("clang") is None:
        print("clang is missing: sudo apt install clang libclang-rt-dev", file=sys.stderr)
        return 3
    if arguments.runs < 0 and not arguments.seconds:
        arguments.seconds = 60
    with tempfile.TemporaryDirectory(prefix="codesign-fuzz-") as scratch:
        folder = Path(scratch)
        target = build(folder, arguments.frame_source)
        write_seeds(folder / "corpus")
        result = subprocess.run(
            [
                str(target),
                f"-runs={arguments.runs}",
                f"-max_total_time={arguments.seconds}",
                f"-seed={arguments.seed}",
                f"-max_len={LONGEST_INPUT}",
                "-rss_limit_mb=512",
                f"-artifact_prefix={Path.cwd()}/",
                str(folder / "corpus"),
            ],
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
    if result.returncode != 0:
        print(result.stderr[-4000:])
        return 1
    runs = re.search(r"Done (\d+) runs in (\d+) second", result.stderr)
    received = re.search(r"bytes received by the device: (\d+)", result.stderr)
    coverage = re.findall(r"cov: (\d+) ft: (\d+)", result.stderr)
    if runs is None or received is None or not coverage:
        print(result.stderr[-4000:])
        return 1
    print(
        f"{int(runs[1])} inputs, {int(received[1])} bytes in {runs[2]} s, no defect; "
        f"{coverage[-1][0]} edges and {coverage[-1][1]} features covered"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
