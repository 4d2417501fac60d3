"""Calibration files: what is read, and what is refused with which sentence."""

import sys
import zipfile

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.quantization import default_calibration_path, load_calibration

X = np.random.default_rng(0).normal(size=(6, 4, 3)).astype("f")


def _save(tmp_path, **arrays):
    np.savez(tmp_path / "m.calib.npz", **arrays)
    return tmp_path / "m.calib.npz"


def test_reads_samples_and_labels(tmp_path):
    calibration = load_calibration(_save(tmp_path, x=X.astype("f8"), y=np.arange(6, dtype="i4")), (4, 3))
    assert calibration.x.dtype == np.float32
    assert calibration.y.dtype == np.int64
    np.testing.assert_array_equal(calibration.x, X)
    np.testing.assert_array_equal(calibration.y, np.arange(6))
    assert load_calibration(_save(tmp_path, x=X), (4, 3)).y is None


@pytest.mark.parametrize("model", ["a/net.h5", "a/net.keras", "a/net.tflite", "a/net.float.tflite"])
def test_sidecar_name(model):
    assert default_calibration_path(model).as_posix() == "a/net.calib.npz"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.zeros(6, int)}, "no array 'x'"),
        ({"x": X[0]}, r"shape \(4, 3\)"),
        ({"x": X[:0]}, "N >= 1"),
        ({"x": X[:, :, :2]}, r"needs \(N, 4, 3\)"),
        ({"x": X.astype("i4")}, "dtype int32"),
        ({"x": X.astype("c8")}, "dtype complex64"),
        ({"x": np.where(X.max() == X, np.nan, X)}, "NaN"),
        ({"x": np.where(X.max() == X, -np.inf, X)}, "infinite"),
        ({"x": X.astype("f8") * 1e300}, "float32-overflowing"),
        ({"x": X, "y": np.zeros(5, int)}, "one entry for each of the 6 samples"),
        ({"x": X, "y": np.array("abc")}, "has to be numbers"),
        ({"x": X, "y": np.array(["a"] * 6)}, "has to be numbers"),
        ({"x": X, "y": np.full(6, np.nan)}, "NaN"),
        ({"x": np.array([object()] * 6, dtype=object)}, "plain arrays"),
    ],
)
def test_refuses(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message):
        load_calibration(_save(tmp_path, **arrays), (4, 3))


def test_pickles_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trapped"), "w"))

    path = _save(tmp_path, x=np.array([Trap()], dtype=object))
    with pytest.raises(InputError):
        load_calibration(path, (4, 3))
    assert not (tmp_path / "trapped").exists()


def test_missing_damaged_and_huge_files(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"np\.savez\('m\.calib\.npz', x=x\.astype\('float32'\)\)"):
        load_calibration(tmp_path / "m.calib.npz", (4, 3))
    with pytest.raises(InputError, match="not a file"):
        load_calibration(tmp_path, (4, 3))
    path = _save(tmp_path, x=X)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="not a readable"):
        load_calibration(path, (4, 3))
    np.save(tmp_path / "plain.npy", X)
    with pytest.raises(InputError, match="not a readable"):
        load_calibration(tmp_path / "plain.npy", (4, 3))
    bomb = tmp_path / "bomb.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(1 << 24))
    monkeypatch.setattr(sys.modules["codesign.quantization.calibration"], "MAX_VALUES", 1 << 20)
    with pytest.raises(InputError, match="too large"):
        load_calibration(bomb, (4, 3))
