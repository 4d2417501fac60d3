"""The public API, step by step: what `codesign deploy` does, with the intermediate results at hand.

Run it in the repository's root: python examples/deploy_motion.py [FOLDER]
"""

import sys
from pathlib import Path

import codesign
from codesign.verification import Criteria, Options


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    network = codesign.load("models/motion.h5")
    data = codesign.calibration("models/motion.h5")
    integer = codesign.quantize("models/motion.h5", folder / "motion.tflite")

    options = Options(criteria=Criteria(top1_share=0.8))
    certificate = codesign.certify(network, integer, data, radius="1lsb", samples=12, options=options)
    summary = certificate["summary"]
    print(f"verdict: {certificate['verdict']}")
    print(f"|int8 - float| <= {summary['bound_max']:.4f} over {summary['regions']} regions")
    print(f"top-1 equality proved on {100 * summary['top1_share']:.0f} % of them")

    firmware = codesign.build(integer, "nucleo_f746", folder / "firmware")
    print(f"firmware: {firmware.flash_bytes} bytes of flash, {firmware.ram_bytes} bytes of static RAM")
    hil = codesign.cross_check(firmware, network, integer, data, certificate, samples=12, emulate=True)
    print(f"on the (emulated) board: {hil['verdict']}, {hil['summary']['bit_exact']} of 12 samples bit-exact")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "motion.example"))
