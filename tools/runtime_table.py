"""Prints the table of docs/performance.md that sets codesign's generated C beside TFLM's interpreter.

python tools/runtime_table.py --tflm-tree FOLDER --board nucleo_f746 --board mps2_an386 tests/bench/benchmark.tflite

Every row is the same application on the same (emulated) board, built by the same compiler with -O2, on the same inputs;
each output is compared with the exact simulation of the row's semantics. Without a board's port they are emulated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from codesign.bench import bench_board, load_model
from codesign.errors import CodesignError
from codesign.tflm import describe_runtime, runtime_option


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="+")
    parser.add_argument("--board", action="append", required=True)
    parser.add_argument("--tflm-tree", type=Path, help="default: the environment variable CODESIGN_TFLM_TREE")
    parser.add_argument("--runtime", action="append", choices=("codesign", "tflm", "tflm-cmsis"))
    options = parser.parse_args()
    columns = (
        "model",
        "board",
        "runtime",
        "weights",
        "instructions",
        "per MAC",
        "flash",
        "RAM",
        "of it arena",
        "stack",
    )
    print(f"| {' | '.join(columns)} |")
    print("|" + "---|" * len(columns))
    for path in options.model:
        network = load_model(path)
        for board in options.board:
            for name in options.runtime or ("codesign", "tflm", "tflm-cmsis"):
                tree = options.tflm_tree if name != "codesign" else None
                runtime = runtime_option(name, tree)
                for weights in ("int8", "int16") if runtime is None else ("int8",):
                    row = bench_board(network, board, inputs=6, weights=weights, runtime=runtime)  # type: ignore[arg-type]
                    if not row["bit_exact"]:
                        raise CodesignError(f"{name} on {board} is not bit-exact under {row['profile']}")
                    count = row[row["unit"]]
                    cells = (
                        network.name, board, f"{describe_runtime(name)} ({row['profile']})", weights, f"{count:,}",
                        f"{count / row['macs']:.2f}", f"{row['flash_bytes']:,}", f"{row['ram_bytes']:,}",
                        f"{row['arena_bytes'] or 0:,}", f"{row['stack_measured_bytes']:,}",
                    )  # fmt: skip
                    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
