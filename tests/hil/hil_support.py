"""What the tests of codesign.hil share: models, ELF files made from assembly, the processes that are left."""

from __future__ import annotations

import dataclasses
import fcntl
import pickle
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from codesign.network import FloatNetwork, load_network
from codesign.quantization import read_integer_network
from codesign.quantization.integer import IntegerNetwork

if TYPE_CHECKING:
    from codesign.toolchain import Build

FIXTURES = Path(__file__).parents[1] / "fixtures"
SAMPLE_MODELS = Path(__file__).parent / "sample_models"


@dataclass(frozen=True)
class Model:
    """Both networks of a fixture, and its calibration samples, float32 (N, T, D)."""

    integer: IntegerNetwork
    real: FloatNetwork
    x: np.ndarray


def load_model(name: str) -> Model:
    return Model(
        read_integer_network(FIXTURES / f"{name}.tflite"),
        load_network(FIXTURES / f"{name.removesuffix('.int16')}.h5"),
        np.load(FIXTURES / f"{name.removesuffix('.int16')}.calib.npz")["x"].astype(np.float32),
    )


@cache
def integer_network(name: str) -> IntegerNetwork:
    """A fixture, or one of the sample models."""
    sample = SAMPLE_MODELS / f"{name}.tflite"
    return read_integer_network(sample if sample.exists() else FIXTURES / f"{name}.tflite")


def built_once(name: str, board: str, shared: Path, own: Path) -> Build:
    """The firmware of `integer_network(name)`: built once below `shared`, by whichever of the tests' processes needs it
    first; its ELF is copied to the folder `own`, so that emulators can be told apart."""
    from codesign.toolchain import build, load_board

    folder = shared / f"{name}-{board}"
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "build.pickle"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            made = build(integer_network(name), load_board(board), folder / "firmware")
            done.write_bytes(pickle.dumps(made))
        made = pickle.loads(done.read_bytes())
    elf = own / "program.elf"
    shutil.copyfile(made.elf, elf)
    return dataclasses.replace(made, elf=elf)


def need_emulator(kind: str) -> None:
    if kind == "unicorn":
        pytest.importorskip("unicorn", reason="unicorn is not installed")
    elif shutil.which("qemu-system-arm") is None:
        pytest.skip("qemu-system-arm is not installed")


def need_toolchain() -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    pytest.importorskip("platformio", reason="platformio is not installed")


def assemble(text: str, folder: Path, flash: int = 0x0800_0000, stack: int = 0x2000_1000) -> Path:
    """An ELF whose reset handler is the given Thumb assembly."""
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    source = folder / "program.s"
    source.write_text(
        f".syntax unified\n.cpu cortex-m7\n.fpu fpv5-sp-d16\n.thumb\n.text\n.word {stack}\n.word start\n"
        f".global start\n.thumb_func\n.type start, %function\nstart:\n{text}\n"
    )
    elf = folder / "program.elf"
    options = ["-mcpu=cortex-m7", "-nostdlib", f"-Wl,-n,-Ttext=0x{flash:x},-e,start"]
    subprocess.run(["arm-none-eabi-gcc", *options, "-o", str(elf), str(source)], check=True)
    return elf


def processes_with(argument: str) -> list[int]:
    """Ids of the live processes whose command line contains the argument."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if argument.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_until_gone(argument: str, seconds: float = 5.0) -> bool:
    limit = time.monotonic() + seconds
    while processes_with(argument):
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True
