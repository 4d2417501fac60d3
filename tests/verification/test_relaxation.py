"""Relaxations: images contain the function, and every recorded plane is a provable obligation."""

import numpy as np
import pytest

from codesign.proof import prove
from codesign.verification import relaxation
from codesign.verification.affine import Box
from codesign.verification.audit import count, obligations
from codesign.verification.relaxation import Recorder


def boxes(rng, n, width):
    lo = rng.normal(0, 3, (1, n))
    return Box(lo, lo + np.abs(rng.normal(0, width, (1, n))))


@pytest.mark.parametrize("function", ["sigmoid", "tanh"])
@pytest.mark.parametrize("width", [0.0, 1e-3, 0.3, 5.0])
def test_images_contain_samples(function, width):
    rng = np.random.default_rng(1)
    z, d = boxes(rng, 400, width), boxes(rng, 400, width)
    image, difference = relaxation.image(function, z), relaxation.difference_image(function, z, d)
    tight_lo, tight_hi = np.full(z.lo.shape, np.inf), np.full(z.lo.shape, -np.inf)
    for u in np.linspace(0, 1, 17):
        for v in (0.0, 0.5, 1.0):
            at, by = z.lo + u * (z.hi - z.lo), d.lo + v * (d.hi - d.lo)
            y = relaxation.value(function, at)
            delta = relaxation.value(function, at + by) - y
            assert (y >= image.lo).all()
            assert (y <= image.hi).all()
            assert (delta >= difference.lo).all()
            assert (delta <= difference.hi).all()
            tight_lo, tight_hi = np.minimum(tight_lo, delta), np.maximum(tight_hi, delta)
    # The image is the range, not a loose box: samples come near both ends.
    assert np.median(difference.hi - tight_hi) < 0.02
    assert np.median(tight_lo - difference.lo) < 0.02


@pytest.mark.parametrize("function", ["sigmoid", "tanh"])
def test_planes_hold_and_are_proved(function):
    rng = np.random.default_rng(2)
    recorder = Recorder()
    z, d = boxes(rng, 60, 0.5), boxes(rng, 60, 0.1)
    plane = relaxation.relax(function, z, "here", recorder)
    diff = relaxation.relax_difference(function, z, d, "here", recorder)
    relaxation.record_product(recorder, "product", z, d, relaxation.product_slack(z, d))
    for _ in range(200):
        at = z.lo + rng.random(z.lo.shape) * (z.hi - z.lo)
        by = d.lo + rng.random(d.lo.shape) * (d.hi - d.lo)
        y = relaxation.value(function, at)
        assert (np.abs(y - plane.slope * at - plane.mid) <= plane.rad).all()
        delta = relaxation.value(function, at + by) - y
        assert (np.abs(delta - diff.slope_z * at - diff.slope_d * by - diff.mid) <= diff.rad).all()
    stated = obligations(recorder.batches)
    assert len(stated) == count(recorder.batches) == 180
    assert {o.kind for o in stated} == {function, f"{function}_diff", "product"}
    for prover in ("closed-form", "icp"):
        assert all(r.status == "proved" for r in prove(stated, prover=prover))


def test_a_plane_that_is_moved_is_refuted():
    rng = np.random.default_rng(3)
    recorder = Recorder()
    relaxation.relax_difference("sigmoid", boxes(rng, 20, 0.5), boxes(rng, 20, 0.1), "here", recorder)
    batch = recorder.batches[0]
    moved = 0.001 * (batch.hi - batch.lo)
    wrong = relaxation.RelaxationBatch(
        batch.kind, "here", batch.lower, batch.upper, batch.slopes, batch.lo + moved, batch.hi
    )
    assert all(r.status == "refuted" for r in prove(obligations([wrong])))


def test_picks_select_across_batches():
    rng = np.random.default_rng(4)
    recorder = Recorder()
    for _ in range(3):
        relaxation.relax("tanh", boxes(rng, 5, 0.5), "place", recorder)
    chosen = obligations(recorder.batches, np.array([0, 6, 14]))
    everything = obligations(recorder.batches)
    assert chosen == [everything[0], everything[6], everything[14]]
