"""Counts, sizes and stack on the emulated cores; every kernel path of every core against the exact simulation."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from codesign.bench import CORES, bench, find_core, load_model, size_report
from codesign.bench.machine import Machine
from codesign.bench.program import Program, build_program
from codesign.bench.stack import stack_bound
from codesign.cli.main import main
from codesign.codegen import memory_estimate
from codesign.errors import CodesignError, InputError
from codesign.semantics import simulate
from codesign.toolchain import load_board

MODEL = Path(__file__).with_name("benchmark.tflite")
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
pytestmark = pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None,
    reason="arm-none-eabi-gcc is not installed (apt install gcc-arm-none-eabi)",
)
needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed (apt install qemu-system-arm)"
)


def program(name: str, core: str, folder: Path, **options: str) -> Program:
    network = load_model(FIXTURES / f"{name}.tflite")
    return build_program(network, CORES[core], folder, np.zeros(network.input.shape, np.int8), **options)  # type: ignore[arg-type]


def test_the_goals_are_kept() -> None:
    """28 x 28, 20 units, Dense(10), softmax on an M4 at -O2. A change that costs much has to be seen."""
    packed = bench(load_model(MODEL), "m4", second_emulator=False)
    assert packed["macs"] == 28 * 4 * 20 * (28 + 20) + 28 * 20 * 10
    assert packed["bit_exact"]
    assert packed["step"]["bit_exact"]
    assert packed["instructions"] <= 215_000
    assert packed["code_bytes"] <= 8192
    assert packed["ram_bytes"] + packed["stack_bytes"] <= 2560
    fast = bench(load_model(MODEL), "m4", "int16", second_emulator=False)
    assert fast["bit_exact"]
    assert fast["instructions"] <= 180_000


@needs_qemu
@pytest.mark.parametrize("core", CORES)
def test_both_emulators_agree_on_every_core(core: str) -> None:
    result = bench(load_model(MODEL), core, inputs=3)
    assert result["bit_exact"]
    assert result["qemu"]["agrees"]
    assert abs(result["qemu"]["instructions"] - result["instructions"]) < 0.001 * result["instructions"]
    assert result["stack_measured_bytes"] <= result["stack_bytes"] <= result["stack_measured_bytes"] + 64
    assert sum(result["functions"].values()) == result["instructions"]


@pytest.mark.parametrize("level", ["O2", "Os"])
@pytest.mark.parametrize("weights", ["int8", "int16"])
@pytest.mark.parametrize("core", ["m0", "m3", "m4", "m33"])
def test_every_path_of_every_core_is_exact(core: str, weights: str, level: str) -> None:
    for name in ("stacked", "acts"):
        result = bench(load_model(FIXTURES / f"{name}.tflite"), core, weights, level, 12, 3, second_emulator=False)  # type: ignore[arg-type]
        assert result["bit_exact"], name
        assert result["step"]["bit_exact"], name


def test_counts_repeat() -> None:
    first, second = (bench(load_model(FIXTURES / "tiny.tflite"), "m7", second_emulator=False) for _ in range(2))
    assert first == second


def test_block_counting_equals_counting_each_instruction(tmp_path: Path) -> None:
    import unicorn

    built = program("stacked", "m0", tmp_path)
    machine = Machine(built)
    machine.call("cs_model_init")
    blocks = machine.call("cs_model_invoke", "bench_in", "bench_out").instructions
    machine = Machine(built)
    single = [0]

    def on_code(*_: object) -> None:
        single[0] += 1

    machine.uc.hook_add(unicorn.UC_HOOK_CODE, on_code)
    machine.call("cs_model_init")
    single[0] = 0
    machine.call("cs_model_invoke", "bench_in", "bench_out")
    assert single[0] == blocks


@pytest.mark.parametrize("rounds", [1, 2, 1000])
def test_known_loop(rounds: int, tmp_path: Path) -> None:
    machine = Machine(program("tiny", "m4", tmp_path))
    assert machine.call("bench_known_loop", rounds).instructions == 2 * rounds + 1


def test_a_wrong_output_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_model(FIXTURES / "tiny.tflite")
    monkeypatch.setattr("codesign.semantics.simulate", lambda net, q: simulate(net, q) ^ np.int8(1))
    result = bench(network, "m4", second_emulator=False)
    assert not result["bit_exact"]
    assert not result["step"]["bit_exact"]


def test_states_survive_on_the_core(tmp_path: Path) -> None:
    network = load_model(FIXTURES / "sequence.tflite")
    machine = Machine(program("sequence", "m33", tmp_path))
    q = np.random.default_rng(0).integers(-128, 128, network.input.shape).astype(np.int8)
    rows = []
    machine.call("cs_model_init")
    for t in range(len(q)):
        machine.call("cs_model_get_state", "bench_state")
        machine.write("bench_in", q.tobytes())
        machine.call("cs_model_invoke", "bench_in", "bench_out")
        machine.call("cs_model_set_state", "bench_state")
        machine.write("bench_in", q[t].tobytes())
        machine.call("cs_model_step", "bench_in", "bench_out")
        rows.append(machine.read("bench_out", network.output.shape[1]))
    assert b"".join(rows) == simulate(network, q[None])[0].tobytes()


def test_stack_bound_sees_the_deepest_path(tmp_path: Path) -> None:
    built = program("stacked", "m0", tmp_path)
    whole = stack_bound(built, "cs_model_invoke")
    assert whole > stack_bound(built, "cs_model_get_state") > 0
    graph = built.call_graphs[0]
    text = graph.read_text()
    graph.write_text(text + 'edge: { sourcename: "cs_model_step" targetname: "cs_model_step" label: "x" }\n')
    with pytest.raises(CodesignError, match="calls itself"):
        stack_bound(built, "cs_model_step")
    graph.write_text(text.replace("(static)", "(dynamic)"))
    with pytest.raises(CodesignError, match="no bound"):
        stack_bound(built, "cs_model_invoke")


def test_a_fault_on_the_core_is_told(tmp_path: Path) -> None:
    machine = Machine(program("tiny", "m4", tmp_path))
    with pytest.raises(CodesignError, match="cs_model_invoke stops"):
        machine.call("cs_model_invoke", 0x7000_0000, "bench_out")


def test_a_model_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    network = load_model(MODEL)
    small = dataclasses.replace(CORES["m0"], ram=(0x2000_0000, 0x1400))
    with pytest.raises(InputError, match="does not fit"):
        build_program(network, small, tmp_path, np.zeros(network.input.shape, np.int8))


def test_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tflite").write_bytes(b"no model")
    code, out, err = invoke("bench", tmp_path / "x.tflite", "--core", "m4")
    assert code == 2
    assert not out
    assert err.startswith("codesign: ")


def test_core_names() -> None:
    assert find_core("cortex-m0plus") is CORES["m0"]
    assert find_core("cortex-m7") is CORES["m7"]
    with pytest.raises(InputError, match="m0, m3, m4, m7, m33"):
        find_core("m55")


def test_size_adds_up() -> None:
    network = load_model(MODEL)
    report = size_report(network, load_board("nucleo_f746"))
    measured = bench(network, "m7", second_emulator=False)
    assert report["flash"]["used"] == sum(report["flash"]["sections"].values()) == measured["flash_bytes"]
    assert report["ram"]["sections"]["stack"] == measured["stack_bytes"]
    assert report["ram"]["sections"]["io"] == 28 * 28 + 28 * 10
    estimate = memory_estimate(network)
    assert [layer["weights"] for layer in report["layers"]] == [layer["flash_bytes"] for layer in estimate["layers"]]
    assert report["layers"][0]["code"] > 500
    assert report["fits"]


def test_size_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codesign.bench.sizes.shutil.which", lambda name: None)
    report = size_report(load_model(MODEL), load_board("nucleo_f746"))
    assert not report["compiled"]
    assert report["flash"]["sections"]["code"] is None
    assert report["flash"]["used"] == memory_estimate(load_model(MODEL))["flash_bytes"]


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@needs_qemu
def test_command_bench() -> None:
    code, out, _ = invoke("bench", FIXTURES / "tiny.tflite", "--core", "m4", "--json")
    result = json.loads(out)
    assert code == 0
    assert {"instructions", "macs", "flash_bytes", "ram_bytes", "stack_bytes", "bit_exact"} <= set(result)
    code, out, _ = invoke("bench", FIXTURES / "tiny.tflite", "--core", "m0", "--weights", "int16", "--level", "Os")
    assert code == 0
    assert "EMULATED" in out
    assert "bit-exact" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name a core"),
        (["--core", "m4", "--board", "nucleo_f746"], "name a core"),
        (["--core", "m4", "--port", "/dev/null"], "--port belongs to a board"),
        (["--board", "nucleo_f746", "--level", "Os"], "leave out --level"),
        (["--core", "m4", "--runtime", "tflm"], "needs TFLM's sources"),
        (["--core", "m4", "--tflm-tree", "."], "belong to TFLM"),
    ],
)
def test_command_bench_refuses(arguments: list[str], words: str) -> None:
    code, _, err = invoke("bench", FIXTURES / "tiny.tflite", *arguments)
    assert code == 2
    assert words in err


def test_command_size() -> None:
    code, out, _ = invoke("size", FIXTURES / "stacked.tflite", "--board", "nucleo_f446", "--json")
    assert code == 0
    assert json.loads(out)["board"] == "nucleo_f446"
    code, out, _ = invoke("size", FIXTURES / "stacked.tflite")
    assert code == 0
    assert "It fits." in out
    code, _, err = invoke("size", FIXTURES / "stacked.tflite", "--board", "nowhere")
    assert code == 2
    assert "nowhere" in err


def test_command_bench_of_a_board() -> None:
    pytest.importorskip("platformio")
    code, out, err = invoke("bench", FIXTURES / "tiny.tflite", "--board", "nucleo_f746", "--inputs", 3, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["emulated"]
    assert result["bit_exact"]
    # The same count as without the board's application, but for the calls around it.
    alone = bench(load_model(FIXTURES / "tiny.tflite"), "m7", inputs=3, second_emulator=False)
    assert 0 < result["instructions"] - alone["instructions"] < 100


def test_command_bench_of_a_board_with_wide_weights() -> None:
    pytest.importorskip("platformio")
    arguments = ("bench", FIXTURES / "tiny.tflite", "--board", "nucleo_f746", "--inputs", 3, "--json", "--weights")
    (code, wide, _), (_, packed, _) = invoke(*arguments, "int16"), invoke(*arguments, "int8")
    assert code == 0
    wide, packed = json.loads(wide), json.loads(packed)
    assert wide["bit_exact"]
    assert (wide["weights"], wide["runtime"], wide["profile"]) == ("int16", "codesign", "tflm-double")
    assert wide["flash_bytes"] > packed["flash_bytes"]
    assert wide["instructions"] < packed["instructions"]


def test_command_bench_of_a_board_behind_a_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The road of real hardware: flashed by openocd (a stand-in), then asked through the port that is named."""
    pytest.importorskip("platformio")
    pytest.importorskip("unicorn")
    from codesign.hil.emulators import EmulatedBoard
    from codesign.hil.target import emulator_spec
    from codesign.toolchain import build

    board = load_board("nucleo_f746")
    firmware = build(load_model(FIXTURES / "tiny.tflite"), board, tmp_path / "firmware")
    openocd = tmp_path / "bin" / "openocd"
    openocd.parent.mkdir()
    openocd.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/flashed\n')
    openocd.chmod(0o755)
    monkeypatch.setenv("PATH", f"{openocd.parent}{os.pathsep}{os.environ['PATH']}")
    with EmulatedBoard(emulator_spec(board, firmware.elf)) as attached:
        code, out, err = invoke(
            "bench",
            FIXTURES / "tiny.tflite",
            "--board",
            "nucleo_f746",
            "--port",
            attached.port,
            "--inputs",
            3,
            "--json",
        )
    assert code == 0, err
    result = json.loads(out)
    assert not result["emulated"]
    assert result["unit"] == "cycles"
    assert result["bit_exact"]
    alone = bench(load_model(FIXTURES / "tiny.tflite"), "m7", inputs=3, second_emulator=False)
    assert 0 < result["cycles"] - alone["instructions"] < 100  # the stand-in's DWT counts instructions
    assert "st_nucleo_f7.cfg" in (tmp_path / "flashed").read_text()


def test_board_behind_a_port_with_another_firmware_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("platformio")
    pytest.importorskip("unicorn")
    from codesign.hil.emulators import EmulatedBoard
    from codesign.hil.target import emulator_spec
    from codesign.toolchain import build

    board = load_board("nucleo_f746")
    firmware = build(load_model(FIXTURES / "logits.tflite"), board, tmp_path / "firmware")
    openocd = tmp_path / "openocd"
    openocd.write_text("#!/bin/sh\nexit 0\n")
    openocd.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with EmulatedBoard(emulator_spec(board, firmware.elf)) as attached:
        code, _, err = invoke("bench", FIXTURES / "tiny.tflite", "--board", "nucleo_f746", "--port", attached.port)
    assert code == 1
    assert "flashing it had no effect" in err
