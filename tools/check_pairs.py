"""Differential test of pairs: every mutant of a model file is refused, or its certificate holds on the interpreters.

Usage: python tools/check_pairs.py [--mutants 5000] [--seed 1] [--jobs 2] [--inputs 1000] [NAME ...]

NAMEs are fixtures (tests/fixtures); default all. Of each, the int8, the int16 and the float .tflite are mutated in turn
(tools/pair_mutants.py: every field of every table, operators inserted, removed, swapped), the other side as it is, or
mutated alike. A mutant that the readers and the pairing accept is certified over a ball around a sample, and
evaluated at its center, at corners and at random inputs of it: integer outputs by the tflite-micro interpreter, float
outputs by TensorFlow Lite's. What has to hold there:

- the simulation gives the interpreter's integers, and `evaluate` its floats (to 1e-4);
- the difference of the two interpreters' outputs lies within the bound (and 1e-5 for TensorFlow Lite's float32);
- a class that is proved is both interpreters'.

Interpreters trust the files, so mutants run in child processes; one that dies or hangs counts as violated. Where an
interpreter refuses a mutant that was read, the simulation or `evaluate` stands in, which is counted. Prints one JSON
object; exit code 4 where something is violated, which is then printed first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from pair_mutants import mutants

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"
SIDES = ("int8", "int16", "float", "both")
SECONDS = 300  # for one mutant, on a machine that may be busy
FLOAT_AGREEMENT, FLOAT_ROOM = 1e-4, 1e-5
RADII = (0.02, 0.1)

Case = tuple[str, bytes, bytes, str]  # what was changed, float file, integer file, fixture


def cases(name: str, side: str, count: int, seed: int) -> Iterator[Case]:
    """Mutants of one side of a fixture; 'both': the same change to the float and the int8 file."""
    real, integer, wide = (
        (FIXTURES / f"{name}{suffix}").read_bytes() for suffix in (".float.tflite", ".tflite", ".int16.tflite")
    )
    tag = int.from_bytes(hashlib.sha256(f"{name}/{side}".encode()).digest()[:4], "little")
    rng = np.random.default_rng([seed, tag])
    if side == "both":
        pairs = (dict(mutants(content, 4 * count, np.random.default_rng([seed, tag]))) for content in (real, integer))
        first, second = pairs
        for what in [text for text in first if text in second][:count]:
            yield f"{name} both: {what}", first[what], second[what], name
        return
    for what, content in mutants({"float": real, "int8": integer, "int16": wide}[side], count, rng):
        files = (content, integer) if side == "float" else (real, content)
        yield f"{name} {side}: {what}", *files, name


class Judge:
    """Reads, pairs, certifies and evaluates one pair; the result's first word is one of OUTCOMES."""

    def __init__(self, inputs: int) -> None:
        self.inputs = inputs

    def __call__(self, case: Case) -> tuple[str, str]:
        from codesign.errors import CodesignError
        from codesign.network.tflite_file import read_tflite
        from codesign.quantization import parse_integer_network
        from codesign.quantization.align import align
        from codesign.verification.propagate import propagate, top1_proved
        from codesign.verification.relaxation import Recorder
        from codesign.verification.trace import published

        what, float_file, int_file, name = case
        try:
            network = read_tflite(float_file, name, hashlib.sha256(float_file).hexdigest())
            integer = parse_integer_network(int_file, name)
            stages = align(network, integer)
            region = self._region(name, integer.input.shape, what)
            enclosure = propagate(stages, integer, [region], Recorder())
        except CodesignError as error:
            return "refused", str(error)
        found = self._observe(network, integer, region, float_file, int_file)
        if isinstance(found, str):
            return "violated", found
        y, z, stands_in = found
        bound, proved = published(enclosure.output_difference), top1_proved(enclosure)
        gap = (y - z).reshape(len(y), -1)
        room = FLOAT_ROOM * (1 + np.abs(z).max())
        if not ((gap >= bound.lo[0] - room) & (gap <= bound.hi[0] + room)).all():
            return "violated", f"the difference {np.abs(gap).max():.4g} exceeds the bound {bound.mag[0].max():.4g}"
        if proved[0][0] and y.shape[-1] > 1:
            classes = proved[1][0]
            rows = [v.reshape(len(v), -1, v.shape[-1]).argmax(-1) for v in (y, z)]
            if any((row != classes).any() for row in rows):
                return "violated", "a class that was proved is not an interpreter's"
        return ("held", "") if not stands_in else ("held", stands_in)

    def _region(self, name: str, shape: tuple[int, int], what: str) -> Any:
        from codesign.verification import ball

        rng = np.random.default_rng(len(what))
        with np.load(FIXTURES / f"{name}.calib.npz") as archive:
            x = archive["x"][rng.integers(0, 50)]
        x = x if x.shape == shape else rng.uniform(-0.5, 0.5, shape).astype(np.float32)
        ends = np.full(shape[1], -4.0), np.full(shape[1], 4.0)
        return ball(name, x, RADII[len(what) % 2], ends)

    def _observe(self, network: Any, integer: Any, region: Any, float_file: bytes, int_file: bytes) -> Any:
        """Integer and float outputs (N, ...), float64, and which evaluations stand in; or what is violated."""
        from codesign.errors import InputError
        from codesign.network import evaluate
        from codesign.semantics import TflmInterpreter, dequantize, quantize_input, simulate

        rng = np.random.default_rng(1)
        lo, hi = region.lo, region.hi
        ends = np.where(rng.integers(0, 2, (32, *lo.shape)) == 1, hi, lo)
        x = np.concatenate([[(lo + hi) / 2, lo, hi], ends, rng.uniform(lo, hi, (self.inputs, *lo.shape))])
        x = x.astype(np.float32)
        x = np.where(x > hi, np.nextafter(x, np.float32(-np.inf)), x)
        x = np.where(x < lo, np.nextafter(x, np.float32(np.inf)), x).astype(np.float32)
        q = quantize_input(integer, x)
        exact, stands_in = simulate(integer, q), ""
        try:
            device = TflmInterpreter(int_file).run(q).reshape(exact.shape)
            if not np.array_equal(device, exact):
                return f"the tflite-micro interpreter differs from the simulation in {np.sum(device != exact)} values"
        except InputError as error:
            stands_in = f"simulation, as {error}"[:100]
        real = evaluate(network, x)
        try:
            lite = _float_outputs(float_file, x).reshape(real.shape)
            if not np.abs(lite - real).max() <= FLOAT_AGREEMENT * (1 + np.abs(real).max()):
                return f"TensorFlow Lite's float outputs are {np.abs(lite - real).max():.3g} from the network's"
            real = lite.astype(np.float64)
        except (RuntimeError, ValueError) as error:
            stands_in += f" evaluate, as {error}"[:100]
        return dequantize(integer.output, exact), real, stands_in


def _float_outputs(content: bytes, x: Any) -> Any:
    from tflite_runtime.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    outputs = []
    for k in range(len(x)):
        interpreter.reset_all_variables()
        interpreter.set_tensor(source, x[k : k + 1])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(result).copy())
    return np.stack(outputs)


def _serve(connection: Any, inputs: int) -> None:
    import os

    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # interpreters' complaints
    judge = Judge(inputs)
    while True:
        case = connection.recv()
        if case is None:
            return
        try:
            connection.send(judge(case))
        except Exception:
            connection.send(("violated", "not an error for users: " + traceback.format_exc(limit=-3)[-600:]))


class Child:
    """A process that judges; started again where a mutant ends it."""

    def __init__(self, inputs: int) -> None:
        self._inputs, self._context = inputs, multiprocessing.get_context("spawn")
        self._process: Any = None

    def judge(self, case: Case) -> tuple[str, str]:
        if self._process is None:
            self._connection, far = self._context.Pipe()
            self._process = self._context.Process(target=_serve, args=(far, self._inputs), daemon=True)
            self._process.start()
            far.close()
        try:
            self._connection.send(case)
            if self._connection.poll(SECONDS):
                found: tuple[str, str] = self._connection.recv()
                return found
            why = f"no answer within {SECONDS} s"
        except (EOFError, BrokenPipeError, ConnectionResetError):
            why = "the interpreters crashed on a file that the readers accepted"
        self._process.kill()
        self._process = None
        return "violated", why

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()


def check(names: list[str], count: int, seed: int, jobs: int, inputs: int) -> dict[str, Any]:
    """Judge `count` mutants, spread over the fixtures' sides."""
    turns = [(name, side) for name in names for side in SIDES]
    share = -(-count // len(turns))
    outcomes: Counter[str] = Counter()
    by_side: dict[str, Counter[str]] = {side: Counter() for side in SIDES}
    reasons: Counter[str] = Counter()
    violated: list[str] = []
    notes: Counter[str] = Counter()
    started = time.monotonic()

    def run(part: list[tuple[str, str]]) -> None:
        child = Child(inputs)
        try:
            for name, side in part:
                for case in cases(name, side, share, seed):
                    outcome, why = child.judge(case)
                    outcomes[outcome] += 1
                    by_side[side][outcome] += 1
                    if sum(outcomes.values()) % 250 == 0:
                        print(f"{sum(outcomes.values())} judged", file=sys.stderr, flush=True)
                    if outcome == "violated":
                        violated.append(f"{case[0]}: {why}")
                        print(f"VIOLATED {case[0]}: {why}", file=sys.stderr, flush=True)
                    elif why:
                        (notes if outcome == "held" else reasons)[" ".join(why.split()[:6])] += 1
        finally:
            child.close()

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, [turns[k::jobs] for k in range(jobs)]))
    return {
        "mutants": sum(outcomes.values()), **{k: outcomes[k] for k in ("refused", "held", "violated")},
        "by_side": {side: dict(found) for side, found in by_side.items()}, "stands_in": sum(notes.values()),
        "kinds_of_refusals": len(reasons), "violations": violated, "inputs_each": inputs + 35,
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--mutants", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--inputs", type=int, default=1000, help="random inputs a region")
    options = parser.parse_args()
    names = options.names or sorted(path.name.removesuffix(".float.tflite") for path in FIXTURES.glob("*.float.tflite"))
    result = check(names, options.mutants, options.seed, options.jobs, options.inputs)
    print(json.dumps(result, indent=1))
    return 4 if result["violated"] else 0


if __name__ == "__main__":
    sys.exit(main())
