import hashlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

FIXTURES = Path(__file__).parent.parent / "fixtures"


def reseal(document, proof):
    """What a forger who knows the format does last: hashes and digest that fit."""
    document["proof_file"]["sha256"] = hashlib.sha256(proof).hexdigest()
    document.pop("digest", None)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["digest"] = hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Forgery:
    """A certificate with its proof and models, taken apart so that a test can edit them and put them together again."""

    folder: Path
    document: dict
    arrays: dict
    float_path: Path
    int8_path: Path

    @property
    def header(self):
        return json.loads(self.arrays["header"].tobytes())

    @header.setter
    def header(self, value):
        self.arrays["header"] = np.frombuffer(json.dumps(value).encode(), np.uint8)

    @property
    def region(self):
        return self.document["regions"][0]

    def packed(self):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **self.arrays)
        return buffer.getvalue()

    def check(self, sealed=True, proof=None, prover=None, data="the fixture's"):
        from codesign.quantization import default_calibration_path
        from codesign.recheck import check

        proof = self.packed() if proof is None else proof
        if sealed:
            reseal(self.document, proof)
        path = self.folder / "certificate.json"
        path.write_text(json.dumps(self.document))
        (self.folder / "certificate.proof.npz").write_bytes(proof)
        if data == "the fixture's":
            data = default_calibration_path(FIXTURES / self.float_path.name)
            data = data if data.exists() else None  # another float model
        return check(path, self.float_path, self.int8_path, prover, data=data)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Makes the certificate of a fixture once: folder with certificate.json and its proof."""
    from codesign import api
    from codesign.verification import Criteria, Options

    done = {}

    def make(name, radius="1lsb", samples=2, epsilon=None, top1=None, float_suffix=".float.tflite", topk=None, **more):
        key = (name, radius, samples, epsilon, top1, topk, float_suffix, str(more))
        if key not in done:
            folder = tmp_path_factory.mktemp("certificate")
            base = name.removesuffix(".int16")
            float_path, int8_path = FIXTURES / f"{base}{float_suffix}", FIXTURES / f"{name}.tflite"
            network, integer = api.load(float_path), api.read(int8_path)
            data = api.calibration(FIXTURES / f"{base}.h5")
            options = Options(Criteria(epsilon, top1, topk=topk), evaluations=60)
            api.certify(
                network, integer, data, radius, samples, options=options, output=folder / "certificate.json", **more
            )
            done[key] = folder, float_path, int8_path
        return done[key]

    return make


@pytest.fixture
def take_apart(tmp_path):
    """A fresh copy of a certificate to tamper with."""

    def load(folder, float_path, int8_path):
        target = tmp_path / "forged"
        shutil.copytree(folder, target, dirs_exist_ok=True)
        document = json.loads((folder / "certificate.json").read_text())
        with np.load(folder / "certificate.proof.npz") as archive:
            arrays = {key: archive[key].copy() for key in archive.files}
        return Forgery(target, document, arrays, float_path, int8_path)

    return load


@pytest.fixture
def forge(made, take_apart):
    """A fresh copy of a fixture's certificate."""

    def load(name="tiny", **options):
        return take_apart(*made(name, **options))

    return load
