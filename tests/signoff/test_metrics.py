from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.errors import InputError
from codesign.signoff import accuracy, confusion_matrix, error_metrics


def test_hand_values() -> None:
    m = error_metrics([1.0, 2.0, 4.0], [1.0, 3.0, 2.0])
    # e = 0, -1, 2; reference mean 2, spread 2
    assert m.values == 3
    assert m.rmse == pytest.approx(math.sqrt(5 / 3))
    assert m.mae == pytest.approx(1.0)
    assert m.largest == 2.0
    assert m.relative_l2 == pytest.approx(math.sqrt(5 / 14))
    assert m.mean == pytest.approx(1 / 3)
    assert m.std == pytest.approx(math.sqrt(5 / 3 - 1 / 9))
    assert m.nash_sutcliffe == pytest.approx(1 - 5 / 2)
    assert m.cosine == pytest.approx(15 / math.sqrt(21 * 14))


def test_equal_arrays_are_perfect() -> None:
    m = error_metrics([[0.25, 0.75], [0.5, 0.5]], [[0.25, 0.75], [0.5, 0.5]])
    assert (m.rmse, m.mae, m.largest, m.relative_l2, m.nash_sutcliffe) == (0, 0, 0, 0, 1)
    assert m.cosine == pytest.approx(1.0)


def test_undefined_figures_are_none() -> None:
    m = error_metrics([0.5, 0.5], [0.0, 0.0])
    assert m.relative_l2 is None
    assert m.nash_sutcliffe is None
    assert m.cosine is None


def test_against_sklearn() -> None:
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(5)
    reference, noise = rng.normal(size=(40, 6)), rng.normal(scale=0.1, size=(40, 6))
    m = error_metrics(reference + noise, reference)
    r, p = reference.reshape(-1), (reference + noise).reshape(-1)
    assert m.rmse == pytest.approx(math.sqrt(sk.mean_squared_error(r, p)))
    assert m.mae == pytest.approx(sk.mean_absolute_error(r, p))
    assert m.largest == pytest.approx(sk.max_error(r, p))
    assert m.nash_sutcliffe == pytest.approx(sk.r2_score(r, p))
    assert m.cosine == pytest.approx(sk.pairwise.cosine_similarity([r], [p])[0, 0])
    y, c = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
    assert accuracy(y, c) == pytest.approx(sk.accuracy_score(y, c))
    assert (confusion_matrix(y, c, 5) == sk.confusion_matrix(y, c, labels=range(5))).all()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_confusion_counts_every_sample_once(pairs: list[tuple[int, int]]) -> None:
    y, c = [p[0] for p in pairs], [p[1] for p in pairs]
    matrix = confusion_matrix(y, c, 4)
    assert matrix.sum() == len(pairs)
    assert np.trace(matrix) / len(pairs) == pytest.approx(accuracy(y, c))


@pytest.mark.parametrize(
    ("predicted", "reference"), [([1.0], [1.0, 2.0]), ([], []), ([float("nan")], [1.0]), ([1.0], [float("inf")])]
)
def test_bad_values_are_refused(predicted: list[float], reference: list[float]) -> None:
    with pytest.raises(InputError):
        error_metrics(predicted, reference)


@pytest.mark.parametrize(("y", "c"), [([0, 1], [0]), ([], []), ([0.5], [0])])
def test_bad_classes_are_refused(y: list[float], c: list[int]) -> None:
    with pytest.raises(InputError):
        accuracy(y, c)
    with pytest.raises(InputError):
        confusion_matrix(y, c, 3)


@pytest.mark.parametrize(("y", "c"), [([3], [0]), ([0], [3]), ([-1], [0])])
def test_classes_outside_are_refused(y: list[int], c: list[int]) -> None:
    with pytest.raises(InputError, match=r"0\.\.2"):
        confusion_matrix(y, c, 3)
