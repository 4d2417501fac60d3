"""Time the proof of every obligation: of one region of a random LSTM (32 units, 28 steps), by each prover; with two
models, of a certification with all and with none of them proved, in turn in one run.

python tools/bench_proofs.py [--units 32] [--steps 28] [--features 28] [--workers 2] [--radius 0.004]
python tools/bench_proofs.py FLOAT INT8 [--samples 160] [--workers 2] [--domain 0 1] [--one-by-one 2000]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import Counter
from pathlib import Path

import numpy as np

from codesign import api
from codesign.network.model import FloatNetwork, Lstm
from codesign.proof import prove, prove_planes
from codesign.quantization.align import align
from codesign.quantization.integer import IntegerNetwork, IntLastStep, IntLstm, QuantizedTensor
from codesign.quantization.multipliers import gate_multiplier, product_multiplier
from codesign.verification.audit import drawn, obligations, planes
from codesign.verification.propagate import propagate
from codesign.verification.regions import Region, ball, input_domain
from codesign.verification.relaxation import Recorder
from codesign.verification.results import Options


def model(units: int, steps: int, features: int) -> tuple[FloatNetwork, IntegerNetwork]:
    """A random LSTM of moderate weights, and its int8 counterpart."""
    rng = np.random.default_rng(0)
    W = (rng.normal(size=(4, units, features)) * 0.8 / np.sqrt(features)).astype(np.float32)
    R = (rng.normal(size=(4, units, units)) * 0.4 / np.sqrt(units)).astype(np.float32)
    b = (rng.normal(size=(4, units)) * 0.1).astype(np.float32)
    unit = float(np.float32(1 / 127))
    x = QuantizedTensor("x", (steps, features), "int8", unit, 0)
    h = QuantizedTensor("h", (steps, units), "int8", unit, 0)
    last = QuantizedTensor("y", (units,), "int8", unit, 0)
    w, r = ([float(np.float32(np.abs(m[g]).max() / 127)) for g in range(4)] for m in (W, R))
    quantized = [
        np.stack([np.round(m[g] / s[g]) for g in range(4)]) for m, s in ((W, w), (R, r), (b, [unit * s for s in w]))
    ]
    op = IntLstm(
        "lstm", x, h, quantized[0].astype(np.int8), quantized[1].astype(np.int8), quantized[2].astype(np.int32),
        tuple(w), tuple(r), -12, 0,
        tuple(gate_multiplier(unit, s, "tflm-double") for s in w),
        tuple(gate_multiplier(unit, s, "tflm-double") for s in r),
        product_multiplier(2.0**-15), product_multiplier(2.0**-12), product_multiplier(unit),
    )  # type: ignore[arg-type]  # fmt: skip
    layer = Lstm("lstm", W, R, b, False)
    network = FloatNetwork("bench", (steps, features), (layer,), "0" * 64, "random")
    return network, IntegerNetwork("bench", x, last, (op, IntLastStep("last", h, last)), "0" * 64, "tflm-double", b"")


def _processor_seconds() -> float:
    return sum(
        u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def certification(options: argparse.Namespace) -> None:
    """A whole certification, with none and with all of its obligations proved; wall and processor time."""
    network, integer = api.load(options.models[0]), api.read(options.models[1])
    data = api.calibration(options.models[0])
    whole = {"region": "domain", "domain": tuple(options.domain)} if options.domain else {"samples": options.samples}
    for mode in ("none", "all", "none", "all"):
        start, used = time.perf_counter(), _processor_seconds()
        settings = Options(jobs=options.workers, proof=mode, second_sample=0)
        document = api.certify(network, integer, data, options=settings, **whole)
        wall, used = time.perf_counter() - start, _processor_seconds() - used
        proof = document["proof"]
        print(
            f"--prove {mode}: {wall:.1f} s, {used:.1f} s of processor time; {proof['proved']} of "
            f"{proof['obligations']} obligations proved {proof['provers']}, which took {proof['seconds']:.1f} s summed "
            "over the processes"
        )
    if options.domain:
        return
    domain, recorder = input_domain(data.x), Recorder()
    radius = integer.input.scale
    propagate(align(network, integer), integer, [ball(str(k), data.x[k], radius, domain) for k in range(4)], recorder)
    groups = planes(recorder.batches)
    for name, some, prover in (
        ("in batches", groups, "auto"),
        ("closed form, one by one", drawn(groups, options.one_by_one, np.random.default_rng(0)), "closed-form"),
    ):
        used = time.process_time()
        found = prove_planes(some, prover)
        used, total = time.process_time() - used, sum(map(len, some))
        print(f"{name}: {found.proved} of {total} in {used:.2f} s of processor time, {1e6 * used / total:.1f} us each")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("models", nargs="*", type=Path, help="a float and an integer model")
    parser.add_argument("--samples", type=int, default=160)
    parser.add_argument("--domain", type=float, nargs=2)
    parser.add_argument("--one-by-one", type=int, default=2000)
    for name, default in (("units", 32), ("steps", 28), ("features", 28), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--radius", type=float, default=0.004)
    options = parser.parse_args()
    if options.models:
        certification(options)
        return
    network, integer = model(options.units, options.steps, options.features)
    center = np.random.default_rng(1).uniform(-0.9, 0.9, integer.input.shape)
    region = Region("0", center, center - options.radius, center + options.radius, options.radius)
    recorder = Recorder()
    start = time.perf_counter()
    propagate(align(network, integer), integer, [region], recorder)
    print(f"propagated in {time.perf_counter() - start:.2f} s")
    products = obligations([batch for batch in recorder.batches if batch.kind == "square_difference"])
    others = [batch for batch in recorder.batches if batch.kind != "square_difference"]
    relaxations = obligations([batch for batch in others if batch.chosen])
    ranges = obligations([batch for batch in others if not batch.chosen])
    for name, chosen in (("relaxations", relaxations), ("ranges", ranges), ("products", products)):
        for prover in ("icp", "closed-form", "interval"):
            start = time.perf_counter()
            results = prove(chosen, prover, workers=options.workers)
            spent = time.perf_counter() - start
            median, worst = (1e3 * float(np.quantile([r.seconds for r in results], q)) for q in (0.5, 1.0))
            outcome = ", ".join(f"{n} {status}" for status, n in Counter(r.status for r in results).items())
            print(
                f"{name}, {prover}, {options.workers} processes: {outcome}; {spent:.2f} s, "
                f"median {median:.3f} ms, largest {worst:.1f} ms"
            )


if __name__ == "__main__":
    main()
