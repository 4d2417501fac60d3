"""A cross-check in a process of its own that tests kill: JOURNAL RESULT LOG [--resume].

The fake device notes every inference in LOG before it answers, so that a test can count what was asked again.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fake_device import FakeDevice
from hil_support import load_model

from codesign.hil import Device, Target, cross_check, validate_result

BUILD_ID = bytes(range(16))
SAMPLES = 24


def main() -> None:
    journal, output, log = (Path(argument) for argument in sys.argv[1:4])
    model = load_model("tiny")
    notes = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def noted(_number: int, reply: bytes) -> bytes:
        if reply[2] == 0x82:
            os.write(notes, b"i")
            time.sleep(0.01)
        return reply

    with FakeDevice(model.integer, noted, build_id=BUILD_ID) as fake, Device(fake.port, timeout=2.0) as device:
        target = Target(device, device.identify(), fake.port, False, "a fake", "instructions", 1.0)
        print("running", flush=True)
        result = cross_check(
            target, model.integer, model.real, model.x[:SAMPLES], build_id=BUILD_ID, traced_samples=2,
            regions=[{"sample": None, "output_bound": [9.0] * 3, "top1": "unknown"}],
            journal=journal, resume="--resume" in sys.argv,
        )  # fmt: skip
    validate_result(result)
    output.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
