"""Prints the tables of docs/performance.md: every core and option, by `codesign bench` on MODEL (int8 .tflite).

Run it from the repository's root: python tools/performance_table.py tests/bench/benchmark.tflite
"""

import sys

from codesign.bench import CORES, bench, load_model


def main(path: str) -> None:
    network = load_model(path)
    print(
        "| core | weights | optimisation | instructions | per MAC | per time step | flash | of it code | RAM | stack |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for core in CORES:
        for weights in ("int8", "int16"):
            for level in ("O2", "Os"):
                r = bench(network, core, weights, level)
                if not r["bit_exact"]:
                    sys.exit(f"{core} {weights} {level}: not bit-exact")
                step = f"{r['step']['instructions']:,}" if r["step"] else "-"
                print(
                    f"| {r['core_title']} | {weights} | -{level} | {r['instructions']:,} "
                    f"| {r['instructions_per_mac']:.2f} | {step} | {r['flash_bytes']:,} "
                    f"| {r['code_bytes']:,} | {r['ram_bytes']:,} | {r['stack_bytes']} |"
                )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
