"""A firmware that is not what the certificate is about has to fail: real ELFs, changed in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hil_support import Model, assemble, load_model, need_emulator

from codesign.errors import InputError
from codesign.hil import cross_check, mutate, open_target, validate_result

if TYPE_CHECKING:
    from codesign.toolchain import Build

Built = Callable[[str, str], "Build"]
BOARD = "nucleo_f746"


def check(build: Build, model: Model) -> dict[str, Any]:
    with open_target(build, emulate=True) as target:
        result = cross_check(target, model.integer, model.real, model.x[:12], build_id=build.build_id)
    validate_result(result)
    return result


def mutant(build: Build, folder: Path) -> Build:
    return dataclasses.replace(build, elf=folder / "mutant.elf")


def test_the_unchanged_firmware_passes(built: Built, tiny: Model) -> None:
    need_emulator("unicorn")
    result = check(built("tiny", BOARD), tiny)
    assert (result["verdict"], result["failures"]) == ("PASS", [])
    assert result["counter"]["min"] > 1000


@pytest.mark.parametrize(
    ("symbol", "byte", "bit", "layer"),
    [
        # Records of a unit: two biases, input weights, two biases, and the same for the recurrent part.
        ("op0_weights", 8, 6, "lstm"),
        ("op0_weights", 8 + 16 + 8 + 8, 6, "lstm"),
        ("op0_weights", 5, 6, "lstm"),
        ("op1_weights", 0, 6, "output"),
        ("op1_bias", 1, 6, "output"),
    ],
)
def test_one_flipped_bit_fails(
    symbol: str, byte: int, bit: int, layer: str, built: Built, tiny: Model, tmp_path: Path
) -> None:
    need_emulator("unicorn")
    build = built("tiny", BOARD)
    mutate.flip_bit(build.elf, tmp_path / "mutant.elf", symbol, byte, bit)
    result = check(mutant(build, tmp_path), tiny)
    assert result["verdict"] == "FAIL"
    assert result["summary"]["bit_exact"] < 12
    named = result["divergence"]["layer"]
    assert (named == "output") == (layer == "output")


@pytest.mark.parametrize("symbol", ["sigmoid_segments", "op2_exp_table"])
def test_one_changed_table_entry_fails(symbol: str, built: Built, tiny: Model, tmp_path: Path) -> None:
    need_emulator("unicorn")
    build = built("tiny", BOARD)
    size = 4
    table = np.frombuffer(mutate.read(build.elf, symbol), f"<u{size}")
    # Small arguments are met for certain; of the exponentials, the one that every input meets, or else the next.
    entries = (256, 255, 257) if symbol == "sigmoid_segments" else (len(table) - 1, 0, 2)
    for entry in entries:
        changed = int(table[entry]) ^ 1 << (8 * size - 3)
        mutate.overwrite(build.elf, tmp_path / "mutant.elf", symbol, size * entry, changed.to_bytes(size, "little"))
        result = check(mutant(build, tmp_path), tiny)
        if result["verdict"] == "FAIL":
            break
    assert result["verdict"] == "FAIL"
    assert result["summary"]["bit_exact"] < 12


def test_changed_model_hash_fails(built: Built, tiny: Model, tmp_path: Path) -> None:
    need_emulator("unicorn")
    build = built("tiny", BOARD)
    mutate.flip_bit(build.elf, tmp_path / "mutant.elf", "model_hash", 31, 0)
    result = check(mutant(build, tmp_path), tiny)
    assert result["verdict"] == "FAIL"
    assert result["summary"]["bit_exact"] == 12
    assert "wrong model" in result["failures"][0]


def test_changed_build_id_fails(built: Built, tiny: Model, tmp_path: Path) -> None:
    need_emulator("unicorn")
    build = built("tiny", BOARD)
    mutate.flip_bit(build.elf, tmp_path / "mutant.elf", "build_id", 0, 0)
    result = check(mutant(build, tmp_path), tiny)
    assert result["failures"][0].startswith("wrong build")


def test_wrong_model_fails(built: Built, tiny: Model) -> None:
    need_emulator("unicorn")
    result = check(built("stacked", BOARD), tiny)
    assert result["verdict"] == "FAIL"
    assert "wrong model" in result["failures"][0]


def test_another_model_of_the_same_shape_fails(built: Built, tiny: Model) -> None:
    """The hash alone would do; the outputs show it too."""
    need_emulator("unicorn")
    other = load_model("tiny")
    ops = list(other.integer.ops)
    ops[0] = dataclasses.replace(ops[0], W=-ops[0].W)  # type: ignore[arg-type, union-attr]
    model = Model(dataclasses.replace(other.integer, ops=tuple(ops), sha256="0" * 64), other.real, other.x)
    result = check(built("tiny", BOARD), model)
    assert "wrong model" in result["failures"][0]
    assert result["summary"]["bit_exact"] < 12


def test_crashing_firmware_fails(built: Built, tiny: Model, tmp_path: Path) -> None:
    """A pointer in the operator's constants goes astray: the emulator says where, the link passes it on."""
    need_emulator("unicorn")
    build = built("tiny", BOARD)
    operator = mutate.read(build.elf, "op0")
    weights = next(
        i
        for i in range(0, len(operator), 4)
        if 0x0800_0000 <= int.from_bytes(operator[i : i + 4], "little") < 0x0810_0000
    )
    mutate.overwrite(build.elf, tmp_path / "mutant.elf", "op0", weights, (0x3000_0000).to_bytes(4, "little"))
    result = check(mutant(build, tmp_path), tiny)
    assert result["verdict"] == "FAIL"
    assert "unmapped address 0x30000" in result["failures"][0]
    assert "pc 0x0800" in result["failures"][0]


def test_mutations_that_are_none(built: Built, tmp_path: Path) -> None:
    build = built("tiny", BOARD)
    out = tmp_path / "mutant.elf"
    with pytest.raises(InputError, match="no constant 'nothing'"):
        mutate.flip_bit(build.elf, out, "nothing", 0, 0)
    with pytest.raises(InputError, match="there is no byte 32"):
        mutate.flip_bit(build.elf, out, "model_hash", 32, 0)
    with pytest.raises(InputError, match="bits 0 to 7"):
        mutate.flip_bit(build.elf, out, "model_hash", 0, 8)
    with pytest.raises(InputError, match="holds these bytes already"):
        mutate.overwrite(build.elf, out, "model_hash", 0, mutate.read(build.elf, "model_hash")[:4])
    with pytest.raises(InputError, match="not inside"):
        mutate.overwrite(build.elf, out, "model_hash", 30, b"abcd")
    assert not out.exists()


def test_files_that_are_no_firmware(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"text")
    with pytest.raises(InputError, match="not a readable ELF"):
        mutate.constants(path)
    with pytest.raises(InputError, match="not a readable ELF"):
        mutate.constants(tmp_path / "none")
    assert mutate.constants(assemble("b .", tmp_path)) == {}
