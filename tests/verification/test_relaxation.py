"""Relaxations: images contain the function, and every recorded plane is a provable obligation."""

import numpy as np
import pytest

from codesign.proof import prove
from codesign.verification import relaxation
from codesign.verification.affine import Box, Form, Pool, combine
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
    pool = Pool()
    relaxation.product_residual(Form.from_box(z, pool, "z"), z, Form.from_box(d, pool, "d"), d, "product", recorder)
    for _ in range(200):
        at = z.lo + rng.random(z.lo.shape) * (z.hi - z.lo)
        by = d.lo + rng.random(d.lo.shape) * (d.hi - d.lo)
        y = relaxation.value(function, at)
        assert (np.abs(y - plane.slope * at - plane.mid) <= plane.rad).all()
        delta = relaxation.value(function, at + by) - y
        assert (np.abs(delta - diff.slope_z * at - diff.slope_d * by - diff.mid) <= diff.rad).all()
    stated = obligations(recorder.batches)
    assert len(stated) == count(recorder.batches) == 180
    assert {o.kind for o in stated} == {function, f"{function}_diff", "square_difference"}
    for prover in ("closed-form", "icp"):
        assert all(r.status == "proved" for r in prove(stated, prover=prover))


@pytest.mark.parametrize("seed", range(10))
def test_product_residuals_hold_and_use_correlation(seed):
    """(x - x0)(y - y0) stays inside for all symbol values; forms with shared symbols give less than the boxes."""
    rng = np.random.default_rng(seed)
    pool = Pool()
    source = Form.from_box(Box(-np.ones((1, 60)), np.ones((1, 60))), pool, "symbols")
    weights = rng.normal(size=(2, 60))
    x, y = (
        Form((w @ source.center.T).reshape(1, 1), (w @ source.generators[0])[None, None], np.full((1, 1), 1e-9))
        for w in weights
    )
    y = combine([(0.3, y)], 0.2)
    x_box, y_box = x.box, Box(y.box.lo, y.box.hi - 0.1 * (y.box.hi - y.box.lo))
    residual = relaxation.product_residual(x, x_box, y, y_box, "here", None)
    radius = (x_box.rad * y_box.rad)[0, 0]
    assert residual.hi[0, 0] < 0.9 * radius
    assert residual.lo[0, 0] > -0.9 * radius
    signs = [rng.choice([-1.0, 1.0], 60) for _ in range(2000)]
    signs += [np.sign(weights[0] + s * weights[1]) for s in (-2, -1, -0.5, 0.5, 1, 2)]
    for eps in signs:
        xv = x.center[0, 0] + x.generators[0, 0] @ eps
        yv = y.center[0, 0] + y.generators[0, 0] @ eps
        if not y_box.lo[0, 0] <= yv <= y_box.hi[0, 0]:
            continue
        product = (xv - x_box.mid[0, 0]) * (yv - y_box.mid[0, 0])
        assert residual.lo[0, 0] <= product <= residual.hi[0, 0]


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
