"""Files that are not models, and damaged ones: an InputError of one sentence, or a finite network; nothing else."""

import shutil
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codesign.errors import InputError
from codesign.network import evaluate, load_network


def test_not_a_model(tmp_path, fixtures):
    cases = {
        "missing.h5": (None, "does not exist"),
        "empty.h5": (b"", "is empty"),
        "text.h5": (b"hello, this is text", "is not a model"),
        "text.keras": (b"hello, this is text", "is not a model"),
        "text.tflite": (b"hello, this is text", "is not a model"),
        "model.pb": (b"x", "wrong extension"),
        "model": (b"x", "wrong extension"),
        "h5.keras": ((fixtures / "tiny.h5").read_bytes(), "wrong extension: it is an HDF5"),
        "flat.h5": ((fixtures / "tiny.float.tflite").read_bytes(), "wrong extension: it is a TFLite"),
        "short.h5": ((fixtures / "tiny.h5").read_bytes()[:2000], "truncated"),
    }
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_network(tmp_path / name)
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(InputError, match="not a file"):
        load_network(tmp_path / "folder.h5")


def test_suffix_in_capitals_and_text_path(tmp_path, fixtures):
    shutil.copy(fixtures / "tiny.h5", tmp_path / "TINY.H5")
    network = load_network(str(tmp_path / "TINY.H5"))
    assert network.name == "TINY"
    assert network.sha256 == load_network(fixtures / "tiny.h5").sha256


def _loads_finite_or_refuses(path):
    try:
        network = load_network(path)
    except InputError:
        return
    for layer in network.layers:
        for value in vars(layer).values():
            assert not isinstance(value, np.ndarray) or np.isfinite(value).all()
    assert evaluate(network, np.zeros((1, *network.input_shape))).ndim >= 2


def _damage(content, flips, cut):
    damaged = bytearray(content[: int(len(content) * cut)])
    for position, bit in flips:
        if damaged:
            damaged[int(position * (len(damaged) - 1))] ^= 1 << bit
    return bytes(damaged)


FLIPS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), min_size=1, max_size=12)
CUT = st.one_of(st.just(1.0), st.just(1.0), st.floats(0, 1))
FUZZ = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@settings(FUZZ, max_examples=25)
@given(flips=FLIPS, cut=CUT)
def test_damaged_h5(fixtures, tmp_path, flips, cut):
    path = tmp_path / "damaged.h5"
    path.write_bytes(_damage((fixtures / "timedist.h5").read_bytes(), flips, cut))
    _loads_finite_or_refuses(path)


@settings(FUZZ, max_examples=400)
@given(flips=FLIPS, cut=CUT)
def test_damaged_tflite(fixtures, tmp_path, flips, cut):
    path = tmp_path / "damaged.tflite"
    path.write_bytes(_damage((fixtures / "timedist.float.tflite").read_bytes(), flips, cut))
    _loads_finite_or_refuses(path)


@settings(FUZZ, max_examples=400)
@given(position=st.integers(0, 2000), value=st.integers(0, 2**32 - 1))
def test_tflite_with_a_wild_offset(fixtures, tmp_path, position, value):
    content = bytearray((fixtures / "stacked.float.tflite").read_bytes())
    struct.pack_into("<I", content, position * 4 % (len(content) - 4), value)
    path = tmp_path / "wild.tflite"
    path.write_bytes(content)
    _loads_finite_or_refuses(path)


@settings(FUZZ, max_examples=25)
@given(flips=FLIPS, cut=CUT)
def test_damaged_keras_archive(keras_models, tmp_path, flips, cut):
    path = tmp_path / "damaged.keras"
    path.write_bytes(_damage((keras_models / "keras3-stacked.keras").read_bytes(), flips, cut))
    _loads_finite_or_refuses(path)


def test_file_that_hangs_the_hdf5_library(fixtures, tmp_path, monkeypatch):
    """One changed byte of this file keeps HDF5 1.14 in an endless loop; a time-out (or an error) ends it."""
    from codesign.network import keras_file

    content = bytearray((fixtures / "tiny.h5").read_bytes())
    assert content[4233] == 7
    content[4233] = 3
    (tmp_path / "endless.h5").write_bytes(content)
    monkeypatch.setattr(keras_file, "HDF5_TIMEOUT_SECONDS", 3.0)
    with pytest.raises(InputError, match="its HDF5 content cannot be read"):
        load_network(tmp_path / "endless.h5")
