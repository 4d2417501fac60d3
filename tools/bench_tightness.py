"""Tightness of certified bounds: bound, abstract lower bound and worst observed error, medians over samples.

Run it in the repository's root on models that have NAME.h5, NAME.tflite, NAME.int16.tflite and NAME.calib.npz:

    python tools/train_bench_nets.py
    codesign convert out/bench/d8h16.h5 -o out/bench/d8h16.tflite
    codesign convert out/bench/d8h16.h5 --activations int16 -o out/bench/d8h16.int16.tflite
    python tools/bench_tightness.py --samples 20 out/bench/d8h16:int8:0.005,0.01 out/bench/d28h20:int16:0.005
    python tools/bench_tightness.py --method quadratic out/bench/d8h16:int16:0.01,0.02

An argument is MODEL:int8|int16:RADIUS[,RADIUS...]; the ratios are medians of the samples' ratios.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from threadpoolctl import threadpool_limits

from codesign.network import load_network
from codesign.quantization import load_calibration, read_integer_network
from codesign.quantization.align import align
from codesign.verification import ball, input_domain, search
from codesign.verification.abstract import abstract_lower
from codesign.verification.propagate import propagate, top1_proved
from codesign.verification.quadratic_network import require_quadratic, sharpened


def measure(base: str, activations: str, radius: float, samples: int, method: str, evaluations: int) -> None:
    network = load_network(f"{base}.h5")
    suffix = ".int16" if activations == "int16" else ""
    integer = read_integer_network(f"{base}{suffix}.tflite")
    data = load_calibration(f"{base}.calib.npz", network.input_shape)
    stages, domain = align(network, integer), input_domain(data.x)
    if method == "quadratic":
        require_quadratic(stages, integer, [ball("0", data.x[0], radius, domain)])
    rows, proved, seconds = [], [], 0.0
    for k in range(min(samples, len(data.x))):
        region = ball(str(k), data.x[k], radius, domain)
        started = time.process_time()
        enclosure = propagate(stages, integer, [region])
        if method == "quadratic":
            enclosure = sharpened(enclosure, stages, integer, [region])[0]
        seconds += time.process_time() - started
        bound = max(-enclosure.logit_difference.lo.min(), enclosure.logit_difference.hi.max())
        lower = abstract_lower(stages, integer, region, np.random.default_rng(k), iterations=24)
        found = search(network, integer, region, np.random.default_rng(k), evaluations)
        rows.append((bound, np.nan if lower is None else lower.max(), found.error))
        proved.append(bool(top1_proved(enclosure)[0][0]))
    bound, lower, observed = np.array(rows).T
    print(
        f"| {base.split('/')[-1]} | {activations} | {radius:g} | {np.median(bound):.4g} | {np.median(lower):.4g} | "
        f"{np.median(observed):.4g} | {np.median(bound / lower):.2f} | {np.median(bound / observed):.2f} | "
        f"{100 * np.mean(proved):.0f} % | {seconds / len(rows):.3f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("queries", nargs="+")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=3000, help="exact evaluations of the search, a sample")
    parser.add_argument("--method", choices=["zonotope", "quadratic"], default="zonotope")
    arguments = parser.parse_args()
    columns = "model,activations,radius,bound,abstract lower,observed,bound/abstract,bound/observed,top-1,CPU s"
    print("| " + columns.replace(",", " | ") + " |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with threadpool_limits(1):
        for query in arguments.queries:
            base, activations, radii = query.split(":")
            for radius in radii.split(","):
                measure(base, activations, float(radius), arguments.samples, arguments.method, arguments.evaluations)


if __name__ == "__main__":
    main()
