"""Build every sample model for every board and run it on the board's emulator, bit for bit.

Usage: python tools/board_matrix.py [--convert] [BOARD ...]
--convert makes tests/hil/sample_models/*.tflite afresh from models/NAME.h5 (needs TensorFlow).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from codesign.errors import CodesignError, InputError
from codesign.hil import open_target
from codesign.quantization import convert, read_integer_network
from codesign.semantics import simulate
from codesign.toolchain import build, list_boards, load_board

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
INT8 = ROOT / "tests" / "hil" / "sample_models"
NAMES = ("digits", "motion", "vowels")
SAMPLES = 10


def run(board: str, model: Path) -> tuple[bool, str]:
    """Whether it went as it has to (refused for size counts), and one line about it."""
    network = read_integer_network(model)
    with tempfile.TemporaryDirectory() as folder:
        try:
            firmware = build(network, load_board(board), Path(folder) / "firmware")
        except InputError as error:
            return "does not fit" in str(error), f"refused: {error}"
        except CodesignError as error:
            return False, str(error)
        sizes = f"flash {firmware.flash_bytes}, RAM {firmware.ram_bytes}"
        if firmware.board.emulator is None:
            return True, f"{sizes}, no emulator"
        q = np.random.default_rng(0).integers(-128, 128, (SAMPLES, *network.input.shape)).astype(np.int8)
        try:
            with open_target(firmware, emulate=True) as target:
                inferences = [target.device.infer(values) for values in q]
                stack = target.device.metrics().stack_high_water
        except CodesignError as error:
            return False, str(error)
        exact = np.array_equal(np.stack([i.output for i in inferences]), simulate(network, q).reshape(SAMPLES, -1))
        count = target.count(inferences[0])
        return exact, f"{sizes}, stack {stack}, {count} {target.counter}, {'bit-exact' if exact else 'WRONG OUTPUTS'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("boards", nargs="*", metavar="BOARD")
    parser.add_argument("--convert", action="store_true")
    arguments = parser.parse_args()
    if arguments.convert:
        for name in NAMES:
            convert(MODELS / f"{name}.h5", INT8 / f"{name}.tflite")
        files = sorted(f"{name}.{kind}" for name in NAMES for kind in ("h5", "calib.npz"))
        made_from = {file: hashlib.sha256((MODELS / file).read_bytes()).hexdigest() for file in files}
        (INT8 / "made_from.json").write_text(json.dumps(made_from, indent=1) + "\n")
    failed = 0
    for board in arguments.boards or list_boards():
        for model in sorted(INT8.glob("*.tflite")):
            good, line = run(board, model)
            failed += not good
            print(f"{board} {model.stem}: {line}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
