"""What is written, how it compiles, what it links, and what is refused."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from codegen_support import (
    WARNINGS,
    activation,
    compile_host,
    dense,
    handmade,
    inputs,
    last_step,
    lstm,
    network,
    tensor,
)

from codesign.codegen import generate, memory_estimate
from codesign.errors import InputError
from codesign.quantization.integer import IntegerNetwork, IntLstm, Multiplier
from codesign.semantics import simulate

Find = Callable[[str], IntegerNetwork]
CORES = {
    "cortex-m0plus": [],
    "cortex-m3": [],
    "cortex-m33": ["-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"],
    "cortex-m4": ["-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"],
    "cortex-m7": ["-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"],
}
needs_arm = pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None,
    reason="arm-none-eabi-gcc is not installed (apt install gcc-arm-none-eabi)",
)


def run(*command: str | Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def arm_objects(net: IntegerNetwork, folder: Path, core: str, level: str) -> dict[str, Path]:
    objects = {}
    for path in generate(net, folder / "src"):
        if path.suffix == ".c":
            objects[path.name] = folder / f"{path.stem}.o"
            flags = [*WARNINGS, level, f"-mcpu={core}", "-mthumb", *CORES[core]]
            run("arm-none-eabi-gcc", *flags, "-c", path, "-o", objects[path.name])
    return objects


@needs_arm
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("level", ["-Os", "-O2"])
def test_compiles_for_the_boards_without_heap_or_float(
    core: str, level: str, tmp_path: Path, find_network: Find
) -> None:
    objects = arm_objects(find_network("odd"), tmp_path, core, level)
    floating = {objects.pop("codesign_model_float.c"), objects.pop("cs_quantize.c")}
    undefined = {}
    for path in (*objects.values(), *floating):
        undefined[path] = set(run("arm-none-eabi-nm", "-u", path).replace(" U ", " ").split())
    own = {s for path in objects.values() for s in run("arm-none-eabi-nm", "-g", "--defined-only", path).split()}
    # 64-bit products and block moves are the only helpers that integer code may call.
    allowed = {"__aeabi_lmul", "__aeabi_llsl", "__aeabi_lasr", "__clzsi2"}
    allowed |= {"memcpy", "memset", "__aeabi_memcpy", "__aeabi_memset"}
    for path in objects.values():
        assert undefined[path] <= own | allowed, path.name
    for path in floating:
        assert not {s for s in undefined[path] if re.match(r"__aeabi_d|.*alloc|free|round|floor|lrint|exp", s)}
    # None of the integer objects needs the floating-point ones.
    for path in floating:
        provided = set(run("arm-none-eabi-nm", "-g", "--defined-only", path).split())
        assert not any(undefined[other] & provided for other in objects.values())


@needs_arm
def test_no_floating_point_instruction_on_the_inference_path(tmp_path: Path, find_network: Find) -> None:
    objects = arm_objects(find_network("stacked"), tmp_path, "cortex-m7", "-O2")
    float_instruction = re.compile(r"\tv(add|sub|mul|div|mla|cvt|cmp|mov|ldr|str)\S*\t")
    for name, path in objects.items():
        found = float_instruction.search(run("arm-none-eabi-objdump", "-d", path))
        assert bool(found) == (name in ("cs_quantize.c", "codesign_model_float.c")), (name, found)


@needs_arm
@pytest.mark.parametrize("name", ["stacked", "timedist", "acts", "odd", "wide", "copy"])
def test_memory_estimate_equals_the_compiled_arrays(name: str, tmp_path: Path, find_network: Find) -> None:
    net = find_network(name)
    objects = arm_objects(net, tmp_path, "cortex-m4", "-Os")
    estimate = memory_estimate(net)
    sizes = {}
    for path in (objects["codesign_model.c"], objects["cs_tables.c"]):
        for line in run("arm-none-eabi-nm", "-S", path).splitlines():
            fields = line.split()
            if len(fields) == 4:
                sizes[fields[3]] = int(fields[1], 16)
    arrays = re.compile(r"op\d+_(weights|bias|scale|table|exp_table)$")
    flash = sizes["model_hash"] + sum(size for symbol, size in sizes.items() if arrays.match(symbol))
    if any(isinstance(op, IntLstm) for op in net.ops):
        flash += sizes["sigmoid_segments"]
    assert estimate["flash_bytes"] == flash
    for buffer, size in estimate["buffers"].items():
        assert sizes[buffer] == size
    buffers = re.compile(r"buffer_[ab]|wide|op\d+_(hidden|cell)")
    assert estimate["ram_bytes"] == sum(size for symbol, size in sizes.items() if buffers.fullmatch(symbol))


def test_memory_estimate_of_a_known_network(find_network: Find) -> None:
    """LSTM(16) on 8 x 8, Dense(10): counts by hand; the sequence is not stored."""
    estimate = memory_estimate(find_network("logits"))
    assert estimate["macs"] == 8 * 4 * 16 * (8 + 16) + 16 * 10
    assert estimate["buffers"] == {"op0_hidden": 16, "op0_cell": 2 * 16, "wide": 2 * (8 + 16)}
    biases = 2 * 4 * 4 * 16
    assert estimate["layers"][0]["arrays"] == {"weights": 4 * 16 * (8 + 16) + biases}
    wide = memory_estimate(find_network("logits"), "int16")
    assert wide["layers"][0]["arrays"] == {"weights": 2 * 4 * 16 * (8 + 16) + biases}
    assert wide["buffers"] == estimate["buffers"]


def test_header_compiles_as_cpp_and_links_from_cpp(tmp_path: Path, find_network: Find) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    paths = generate(find_network("odd"), tmp_path)
    main = tmp_path / "main.cpp"
    main.write_text(
        '#include "codesign_model.h"\n#include "cs_kernels.h"\n#include "cs_quantize.h"\n'
        '#include "cs_dense.h"\n#include "cs_lstm.h"\n#include "cs_softmax.h"\n'
        "static int8_t in[CS_MODEL_INPUT_SIZE], out[CS_MODEL_OUTPUT_SIZE];\n"
        'static_assert(CS_MODEL_INPUT_SIZE == CS_MODEL_STEPS * CS_MODEL_FEATURES, "sizes");\n'
        "int main() { cs_model_init(); cs_model_invoke(in, out); return cs_model_hash() == nullptr; }\n"
    )
    objects = []
    for path in paths:
        if path.suffix == ".c":
            objects.append(path.with_suffix(".o"))
            run("gcc", "-c", path, "-o", objects[-1])
    run(
        "g++",
        "-std=c++11",
        *(flag for flag in WARNINGS if flag != "-std=c99"),
        "-I",
        tmp_path,
        main,
        *objects,
        "-o",
        tmp_path / "m",
    )
    run(tmp_path / "m")


def test_every_optimisation_level_and_fast_math_agree(tmp_path: Path, find_network: Find) -> None:
    net = find_network("odd")
    q = inputs(net, 300)
    reals = np.array([np.nan, np.inf, -np.inf, 0.5], np.float32)
    reals = np.resize(reals, net.input.shape).astype(np.float32)
    expected = simulate(net, q)
    z = net.input.zero_point
    for flags in (["-O0"], ["-O3"], ["-Os", "-funsigned-char"], ["-O2", "-fno-signed-zeros", "-ffinite-math-only"]):
        build = compile_host(net, tmp_path / "_".join(flags), flags)
        np.testing.assert_array_equal(build.infer(q), expected)
        got = np.frombuffer(build.run("quantize", reals.tobytes()), np.int8)
        assert got[:3].tolist() == [z, 127, -128], flags


def test_existing_folder_keeps_other_files(tmp_path: Path, find_network: Find) -> None:
    folder = tmp_path / "a" / "b"
    first = generate(find_network("odd"), folder)
    (folder / "main.c").write_text("int main(void) { return 0; }\n")
    (folder / "codesign_model.c").write_text("stale")
    second = generate(find_network("tiny"), folder)
    assert first == second
    assert all(path.is_file() for path in second)
    assert (folder / "main.c").read_text() == "int main(void) { return 0; }\n"
    assert "stale" not in (folder / "codesign_model.c").read_text()
    assert sorted(p.name for p in folder.iterdir()) == sorted([*(p.name for p in second), "main.c"])


def test_generation_is_deterministic(tmp_path: Path, find_network: Find) -> None:
    first = generate(find_network("stacked"), tmp_path / "1")
    second = generate(find_network("stacked"), tmp_path / "2")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_refused_network_writes_nothing(tmp_path: Path) -> None:
    net = handmade()["wide"]
    wider = tensor((512,), 0.05, 0)
    rng = np.random.default_rng(0)
    bad = network([*net.ops[:2], dense(rng, net.ops[1].output, 512, per_channel=False), activation(wider, "softmax")])
    with pytest.raises(InputError, match="512 classes"):
        generate(bad, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_folder_that_is_a_file(tmp_path: Path, find_network: Find) -> None:
    (tmp_path / "file").write_text("keep")
    with pytest.raises(InputError, match="cannot write"):
        generate(find_network("tiny"), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "keep"


def changed_lstm(**changes: object) -> IntegerNetwork:
    op = lstm(np.random.default_rng(0), tensor((4, 3), 0.02, -5), 5)
    return network([dataclasses.replace(op, **changes)])  # type: ignore[arg-type]


def test_overflowing_accumulators_are_refused() -> None:
    limit = np.zeros((4, 5), np.int32)
    limit[2, 3] = 2**31 - 1
    with pytest.raises(InputError, match="accumulator may overflow"):
        memory_estimate(changed_lstm(b=limit))
    with pytest.raises(InputError, match="may overflow 32 bits"):
        memory_estimate(changed_lstm(input_multipliers=(Multiplier(2**30, 20),) * 4))
    with pytest.raises(InputError, match="may overflow 32 bits"):
        memory_estimate(changed_lstm(hidden_multiplier=Multiplier(2**30, 2)))
    with pytest.raises(InputError, match="out of range"):
        memory_estimate(changed_lstm(forget_multiplier=Multiplier(2**30, -40)))
    with pytest.raises(InputError, match="cell scale"):
        memory_estimate(changed_lstm(cell_shift=3))


def test_accumulator_at_the_limit_is_accepted_and_exact(tmp_path: Path) -> None:
    """A bias just inside the check runs without a sanitizer report, for scales that saturate and one that does not."""
    net = changed_lstm()
    op = net.ops[0]
    assert isinstance(op, IntLstm)
    zero = op.W.astype(np.int64)
    room = 128 * np.abs(zero).sum(-1) + np.abs(op.input.zero_point * zero.sum(-1))
    bias = (2**30 - 1024 - room) * np.where(np.arange(5) % 2, -1, 1)
    scales = (Multiplier(2**31 - 1, 0), Multiplier(2**30, -18), Multiplier(1518500249, -17), Multiplier(2**30, 0))
    net = changed_lstm(b=bias.astype(np.int32), input_multipliers=scales)
    build = compile_host(net, tmp_path)
    q = inputs(net, 200)
    np.testing.assert_array_equal(build.infer(q), simulate(net, q))


def test_wrong_shapes_and_types_are_refused() -> None:
    rng = np.random.default_rng(0)
    op = lstm(rng, tensor((4, 3), 0.02, -5), 5)
    with pytest.raises(InputError, match="not a chain"):
        memory_estimate(network([op, dense(rng, tensor((4, 6), 0.1, 0), 2, per_channel=False)]))
    wide = dataclasses.replace(op.input, dtype="int16")
    with pytest.raises(InputError, match="has to be 0"):
        memory_estimate(network([dataclasses.replace(op, input=wide)]))
    with pytest.raises(InputError, match="int8 throughout"):
        memory_estimate(network([op, dataclasses.replace(last_step(op.output), output=wide)]))
    with pytest.raises(InputError, match="do not fit its weights"):
        memory_estimate(network([dataclasses.replace(op, R=op.R[:, :4])]))
    with pytest.raises(InputError, match="no operators"):
        memory_estimate(dataclasses.replace(network([op]), ops=()))
    d = dense(rng, op.output, 3, per_channel=True)
    with pytest.raises(InputError, match="do not fit its weights"):
        memory_estimate(network([op, dataclasses.replace(d, b=d.b[:2])]))
    with pytest.raises(InputError, match="multipliers for"):
        memory_estimate(network([op, dataclasses.replace(d, multipliers=d.multipliers[:2])]))
