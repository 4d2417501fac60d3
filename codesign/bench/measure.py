"""`bench`: instructions, sizes and stack of a model on a core, with every output compared to the exact simulation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.bench.cores import find_core
from codesign.bench.machine import Machine
from codesign.bench.program import build_program
from codesign.bench.qemu import checksum, count_by_ticks
from codesign.bench.stack import stack_bound
from codesign.codegen import Weights, make_plan, memory_estimate
from codesign.errors import CodesignError, InputError
from codesign.quantization.integer import ActivationArray, IntegerNetwork

if TYPE_CHECKING:
    from codesign.tflm import TflmRuntime

_REPEATS = 4
_ROUNDS = 12_345


def load_model(path: str | Path, calibration: str | Path | None = None) -> IntegerNetwork:
    """An int8 .tflite, or a float model (.h5, .keras, float .tflite), which is converted with its calibration data."""
    from codesign.quantization import convert, read_integer_network

    path = Path(path)
    if path.suffix == ".tflite":
        try:
            return read_integer_network(path)
        except InputError as error:
            if calibration is None and not path.with_name(f"{path.stem}.calib.npz").exists():
                raise error
    with tempfile.TemporaryDirectory(prefix="codesign-") as folder:
        return read_integer_network(convert(path, Path(folder) / f"{path.stem}.tflite", calibration))


def sample_inputs(network: IntegerNetwork, count: int, seed: int) -> ActivationArray:
    """[count, T, D] of the input's type: uniform random, but for the last two: all the smallest, all the largest."""
    rng = np.random.default_rng(seed)
    low, high = network.input.q_min, network.input.q_max
    q: ActivationArray = rng.integers(low, high + 1, (count, *network.input.shape)).astype(network.activations)
    if count >= 3:
        q[-2], q[-1] = low, high
    return q


def bench(
    network: IntegerNetwork,
    core: str,
    weights: Weights = "int8",
    level: str = "O2",
    inputs: int = 6,
    seed: int = 0,
    second_emulator: bool = True,
) -> dict[str, Any]:
    """Measure `network` on an emulated core.

    Instructions are counted on Unicorn and, with `second_emulator`, again by QEMU's SysTick; both counts are checked
    against a loop of known length. `instructions` is the largest count of all inputs. Keys: core, weights, level,
    instructions, instructions_min, macs, instructions_per_mac, flash_bytes (code_bytes, tables_bytes, weights_bytes),
    ram_bytes (without the I/O buffers), stack_bytes (the static bound), stack_measured_bytes, bit_exact, inputs, step
    (streaming: instructions, instructions_min, bit_exact; None where the model cannot), functions, known_loop, qemu.

    Raises InputError, MissingToolError, and CodesignError where the counts contradict each other.
    """
    from codesign.semantics import simulate

    if inputs < 1:
        raise InputError(f"cannot measure {inputs} inputs; give at least 1")
    target = find_core(core)
    q = sample_inputs(network, inputs, seed)
    expected = simulate(network, q)
    with tempfile.TemporaryDirectory(prefix="codesign-") as scratch:
        program = build_program(network, target, Path(scratch), q[0], weights, level, _REPEATS)
        machine = Machine(program)
        counted = machine.call("bench_known_loop", _ROUNDS).instructions
        if counted != 2 * _ROUNDS + 1:
            raise CodesignError(f"the counter is wrong: {counted} for a loop of {2 * _ROUNDS + 1} instructions")
        machine.call("cs_model_init")
        calls, exact = [], 0
        for sample, output in zip(q, expected, strict=True):
            machine.write("bench_in", sample.tobytes())
            calls.append(machine.call("cs_model_invoke", "bench_in", "bench_out"))
            exact += machine.read("bench_out", output.nbytes) == output.tobytes()
        counts = [call.instructions for call in calls]
        bound = stack_bound(program, "cs_model_invoke")
        measured = max(call.stack_bytes for call in calls)
        if measured > bound:
            raise CodesignError(f"the emulated core used {measured} bytes of stack, more than the bound of {bound}")
        step = _bench_steps(machine, network, q, expected)
        qemu = None
        if second_emulator:
            ticks = count_by_ticks(program, _REPEATS)
            qemu = {
                "machine": target.machine,
                "instructions": round(ticks.instructions),
                "resolution": round(ticks.resolution),
                "instructions_per_tick": round(ticks.instructions_per_tick, 3),
                "agrees": abs(ticks.instructions - counts[0]) <= ticks.resolution
                and ticks.checksum == checksum(expected[0].tobytes()),
            }
            if not qemu["agrees"]:
                raise CodesignError(
                    f"QEMU counts {qemu['instructions']} instructions (+-{qemu['resolution']}), Unicorn {counts[0]}, "
                    "or their outputs differ"
                )
    estimate = memory_estimate(network, weights)
    macs = int(estimate["macs"])
    flash = program.code_bytes + program.constant_bytes
    weight_bytes = sum(int(layer["flash_bytes"]) for layer in estimate["layers"])
    return {
        "model": network.name,
        "model_sha256": network.sha256,
        "core": target.name,
        "core_title": target.title,
        "weights": weights,
        "level": level,
        "instructions": max(counts),
        "instructions_min": min(counts),
        "macs": macs,
        "instructions_per_mac": round(max(counts) / macs, 3) if macs else None,
        "flash_bytes": flash,
        "code_bytes": flash - weight_bytes,
        "weights_bytes": weight_bytes,
        "ram_bytes": program.ram_bytes,
        "stack_bytes": bound,
        "stack_measured_bytes": measured,
        "bit_exact": exact == inputs,
        "inputs": inputs,
        "step": step,
        "functions": calls[counts.index(max(counts))].functions,
        "known_loop": {"expected": 2 * _ROUNDS + 1, "counted": counted},
        "qemu": qemu,
    }


def _bench_steps(
    machine: Machine, network: IntegerNetwork, q: ActivationArray, expected: ActivationArray
) -> dict[str, Any] | None:
    """One time step a call, over one sequence."""
    plan = make_plan(network)
    if plan.stream is None:
        return None
    steps = network.input.shape[0]
    machine.call("cs_model_init")
    counts, rows = [], []
    for t in range(steps):
        machine.write("bench_in", q[0, t].tobytes())
        counts.append(machine.call("cs_model_step", "bench_in", "bench_out").instructions)
        rows.append(machine.read("bench_out", plan.step_outputs * plan.value_bytes))
    got = b"".join(rows) if expected[0].size > plan.step_outputs else rows[-1]
    return {
        "instructions": max(counts),
        "instructions_min": min(counts),
        "state_bytes": plan.state_bytes,
        "bit_exact": got == expected[0].tobytes(),
    }


def bench_board(
    network: IntegerNetwork,
    board: str,
    port: str | None = None,
    inputs: int = 6,
    seed: int = 0,
    weights: Weights = "int8",
    runtime: TflmRuntime | None = None,
) -> dict[str, Any]:
    """Measure on a board: its firmware, through its serial port; emulated where no board is attached.

    `weights` and `runtime` as for `codesign.toolchain.build`; outputs are compared with the runtime's own semantics.
    Gives "cycles" of the core (DWT, real hardware) or "instructions" (emulated). Raises what the toolchain and
    `open_target` raise.
    """
    from codesign.hil import open_target
    from codesign.quantization import with_profile
    from codesign.semantics import simulate
    from codesign.toolchain import build, load_board

    if inputs < 1:
        raise InputError(f"cannot measure {inputs} inputs; give at least 1")
    target_board = load_board(board)
    if runtime is not None:
        network = with_profile(network, runtime.profile(network))
    q = sample_inputs(network, inputs, seed)
    expected = simulate(network, q)
    with tempfile.TemporaryDirectory(prefix="codesign-") as scratch:
        firmware = build(network, target_board, Path(scratch) / "firmware", weights, runtime)
        with open_target(firmware, target_board, port) as target:
            replies = [target.device.infer(sample) for sample in q]
            metrics = target.device.metrics()
            counts = [target.count(reply) for reply in replies]
            facts = {"emulated": target.emulated, "target": target.description, "unit": target.counter}
    known = [count for count in counts if count is not None]
    macs = int(memory_estimate(network)["macs"])
    return {
        "model": network.name,
        "model_sha256": network.sha256,
        "board": target_board.name,
        "runtime": firmware.runtime,
        "profile": firmware.profile,
        "weights": weights,
        **facts,
        str(facts["unit"]): max(known, default=None),
        "minimum": min(known, default=None),
        "macs": macs,
        "flash_bytes": firmware.flash_bytes,
        "ram_bytes": firmware.ram_bytes,
        "arena_bytes": firmware.arena_bytes,
        "stack_bytes": firmware.stack_size,
        "stack_measured_bytes": metrics.stack_high_water,
        "bit_exact": all(np.array_equal(r.output, e.reshape(-1)) for r, e in zip(replies, expected, strict=True)),
        "inputs": inputs,
    }
