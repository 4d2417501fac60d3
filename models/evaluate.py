"""Measures the sample models: accuracy, and the share of samples whose top-1 class is proved equal, float and int8.

Run it from the repository's root: python models/evaluate.py [NAME ...] [--radius-steps 1] [--samples N]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from codesign.network import evaluate, load_network
from codesign.quantization import convert, load_calibration, read_integer_network
from codesign.semantics import dequantize, quantize_input, simulate
from codesign.verification import Options, ball, certify, input_domain

MODELS = Path(__file__).resolve().parent


def measure(name: str, steps: float, samples: int, jobs: int) -> str:
    """One line of figures; `steps` is the radius in input quantisation steps, `samples` 0 means all."""
    network = load_network(MODELS / f"{name}.h5")
    data = load_calibration(MODELS / f"{name}.calib.npz", network.input_shape)
    if data.y is None:
        raise SystemExit(f"{name}.calib.npz has no labels")
    with tempfile.TemporaryDirectory() as folder:
        converted = convert(MODELS / f"{name}.h5", Path(folder) / f"{name}.tflite")
        integer = read_integer_network(converted)
    expected = evaluate(network, data.x)
    given = dequantize(integer.output, simulate(integer, quantize_input(integer, data.x)))
    correct = np.flatnonzero(expected.argmax(axis=1) == data.y)
    chosen = correct[:: max(1, len(correct) // samples)][:samples] if samples else correct
    domain = input_domain(data.x)
    regions = [ball(f"sample {k}", data.x[k], steps * integer.input.scale, domain) for k in chosen]
    result = certify(network, integer, regions, Options(jobs=jobs, proof="none"))
    count = {status: sum(r.top1 == status for r in result.regions) for status in ("proved", "refuted", "unknown")}
    return (
        f"{name}: accuracy float {len(correct) / len(data.x):.4f}, int8 "
        f"{np.mean(given.argmax(axis=1) == data.y):.4f} on {len(data.x)} samples; top-1 at {steps:g} step(s) "
        f"({steps * integer.input.scale:.5f}) over {len(regions)} correct samples: {result.top1_share:.1%} proved, "
        f"{count['refuted']} refuted, {count['unknown']} unknown; output bound median "
        f"{np.median([r.bound_max for r in result.regions]):.4f}, logit bound median "
        f"{np.median([r.logit_bound.max() for r in result.regions]):.3f}, observed median "
        f"{np.median([r.found.error for r in result.regions]):.4f}; {result.seconds:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted(path.stem for path in MODELS.glob("*.h5"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(names)}")
    parser.add_argument("--radius-steps", type=float, default=1.0, help="radius in input quantisation steps")
    parser.add_argument("--samples", type=int, default=0, help="correct samples a model; 0 is all")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    arguments = parser.parse_args()
    for name in arguments.names or names:
        print(measure(name, arguments.radius_steps, arguments.samples, arguments.jobs), flush=True)


if __name__ == "__main__":
    main()
