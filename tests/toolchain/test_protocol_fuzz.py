"""The device's protocol code, compiled for the host with sanitizers."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from toolchain_support import HERE, MAGIC, ROOT, STUB, STUB_HASH, Frame, frame, identify_fields, parse_all, stub_output

SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CONFIG = """
#define CS_BOARD_NAME "host"
#define CS_BUILD_ID {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
#define CS_COUNTER_KIND 1
#define CS_COUNTER_GRANULARITY 1
"""
TIMEOUT = b""


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no host C compiler is installed")
    folder = tmp_path_factory.mktemp("harness")
    (folder / "cs_config.h").write_text(CONFIG)
    hil = ROOT / "firmware" / "hil"
    sources = [hil / "cs_frame.c", hil / "cs_hil.c", STUB / "codesign_model.c", HERE / "host_harness.c"]
    includes = [f"-I{p}" for p in (folder, hil, STUB, ROOT / "firmware" / "boards" / "common")]
    command = [compiler, "-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", *SANITIZE, *includes]
    subprocess.run([*command, *map(str, sources), "-o", str(folder / "harness")], check=True)
    return folder / "harness"


def exchange(harness: Path, *chunks: bytes) -> list[Frame]:
    """What the device sends for these chunks; an empty chunk is a time-out."""
    stream = b"".join(struct.pack("<I", len(chunk)) + chunk for chunk in chunks)
    result = subprocess.run([str(harness)], input=stream, capture_output=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr.decode()
    return parse_all(result.stdout)


def test_every_command(harness: Path) -> None:
    q = np.arange(-6, 6, dtype=np.int8)
    x = np.array([1.25, -3.0, *range(10)], np.float32)
    frames = exchange(
        harness,
        frame(0x01, 1),
        frame(0x02, 2, q.tobytes()),
        frame(0x03, 3, q.tobytes()),
        frame(0x05, 65535, x.tobytes()),
        frame(0x04, 5),
    )
    identity, inferred, *traced, quantized, metrics = frames
    fields = identify_fields(identity.payload)
    assert (identity.type, identity.sequence) == (0x81, 1)
    assert fields["hash"] == STUB_HASH
    assert fields["build"] == bytes(range(1, 17)).hex()
    assert (fields["input"], fields["output"], fields["steps"], fields["features"]) == (12, 5, 3, 4)
    assert fields["board"] == "host"
    assert inferred == Frame(0x82, 2, stub_output(q) + struct.pack("<Q", 1234))
    assert [f.type for f in traced] == [0x83] * 4
    sums = [int(q[: 4 * i].sum()) for i in (1, 2, 3)]
    for step, (reply, total) in enumerate(zip(traced, sums, strict=False)):
        assert reply.payload == struct.pack("<HHH", 0, step, 2) + bytes([total & 0x3F, 4 * step + 3])
    assert traced[3].payload == struct.pack("<HHH", 0xFFFF, 0, 5) + stub_output(q)
    assert (quantized.type, quantized.sequence) == (0x85, 65535)
    assert np.frombuffer(quantized.payload, np.int8).tolist() == [1, -3, *range(10)]
    assert struct.unpack("<IIII", metrics.payload) == (100, 8192, 2, 0)


def test_a_stream_may_repeat_its_last_request_and_nothing_else(harness: Path) -> None:
    q = np.arange(-10, 10, dtype=np.int8).reshape(5, 4)
    sums = np.cumsum(q.sum(1, dtype=np.int64)).astype(np.int8)

    def ask(sequence: int, first: int, part: np.ndarray) -> bytes:
        return frame(0x06, sequence, struct.pack("<I", first) + part.tobytes())

    def answer(sequence: int, first: int, count: int) -> Frame:
        outputs = b"".join(sums[k : k + 1].tobytes() + bytes([k + 1]) for k in range(first, first + count))
        return Frame(0x86, sequence, outputs + struct.pack("<Q", 1234 * count))

    refused = [Frame(0xFF, k, bytes([4, 6])) for k in range(20)]
    frames = exchange(
        harness, ask(1, 3, q[3:]), ask(2, 0xFFFFFFFF, q[:1]), ask(3, 0, q[:2]), ask(4, 2, q[2:3]), ask(5, 2, q[2:3]),
        ask(6, 3, q[3:]), ask(7, 2, q[2:3]), ask(8, 3, q[3:]), frame(0x04, 9), frame(0x02, 10, bytes(12)),
        ask(11, 5, q[:1]), ask(12, 0, q),
    )  # fmt: skip
    assert [f.type for f in frames[8:10]] == [0x84, 0x82]
    assert frames[:8] == [
        refused[1], refused[2], answer(3, 0, 2), answer(4, 2, 1), answer(5, 2, 1), answer(6, 3, 2), refused[7],
        answer(8, 3, 2),
    ]  # fmt: skip
    assert frames[10:] == [refused[11], answer(12, 0, 5)]  # an inference ends the stream


def test_stream_requests_hold_whole_steps(harness: Path) -> None:
    for length in (0, 4, 7, 9, 49):
        (reply,) = exchange(harness, frame(0x06, 3, bytes(length)))
        assert (reply.type, reply.payload) == (0xFF, bytes([3, 6]))


def test_error_replies(harness: Path) -> None:
    good = frame(0x01, 9)
    bad_crc = good[:-1] + bytes([good[-1] ^ 1])
    frames = exchange(
        harness,
        bad_crc,
        frame(0x77, 4),
        frame(0x02, 5, b"\0" * 11),
        frame(0x01, 6, b"\0"),
        frame(0x02, 7, b"\0" * 60000),
    )
    replies = [(f.type, f.sequence, *f.payload) for f in frames]
    assert replies == [
        (0xFF, 0, 1, 0x01),
        (0xFF, 4, 2, 0x77),
        (0xFF, 5, 3, 0x02),
        (0xFF, 6, 3, 0x01),
        (0xFF, 7, 3, 0x02),
    ]
    assert struct.unpack("<IIII", exchange(harness, bad_crc, frame(0x77, 4), frame(0x04, 1))[-1].payload)[3] == 2


def test_magic_in_noise_does_not_swallow_the_next_request(harness: Path) -> None:
    begun = MAGIC + struct.pack("<BHH", 2, 0, 40)
    frames = exchange(harness, begun + b"\x11" * 9 + frame(0x01, 3), frame(0x04, 4) * 3)
    assert [(f.type, f.sequence) for f in frames] == [(0xFF, 0), (0x81, 3), *[(0x84, 4)] * 3]
    assert [f.type for f in exchange(harness, MAGIC + b"\x01", TIMEOUT, frame(0x01, 3))] == [0xFF, 0x81]
    assert [f.type for f in exchange(harness, b"\xc5\xc5" + frame(0x01, 3)[1:])] == [0x81]


def noise(generator: np.random.Generator, length: int) -> bytes:
    """Random bytes, magic numbers, plausible headers and broken pieces of real frames."""
    parts = []
    total = 0
    while total < length:
        kind = generator.integers(4)
        if kind == 0:
            part = generator.bytes(int(generator.integers(1, 200)))
        elif kind == 1:
            part = MAGIC * int(generator.integers(1, 30))
        elif kind == 2:
            part = MAGIC + struct.pack("<BHH", *(int(v) for v in generator.integers(0, [8, 1 << 16, 60])))
        else:
            whole = bytearray(frame(int(generator.integers(1, 7)), 1, generator.bytes(int(generator.integers(0, 49)))))
            whole[int(generator.integers(len(whole)))] ^= 1 << int(generator.integers(8))
            part = bytes(whole[: int(generator.integers(1, len(whole) + 1))])
        parts.append(part)
        total += len(part)
    return b"".join(parts)


@pytest.mark.parametrize("seed", range(10))
def test_fuzz_then_the_next_good_frame_is_answered(harness: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    chunks: list[bytes] = []
    for round_ in range(20):
        chunks += [noise(generator, 2000), *[TIMEOUT] * 40, frame(0x01, 40000 + round_)]
    frames = exchange(harness, *chunks)
    answered = [f.sequence for f in frames if f.type == 0x81 and f.sequence >= 40000]
    assert [s for s in answered if s >= 40000 and s < 40020] == list(range(40000, 40020))


@pytest.mark.parametrize("seed", range(5))
def test_repeating_a_request_is_enough_without_time_outs(harness: Path, seed: int) -> None:
    generator = np.random.default_rng(100 + seed)
    frames = exchange(harness, noise(generator, 20000), frame(0x01, 41000) * 12)
    assert any((f.type, f.sequence) == (0x81, 41000) for f in frames)
