"""Firmware around an interpreter, on an emulated board: with a stand-in for TFLM, and with TFLM itself."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tflm_support import ARENA, FIXTURES, real_tree, stub_tree

from codesign import api
from codesign.cli.main import main
from codesign.errors import InputError, MissingToolError
from codesign.hil import cross_check, open_target
from codesign.hil.protocol import DeviceError, UnsupportedError
from codesign.quantization import IntegerNetwork, read_integer_network, with_profile
from codesign.semantics import quantize_input, simulate, simulate_trace
from codesign.tflm import find_tree, measure_arena, runtime_files, runtime_option
from codesign.toolchain import Build, Project, build, build_project, generate_project, load_board, read_firmware
from codesign.toolchain.project import Sources

BOARD = "nucleo_f746"


def need_toolchain() -> None:
    for name in ("arm-none-eabi-gcc", "arm-none-eabi-g++"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    for module in ("platformio", "SCons", "unicorn"):
        pytest.importorskip(module)


def tiny() -> IntegerNetwork:
    return with_profile(read_integer_network(FIXTURES / "tiny.tflite"), "tflm-float")


def sizes(network: IntegerNetwork) -> dict[str, int]:
    return {"inputs": int(np.prod(network.input.shape)), "outputs": int(np.prod(network.output.shape))}


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Build:
    need_toolchain()
    folder = tmp_path_factory.mktemp("stub")
    runtime = runtime_option("tflm", stub_tree(folder / "tree", **sizes(tiny())))  # type: ignore[arg-type]
    return build(tiny(), load_board(BOARD), folder / "firmware", runtime=runtime)


def test_arena_is_the_least_that_works(stub: Build) -> None:
    assert stub.arena_bytes == ARENA
    assert (stub.runtime, stub.profile) == ("tflm", "tflm-float")
    assert measure_arena(stub) == ARENA


def test_the_image_names_its_runtime(stub: Build) -> None:
    firmware = read_firmware(stub.elf, stub.board, stub.folder)
    assert (firmware.runtime, firmware.profile, firmware.model_sha256) == ("tflm", "tflm-float", tiny().sha256)


def test_the_interpreter_is_reset_before_every_inference(stub: Build) -> None:
    network = tiny()
    q = np.zeros(network.input.shape, np.int8)
    q[0, 0] = 5
    expected = [5 + k for k in range(int(np.prod(network.output.shape)))]
    with open_target(stub, emulate=True) as target:
        assert target.device.infer(q).output.tolist() == expected
        assert target.device.infer(q).output.tolist() == expected
        trace = target.device.trace(q)
        assert [(s.layer, s.step, s.hidden.tolist()) for s in trace.steps] == [
            (0, 0, [0, 1, 2, 3]),
            (0, 1, [4, 5, 6, 7]),
        ]
        assert trace.output.tolist() == expected
        assert target.device.metrics().invocations == 3
        x = np.full(network.input.shape, 0.25, np.float32)
        assert (target.device.quantize(x) == quantize_input(network, x[np.newaxis])[0]).all()


def test_a_wrong_interpreter_fails_the_cross_check(stub: Build) -> None:
    network, real = tiny(), api.load(FIXTURES / "tiny.h5")
    data = api.calibration(FIXTURES / "tiny.h5")
    with open_target(stub, emulate=True) as target:
        result = cross_check(target, network, real, data.x[:3], build_id=stub.build_id)
    assert result["verdict"] == "FAIL"
    assert result["summary"]["bit_exact"] == 0


@pytest.fixture(scope="module")
def untraced(tmp_path_factory: pytest.TempPathFactory) -> Build:
    need_toolchain()
    folder = tmp_path_factory.mktemp("untraced")
    tree = stub_tree(folder / "tree", traces=False, suffix=".cpp", downloads=True, **sizes(tiny()))  # type: ignore[arg-type]
    return build(tiny(), load_board(BOARD), folder / "firmware", runtime=runtime_option("tflm", tree))


def test_a_runtime_without_trace_says_so_and_is_checked_without(untraced: Build) -> None:
    network, real = tiny(), api.load(FIXTURES / "tiny.h5")
    data = api.calibration(FIXTURES / "tiny.h5")
    with open_target(untraced, emulate=True) as target:
        with pytest.raises(UnsupportedError, match="the firmware's runtime gives no trace"):
            target.device.trace(np.zeros(network.input.shape, np.int8))
        result = cross_check(target, network, real, data.x[:2], build_id=untraced.build_id)
    assert result["traces"] == []
    assert result["untraced"] == "the firmware's runtime gives no trace"
    assert result["divergence"]["text"].startswith("where it begins cannot be told")


def test_a_model_that_cannot_be_allocated_is_refused_on_the_device(untraced: Build, tmp_path: Path) -> None:
    """An arena below what the interpreter needs, which `build` itself does not let through."""
    project = shutil.copytree(untraced.folder, tmp_path / "project")
    config = project / "src" / "model" / "cs_tflm_config.h"
    config.write_text(config.read_text().replace(f"{ARENA}u", f"{ARENA - 16}u"))
    small = build_project(Project(project, untraced.board, untraced.build_id), untraced.model_sha256)
    with pytest.raises(InputError, match="its tensors cannot be allocated"):
        measure_arena(replace(small, arena_bytes=ARENA - 16))
    with open_target(small, emulate=True) as target:
        assert target.identity.model_hash.hex() == untraced.model_sha256
        with pytest.raises(DeviceError, match="cannot run the model: its tensors cannot be allocated"):
            target.device.infer(np.zeros(tiny().input.shape, np.int8))


def test_arena_too_small_is_said_by_the_build(tmp_path: Path) -> None:
    need_toolchain()
    runtime = runtime_option("tflm", stub_tree(tmp_path / "tree", **sizes(tiny())), arena=1024)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"does not start the model .* with an arena of 1024 bytes: its tensors"):
        build(tiny(), load_board(BOARD), tmp_path / "firmware", runtime=runtime)


def test_network_of_another_profile_or_with_packed_weights_is_refused(tmp_path: Path) -> None:
    need_toolchain()
    runtime = runtime_option("tflm", stub_tree(tmp_path / "tree"))
    board = load_board(BOARD)
    with pytest.raises(
        InputError, match="read for the semantics profile 'tflm-double', and this TFLM has 'tflm-float'"
    ):
        build(with_profile(tiny(), "tflm-double"), board, tmp_path / "firmware", runtime=runtime)
    with pytest.raises(InputError, match="leave out --weights"):
        build(tiny(), board, tmp_path / "firmware", "int16", runtime)
    with pytest.raises(InputError, match="the generated C computes as TFLM's reference kernels"):
        build(with_profile(tiny(), "cmsis-nn-float"), board, tmp_path / "firmware")


def test_without_a_cxx_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codesign.toolchain import pio

    found = shutil.which
    monkeypatch.setattr(pio.shutil, "which", lambda name: None if name == "arm-none-eabi-g++" else found(name))
    with pytest.raises(MissingToolError, match=r"arm-none-eabi-g\+\+ is not installed: .*libstdc\+\+"):
        pio.require_cxx_compiler()


def test_projects_are_reproducible(tmp_path: Path) -> None:
    runtime = runtime_option("tflm", stub_tree(tmp_path / "tree"))
    assert runtime is not None
    made = runtime_files(tiny(), runtime, 4096)
    sources = Sources(made.files, made.includes, made.defines)
    ids = {generate_project(sources, load_board(BOARD), tmp_path / name).build_id for name in ("a", "b")}
    other = runtime_files(tiny(), runtime, 8192)
    ids.add(generate_project(replace(sources, files=other.files), load_board(BOARD), tmp_path / "c").build_id)
    assert len(ids) == 2
    assert "-isystem src/tflm " in (tmp_path / "a" / "platformio.ini").read_text()


CASES = [("tflm", name) for name in ("tiny", "stacked", "acts", "stacked.int16")]
CASES += [("tflm-cmsis", name) for name in ("tiny", "stacked", "acts", "sequence.int16")]


@pytest.mark.parametrize(("name", "model"), CASES)
def test_tflm_is_bit_exact_with_its_profile(name: str, model: str, tmp_path: Path) -> None:
    """Minutes without a cache of objects: TFLM's sources are compiled for the board."""
    tree = real_tree()
    need_toolchain()
    try:
        runtime = runtime_option(name, tree)
        network = read_integer_network(FIXTURES / f"{model}.tflite")
        network = api.for_runtime(network, runtime)
        made = build(network, load_board(BOARD), tmp_path / "firmware", runtime=runtime)
    except InputError as error:
        if "CMSIS-NN" in str(error):
            pytest.skip(str(error))
        raise
    rng = np.random.default_rng(3)
    q = rng.integers(network.input.q_min, network.input.q_max + 1, (20, *network.input.shape)).astype(
        network.activations
    )
    q[-2], q[-1] = network.input.q_min, network.input.q_max
    expected = simulate(network, q).reshape(len(q), -1)
    with open_target(made, emulate=True) as target:
        for sample, output in zip(q, expected, strict=True):
            assert target.device.infer(sample).output.tolist() == output.tolist()
        trace = target.device.trace(q[0])
    assert trace.output.tolist() == expected[0].tolist()
    if find_tree(tree).traces:
        hidden = simulate_trace(network, q[:1])
        layers = [hidden.outputs[k][0] for k, op in enumerate(network.ops) if type(op).__name__ == "IntLstm"]
        assert len(trace.steps) == sum(len(layer) for layer in layers)
        assert all(layers[s.layer][s.step].tolist() == s.hidden.tolist() for s in trace.steps)


def test_deploy_with_tflm_signs_off(tmp_path: Path) -> None:
    tree = real_tree()
    need_toolchain()
    pytest.importorskip("flint")
    kernels = "tflm-cmsis" if find_tree(tree).own_lstm(True) else "tflm"
    arguments = [
        "deploy", "--board", BOARD, "--emulate", "--runtime", kernels, "--tflm-tree", tree, "--samples", "4",
        "--int8", str(FIXTURES / "tiny.tflite"), "-o", str(tmp_path / "out"), "--json", str(FIXTURES / "tiny.h5"),
    ]  # fmt: skip
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["verdict"] == "PASS"
    assert result["runtime"]["name"] == kernels
    assert result["runtime"]["arena_bytes"] > 1024
    again = CliRunner().invoke(main, ["hil", str(tmp_path / "out"), "--model", str(FIXTURES / "tiny.h5"), "--emulate"])
    assert again.exit_code == 0, again.output
