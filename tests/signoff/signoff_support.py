"""Real evidence for the sign-off: a certificate and a cross-check made by the real code, on a fixture model, with an
in-process device in place of a board."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codesign import api
from codesign.certificate import hil_regions, write_certificate
from codesign.hil import CounterKind, DeviceTrace, Identity, Inference, Metrics, TraceStep, cross_check, write_result
from codesign.hil.device import LinkStatistics
from codesign.hil.target import Target
from codesign.network import FloatNetwork, evaluate
from codesign.quantization import Calibration, IntegerNetwork, IntLstm
from codesign.semantics import quantize_input, simulate_trace
from codesign.verification import Criteria, Options

FIXTURES = Path(__file__).parents[1] / "fixtures"
VALID = {"verdict": "valid", "item": "", "regions": 8, "facts": 100, "not_derived": []}
BUILD_ID = bytes(range(16))
ELF = b"\x7fELF not really, only its hash matters here"


class SimulatedDevice:
    """Answers as a board would; `spoil` may change the int8 output of inference number k."""

    def __init__(self, network: IntegerNetwork, identity: Identity, spoil: Any = None) -> None:
        self.network, self.identity, self.spoil, self.inferences = network, identity, spoil, 0
        self.statistics = LinkStatistics()

    def identify(self) -> Identity:
        return self.identity

    def infer(self, q: np.ndarray) -> Inference:
        output = simulate_trace(self.network, q[None]).outputs[-1].reshape(-1)
        if self.spoil is not None:
            output = self.spoil(self.inferences, output)
        self.inferences += 1
        return Inference(output, 1000 + self.inferences)

    def trace(self, q: np.ndarray) -> DeviceTrace:
        self.inferences += 1
        outputs = simulate_trace(self.network, q[None]).outputs
        lstms = [o[0] for op, o in zip(self.network.ops, outputs, strict=True) if isinstance(op, IntLstm)]
        steps = [TraceStep(k, t, h[t]) for k, h in enumerate(lstms) for t in range(len(h))]
        return DeviceTrace(tuple(steps), outputs[-1].reshape(-1))

    def quantize(self, x: np.ndarray) -> np.ndarray:
        return quantize_input(self.network, x[None])[0]

    def metrics(self) -> Metrics:
        return Metrics(368, 8192, self.inferences, 0)


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that a deployment would have."""

    float_network: FloatNetwork
    network: IntegerNetwork
    data: Calibration
    certificate: dict[str, Any]
    hil: dict[str, Any]
    build: dict[str, Any]

    def artifacts(self) -> dict[str, str]:
        return {
            "model.tflite": self.network.sha256,
            "firmware.elf": hashlib.sha256(ELF).hexdigest(),
            "certificate.json": "0" * 64,
            "hil.json": "1" * 64,
        }

    def copy(self) -> Evidence:
        return Evidence(
            self.float_network,
            self.network,
            self.data,
            copy.deepcopy(self.certificate),
            copy.deepcopy(self.hil),
            copy.deepcopy(self.build),
        )

    def write(self, folder: Path) -> None:
        """What a deployment's output folder holds before it is signed off."""
        (folder / "firmware" / ".pio").mkdir(parents=True)
        (folder / "firmware" / ".pio" / "object.o").write_bytes(b"made again by a build")
        (folder / "firmware" / "platformio.ini").write_text("[platformio]\n")
        (folder / "model.tflite").write_bytes(self.network.content)
        (folder / "firmware.elf").write_bytes(ELF)
        write_certificate(self.certificate, folder / "certificate.json")
        write_result(self.hil, folder / "hil.json")


def make_evidence(
    name: str,
    samples: int = 8,
    certified: int = 8,
    criteria: Criteria | None = None,
    emulated: bool = True,
    spoil: Any = None,
    proof: Any = "all",
) -> Evidence:
    float_network = api.load(FIXTURES / f"{name}.h5")
    network = api.read(FIXTURES / f"{name}.tflite")
    whole = api.calibration(FIXTURES / f"{name}.h5")
    x = whole.x[:samples]
    real = evaluate(float_network, x)
    # Labels: the float classes, the last two of many wrong, so that accuracies are neither 0 nor 1.
    labels = real.argmax(-1) if real.ndim == 2 and real.shape[1] > 1 else None
    if labels is not None:
        wrong = slice(-2 if samples > 3 else -1, None)
        labels[wrong] = (labels[wrong] + 1) % real.shape[1]
    if real.shape[-1] == 1 and whole.y is not None:
        labels = whole.y[:samples]
    data = Calibration(x, labels, None if whole.values is None else whole.values[:samples])
    options = Options(criteria or Criteria(), evaluations=200, proof=proof)
    certificate = api.certify(float_network, network, data, "0.01lsb", certified, options=options)
    steps, features = network.input.shape
    identity = Identity(
        1, 0, bytes.fromhex(network.sha256), BUILD_ID, steps * features, int(np.prod(network.output.shape)), steps,
        features, 1, CounterKind.CYCLES, 1, 216_000_000, "nucleo_f746",
    )  # fmt: skip
    target = Target(
        SimulatedDevice(network, identity, spoil),  # type: ignore[arg-type]
        identity,
        "/dev/pts/7" if emulated else "/dev/ttyACM0",
        emulated,
        "EMULATED nucleo_f746 (test)" if emulated else "NUCLEO-F746ZG on /dev/ttyACM0",
        "instructions" if emulated else "cycles",
        1.0,
    )
    hil = cross_check(target, network, float_network, x, labels, hil_regions(certificate, x), BUILD_ID)
    build = {
        "board": "nucleo_f746",
        "title": "NUCLEO-F746ZG",
        "mcu": "stm32f746zg",
        "core": "cortex-m7",
        "clock_hz": 216_000_000,
        "runtime": "codesign",
        "profile": "tflm-double",
        "weights": "int8",
        "arena_bytes": None,
        "build_id": BUILD_ID.hex(),
        "model_sha256": network.sha256,
        "elf_sha256": hashlib.sha256(ELF).hexdigest(),
        "flash_bytes": 9440,
        "flash_available": 1 << 20,
        "ram_bytes": 352,
        "ram_available": 320 << 10,
        "stack_size": 8192,
        "memory_map": {
            "flash": [
                {"name": ".text", "address": 0x08000000, "size": 6220, "memory": "flash"},
                {"name": ".rodata", "address": 0x0800184C, "size": 3220, "memory": "flash"},
            ],
            "ram": [
                {"name": ".stack", "address": 0x20000000, "size": 8192, "memory": "ram"},
                {"name": ".bss", "address": 0x20002000, "size": 352, "memory": "ram"},
            ],
        },
    }
    evidence = Evidence(float_network, network, data, certificate, hil, build)
    json.dumps([certificate, hil, build], allow_nan=False)
    return evidence
