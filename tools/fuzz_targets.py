"""What tools/fuzz_loaders.py fuzzes: the loaders by name, valid content to start from, and mutations that keep a
format's outer shell (JSON's syntax, a zip archive's check sums) so that what is inside gets fuzzed too.

HDF5 files are read by the tool in a child process a file, which is started anew each time. Here that process is forked
from one that has imported everything: the same code under the same limits, a hundred times as fast. The loader
h5_spawned takes the tool's own way.
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
FORKED_CPU_SECONDS = 1  # the tool allows more; files that make the HDF5 library loop would take up all the time

Load = Callable[[bytes], Any]

# Loaders of JSON, whose mutations are valid JSON three times out of four.
JSON = ("certificate", "hil", "signoff", "journal", "keras_config")
HDF5 = ("h5", "keras", "keras_weights", "keras_config", "h5_spawned")


def seeds(name: str) -> list[bytes]:
    """Valid content, from which the fuzzer starts."""
    if name == "board":
        return [path.read_bytes() for path in sorted((ROOT / "boards").glob("*.toml"))]
    if name == "regions":
        return [
            b'[[region]]\nname = "a"\nsample = 0\nradius = "1lsb"\n[[region]]\nname = "b"\nsample = 1\ngrid = 2\n',
            b'[[region]]\nname = "c"\ncenter = [[0.5, 1.0, -1.0]]\nnoise = [0.1, 0.2, 0.3]\nfree_from = 1\n',
        ]
    if name in ("int8", "float_tflite"):
        pattern = "*.float.tflite" if name == "float_tflite" else "*.tflite"
        return [p.read_bytes() for p in sorted(FIXTURES.glob(pattern)) if p.stat().st_size < 20_000]
    if name in ("h5", "h5_spawned"):
        return [(FIXTURES / "tiny.h5").read_bytes()]
    if name == "keras":
        return [(ROOT / "models" / "digits.keras").read_bytes()]
    if name in ("keras_config", "keras_weights"):
        member = "config.json" if name == "keras_config" else "model.weights.h5"
        return [_members(ROOT / "models" / "digits.keras")[member]]
    if name == "calibration":
        return [(FIXTURES / "tiny.calib.npz").read_bytes()]
    if name == "calibration_array":
        return [_members(FIXTURES / "tiny.calib.npz")["x.npy"]]
    if name == "proof":
        return [_proof()]
    if name == "proof_array":
        return [_unzipped(_proof())[member] for member in ("header.npy", "slopes.npy")]
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
        options = ["-mcpu=cortex-m3", "-nostdlib", "-Wl,-e,start", "-x", "c", "-", "-o", f"{folder}/x"]
        subprocess.run(["arm-none-eabi-gcc", *options], input=source, text=True, check=True, capture_output=True)
        return (Path(folder) / "x").read_bytes()


def _proof() -> bytes:
    import numpy as np

    from codesign.proof.proof_file import ProofFile, pack

    header = {
        "float_sha256": "0" * 64,
        "int8_sha256": "1" * 64,
        "profiles": [],
        "steps": [["x", "y", 2]],
        "skipped": [],
    }
    arrays = [np.zeros((2, 4, 3)), np.ones((2, 4, 3)), np.zeros((2, 4))]
    return pack(ProofFile(header, *arrays, np.zeros((2, 3), bool), np.zeros((2, 0))))


def _members(path: Path) -> dict[str, bytes]:
    return _unzipped(path.read_bytes())


def _unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def loader(name: str, folder: Path) -> Load:
    """The function under test: bytes of a file -> anything, or a CodesignError."""
    if name in HDF5 and name != "h5_spawned":
        from codesign.network import keras_file

        keras_file._dumped = Forks().dumped
    suffix = {
        "board": ".toml", "regions": ".toml", "h5": ".h5", "h5_spawned": ".h5", "elf": ".elf", "int8": ".tflite",
        "float_tflite": ".tflite", "calibration": ".npz", "calibration_array": ".npz",
        "keras": ".keras", "keras_config": ".keras", "keras_weights": ".keras",
    }  # fmt: skip
    path = folder / f"case{suffix.get(name, '.json')}"

    def through_a_file(load: Callable[[Path], Any], wrap: Load = bytes) -> Load:
        def run(data: bytes) -> Any:
            path.write_bytes(wrap(data))
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
    if name == "regions":
        from codesign.verification.region_files import load_regions

        return through_a_file(load_regions)
    if name == "int8":
        from codesign.quantization import read_integer_network

        return through_a_file(read_integer_network)
    if name in ("float_tflite", *HDF5):
        from codesign.network import load_network

        member = {"keras_config": "config.json", "keras_weights": "model.weights.h5"}.get(name)
        if member is None:
            return through_a_file(load_network)
        whole = _members(ROOT / "models" / "digits.keras")
        return through_a_file(load_network, lambda data: _zipped({**whole, member: data}))
    if name in ("calibration", "calibration_array"):
        from codesign.quantization import load_calibration

        shell: Load = bytes if name == "calibration" else lambda data: _zipped({"x.npy": data})
        return through_a_file(lambda file: load_calibration(file, (4, 3)), shell)
    if name in ("proof", "proof_array"):
        return _proof_reader(name, through_a_file)
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


def _proof_reader(name: str, through_a_file: Any) -> Load:
    """The proof file is read for a certificate that names it by its digest; a damaged one is a ValueError there."""
    import hashlib

    from codesign.proof.proof_file import read

    whole = _unzipped(_proof())
    document: dict[str, Any] = {"float_sha256": "0" * 64, "int8_sha256": "1" * 64, "int8": {"profiles": []}}

    def wrap(data: bytes) -> bytes:
        if name == "proof":
            return data
        member = "header.npy" if data[:10] == whole["header.npy"][:10] and b"'|u1'" in data[:100] else "slopes.npy"
        return _zipped({**whole, member: data})

    def load(file: Path) -> None:
        document["proof_file"] = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        try:
            read(file, document)
        except ValueError:
            return

    run: Load = through_a_file(load, wrap)
    return run


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
    from codesign.hil import validate_result

    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return
    validate_result(document)


# Mutations


_KEYS = ("x", "name", "config", "layers", "sample", "kind", "box", "y" * 30)
_ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 255, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308, 1e-320, float("nan"),
    float("inf"), "", "x", "..", "../../x", "/dev/zero", "\0", "*/", "\u2028", "1e9", "tanh", "LSTM", "sigmoid", [], {},
    [[]], [1, 2, 3], {"class_name": "Dense", "config": {}}, [None, 4, 3], "\ud800",
)  # fmt: skip


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON tree."""
    found, left = [], [tree]
    while left:
        node = left.pop()
        keys = node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            left.append(node[key])
    return found


def mutate_json(data: bytes, longest: int, seed: int) -> bytes | None:
    """A changed tree as JSON, or one changed line of JSON lines; None where the bytes are none, or too long."""
    rng = random.Random(seed)
    lines = data.split(b"\n")
    at = rng.randrange(len(lines)) if len(lines) > 1 and lines[0].startswith(b"{") and lines[0].endswith(b"}") else None
    try:
        tree = json.loads((data if at is None else lines[at]).decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(tree)
        if not places:
            return None
        container, key = rng.choice(places)
        action = rng.randrange(8)
        if action == 0:
            del container[key]
        elif action == 1 and isinstance(container, dict):
            container[rng.choice(("x", "name", "config", "layers", "sample", "kind", "box", "y" * 30))] = rng.choice(
                _ODD
            )
        elif action == 1 and isinstance(container, list) and len(container) < 100:
            container *= rng.randrange(4)
        elif action in (2, 3):
            other, place = rng.choice(places)
            container[key] = copy.deepcopy(other[place])
        elif action == 4 and type(container[key]) is float:
            container[key] += rng.choice((-1.0, 1.0, 0.5))
        elif action == 4 and type(container[key]) is int:
            container[key] += rng.choice((-1, 1, 256))
        else:
            container[key] = copy.deepcopy(rng.choice(_ODD))
    try:
        text = json.dumps(tree, ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return None
    if at is not None:
        text = b"\n".join([*lines[:at], text, *lines[at + 1 :]])
    return text if len(text) <= longest else None


# HDF5


class Forks:
    """Reads HDF5 content in processes forked from a warm one, which is started here and ends with its stdin."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--forks"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin
        assert self._process.stdout
        self._to, self._back = self._process.stdin, self._process.stdout

    def dumped(self, content: bytes) -> bytes:
        """As codesign.network.keras_file has it."""
        self._to.write(struct.pack("<Q", len(content)) + content)
        self._to.flush()
        status, length = struct.unpack("<iQ", _exactly(self._back, 12))
        result = _exactly(self._back, length)
        if status:
            raise ChildProcessError(f"ended with status {status}")
        return result


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise SystemExit("the forking process has ended")
    return data


def fork_for_every_file() -> None:
    """The warm process: length and content in, status, length and result out."""
    import h5py  # noqa: F401
    import numpy  # noqa: F401

    from codesign.network import _hdf5_dump

    _hdf5_dump.CPU_SECONDS = FORKED_CPU_SECONDS
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while len(head := source.read(8)) == 8:
        content = source.read(struct.unpack("<Q", head)[0])
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            _forked(content, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as stream:
            result = stream.read()
        _, status = os.waitpid(child, 0)
        sink.write(struct.pack("<iQ", status, len(result)) + result)
        sink.flush()


def _forked(content: bytes, writing: int) -> None:
    from codesign.network import _hdf5_dump

    try:
        _hdf5_dump.limit_resources()
        with os.fdopen(writing, "wb") as stream:
            stream.write(_hdf5_dump.dump(content))
    except BaseException:
        os._exit(1)
    os._exit(0)


if __name__ == "__main__" and sys.argv[1:] == ["--forks"]:
    fork_for_every_file()
