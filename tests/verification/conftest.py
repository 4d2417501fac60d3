from pathlib import Path

import pytest

from codesign.network import load_network
from codesign.quantization import load_calibration, read_integer_network

FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.fixture(scope="session")
def pair():
    """(float network, integer network, calibration data) of a fixture, by name; NAME.int16 has int16 activations."""

    def load(name):
        network = load_network(FIXTURES / f"{name.removesuffix('.int16')}.h5")
        integer = read_integer_network(FIXTURES / f"{name}.tflite")
        calibration = FIXTURES / f"{name.removesuffix('.int16')}.calib.npz"
        return network, integer, load_calibration(calibration, network.input_shape)

    return load
