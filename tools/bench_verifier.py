"""The verifier's tables: robustness on PROVER's networks beside a peer; speed and growth of the difference verifier.

    python tools/bench_verifier.py robust --nets FOLDER --images mnist100.npz [--mode fast balanced tight]
        [--query 04f_032h:0.01:20 ...] [--peer CHECKOUT [--peer-python PYTHON]] [--peer-command COMMAND]
    python tools/bench_verifier.py speed [--bench out/bench] [--radius 0.005] [--regions 8]
    python tools/bench_verifier.py growth [--case 16:32 ...]

robust: FOLDER holds mnist_04f_032h_1l.npz and so on (tools/convert_prover_net.py says what is in them). A query is
NET:EPS:IMAGES, the first IMAGES correctly classified images, boxes +-EPS clipped to [0, 1]. CHECKOUT is a working tree
of auto_LiRPA, whose CROWN is run once a query by tools/peer_lirpa.py under PYTHON (one that has torch). COMMAND is any
other peer's program, run with the arguments NET.npz IMAGES.npz EPS COUNT appended; its last line on stdout has to be
JSON {"certified": n, "mean_logit_width": w}, and may have "cpu_seconds" (an image); else its CPU time is measured from
outside. No peer's code is part of this repository.

speed: CPU seconds a region of the joint differential zonotope on the networks of tools/train_bench_nets.py, int8.
growth: the same on random contractive networks of T steps and H units (a case T:H), 16 inputs, with peak memory; each
case is a process of its own. 'kept': symbols at once, at most; 'of it folded': the part of the bound that symbols carry
which stand for folded ones (codesign/verification/unit_forms.py), the most that folding can have cost.
Set OPENBLAS_NUM_THREADS=1 for single-core times.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

QUERIES = ["04f_032h:0.01:20", "04f_032h:0.02:20", "04f_032h:0.03:20", "04f_064h:0.01:10", "07f_032h:0.01:10"]
CASES = [f"{steps}:{units}" for units in (16, 32, 64, 128) for steps in (8, 32, 128)]
_PEER_LIMIT_S = 3600


def robust_table(arguments: argparse.Namespace) -> None:
    from convert_prover_net import keras_weights, samples

    from codesign.network.model import Dense, FloatNetwork, Lstm
    from codesign.quantization import Calibration
    from codesign.verification.robust import RobustOptions, robust

    print("| net, eps | method | robust | refuted | of | mean logit width | CPU s an image |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for query in arguments.query or QUERIES:
        name, eps, count = query.split(":")
        path = arguments.nets / f"mnist_{name}_1l.npz"
        kernel, recurrent, bias, dense, offset = keras_weights(path)
        units, features = recurrent.shape[0], kernel.shape[0]
        x, y = samples(arguments.images, features)
        shapes = ((4, units, features), (4, units, units), (4, units))
        W, R, b = (a.T.reshape(shape).copy() for a, shape in zip((kernel, recurrent, bias), shapes, strict=True))
        layers = (Lstm("lstm", W, R, b, False), Dense("dense", dense.T.copy(), offset, "linear"))
        network = FloatNetwork(name, (x.shape[1], features), layers, "", "npz")
        for mode in arguments.mode:
            data, options = Calibration(x, y), RobustOptions(mode=mode)
            total = robust(network, data, float(eps), int(count), (0.0, 1.0), options).document()["summary"]
            print(
                f"| {name} {eps} | {mode} | {total['robust']} | {total['refuted']} | {total['regions']} | "
                f"{total['mean_logit_width']:.4g} | {total['cpu_seconds_per_region']:.3g} |",
                flush=True,
            )
        for label, peer in _peers(arguments):
            command = [*peer, str(path), str(arguments.images), eps, count]
            print(_peer(command, f"{name} {eps} | {label}", int(count)), flush=True)


def _peers(arguments: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """Label and command of every peer asked for."""
    peers = []
    if arguments.peer is not None:
        if not (arguments.peer / "auto_LiRPA").is_dir():
            sys.exit(f"'{arguments.peer}' is no working tree of auto_LiRPA; give any other peer with --peer-command")
        driver = Path(__file__).with_name("peer_lirpa.py")
        peers.append(("auto_LiRPA CROWN", [arguments.peer_python, str(driver), str(arguments.peer)]))
    if arguments.peer_command:
        peers.append(("peer", shlex.split(arguments.peer_command)))
    return peers


def _peer(command: list[str], label: str, count: int) -> str:
    """One row of the table from the peer's own program."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PEER_LIMIT_S, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"the peer failed with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        certified, width = int(answer["certified"]), float(answer["mean_logit_width"])
    except (IndexError, ValueError, KeyError, TypeError):
        sys.exit('the last line of the peer\'s output is not JSON {"certified": n, "mean_logit_width": w}')
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds = f"{answer['cpu_seconds']:.3g}" if "cpu_seconds" in answer else f"{spent / count:.3g} (start included)"
    return f"| {label} | {certified} | | {count} | {width:.4g} | {seconds} |"


def speed_table(arguments: argparse.Namespace) -> None:
    from codesign.network import load_network
    from codesign.quantization import load_calibration, read_integer_network
    from codesign.quantization.align import align
    from codesign.verification.propagate import propagate
    from codesign.verification.regions import ball, input_domain

    print("| net | regions | CPU s a region | symbols |\n|---|---|---|---|", flush=True)
    for name in ("d8h16", "d8h32", "d28h20"):
        base = arguments.bench / name
        network, integer = load_network(f"{base}.h5"), read_integer_network(f"{base}.tflite")
        data = load_calibration(f"{base}.calib.npz", network.input_shape)
        domain = input_domain(data.x)
        regions = [ball(str(k), data.x[k], arguments.radius, domain) for k in range(arguments.regions)]
        stages = align(network, integer)
        propagate(stages, integer, regions[:1])  # enumerates tables
        started = time.process_time()
        enclosure = propagate(stages, integer, regions)
        spent = (time.process_time() - started) / len(regions)
        print(f"| {name} | {len(regions)} | {spent:.4f} | {enclosure.symbols} |", flush=True)


def growth_table(arguments: argparse.Namespace) -> None:
    print("| T | H | symbols | kept | CPU s a region | ns / (T H^2 kept) | bound | of it folded | peak MiB |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for case in arguments.case or CASES:
        done = subprocess.run([sys.executable, __file__, "case", case], capture_output=True, text=True, check=False)
        print(
            done.stdout.strip() if done.returncode == 0 else f"| {case} failed: {done.stderr.strip()[-200:]} |",
            flush=True,
        )


def one_case(arguments: argparse.Namespace) -> None:
    from codesign.network import load_network
    from codesign.quantization import convert, read_integer_network
    from codesign.quantization.align import align
    from codesign.verification.lstm import ROWS_BYTES
    from codesign.verification.propagate import propagate
    from codesign.verification.regions import ball

    steps, units = (int(part) for part in arguments.case.split(":"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.h5"
        subprocess.run([sys.executable, __file__, "make", arguments.case, str(path)], check=True, capture_output=True)
        integer = read_integer_network(convert(path, path.with_suffix(".tflite")))
        network = load_network(path)
    x = np.random.default_rng(0).uniform(0, 1, (steps, 16)).astype(np.float32)
    region = ball("random", x, 0.001, (np.zeros(16), np.ones(16)))
    stages = align(network, integer)
    spent, runs = 0.0, 0
    while not runs or (spent < 2 and runs < 3):  # the first run also enumerates tables
        started = time.process_time()
        enclosure = propagate(stages, integer, [region])
        spent, runs = time.process_time() - started, runs + 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    kept = min(enclosure.symbols, ROWS_BYTES // (80 * units))
    bound = max(-enclosure.logit_difference.lo.min(), enclosure.logit_difference.hi.max())
    sources = enclosure.sources[0]
    share = sources.get("symbol reduction", 0.0) / sum(sources.values())
    rate = 1e9 * spent / (steps * units**2 * kept)
    print(
        f"| {steps} | {units} | {enclosure.symbols} | {kept} | {spent:.3f} | {rate:.2f} | {bound:.3g} | "
        f"{100 * share:.0f} % | {peak:.0f} |"
    )


def make_case(arguments: argparse.Namespace) -> None:
    """A random network whose recurrent weights contract, with calibration data."""
    import tf_keras as keras

    steps, units = (int(part) for part in arguments.case.split(":"))
    rng = np.random.default_rng(units * 1000 + steps)
    layers = keras.layers
    model = keras.Sequential([layers.Input((steps, 16)), layers.LSTM(units), layers.Dense(4)])
    kernel, recurrent, bias, dense, offset = model.get_weights()
    bias[units : 2 * units] = -0.5  # forgets
    scales = (0.5 / 4, 0.25 / units**0.5)
    model.set_weights(
        [
            rng.normal(0, scales[0], kernel.shape),
            rng.normal(0, scales[1], recurrent.shape),
            bias,
            rng.normal(0, units**-0.5, dense.shape),
            offset,
        ]
    )
    model.save(arguments.output)
    x = rng.uniform(0, 1, (64, steps, 16)).astype(np.float32)
    np.savez_compressed(arguments.output.with_suffix(".calib.npz"), x=x, y=rng.integers(0, 4, len(x)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("robust")
    command.add_argument("--nets", type=Path, required=True)
    command.add_argument("--images", type=Path, required=True)
    command.add_argument("--mode", nargs="+", choices=["fast", "balanced", "tight"], default=["fast", "balanced"])
    command.add_argument("--query", nargs="+")
    command.add_argument("--peer", type=Path, metavar="CHECKOUT")
    command.add_argument("--peer-python", default=sys.executable)
    command.add_argument("--peer-command")
    command.set_defaults(run=robust_table)
    command = commands.add_parser("speed")
    command.add_argument("--bench", type=Path, default=Path("out/bench"))
    command.add_argument("--radius", type=float, default=0.005)
    command.add_argument("--regions", type=int, default=8)
    command.set_defaults(run=speed_table)
    command = commands.add_parser("growth")
    command.add_argument("--case", nargs="+")
    command.set_defaults(run=growth_table)
    command = commands.add_parser("case")
    command.add_argument("case")
    command.set_defaults(run=one_case)
    command = commands.add_parser("make")
    command.add_argument("case")
    command.add_argument("output", type=Path)
    command.set_defaults(run=make_case)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
