"""Quadratic zonotopes: enclosure of exact differences, tightness, proof obligations, limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.network import load_network
from codesign.network.model import FloatNetwork
from codesign.proof import curved_bounds, prove
from codesign.quantization import IntegerNetwork, load_calibration, read_integer_network
from codesign.quantization.align import align
from codesign.semantics import quantize_input
from codesign.verification import Options, ball, certify, curved, input_domain, quadratic_network, search
from codesign.verification.affine import Box, Matrix, Pool
from codesign.verification.audit import obligations
from codesign.verification.propagate import propagate
from codesign.verification.quadratic_forms import Product, QuadraticForm, Symbols, combine, linear_map, reset_wide
from codesign.verification.quadratic_network import quadratic_bounds, refusal
from codesign.verification.regions import Region
from codesign.verification.relaxation import Recorder

FIXTURES = Path(__file__).parent.parent / "fixtures"


def _models(name: str, activations: str) -> tuple[FloatNetwork, IntegerNetwork]:
    file = f"{name}.int16.tflite" if activations == "int16" else f"{name}.tflite"
    return load_network(FIXTURES / f"{name}.h5"), read_integer_network(FIXTURES / file)


def _regions(network: FloatNetwork, name: str, radius: float, count: int) -> list[Region]:
    data = load_calibration(FIXTURES / f"{name}.calib.npz", network.input_shape)
    domain = input_domain(data.x)
    return [ball(str(k), data.x[k], radius, domain) for k in range(count)]


def _differences(
    network: FloatNetwork, integer: IntegerNetwork, region: Region, rng: np.random.Generator
) -> np.ndarray:
    """Largest |integer - float| logits met: the adversarial search's, which is about outputs before a softmax too."""
    return search(network, integer, region, rng, 1500).logit_error


@pytest.mark.parametrize("activations", ["int8", "int16"])
@pytest.mark.parametrize(("name", "radius"), [("logits", 0.02), ("logits", 0.3), ("tiny", 0.05), ("stacked", 0.1)])
def test_it_encloses_what_adversarial_search_reaches(name: str, radius: float, activations: str) -> None:
    network, integer = _models(name, activations)
    stages = align(network, integer)
    for k, region in enumerate(_regions(network, name, radius, 2)):
        bounds = quadratic_bounds(stages, integer, region)
        reached = _differences(network, integer, region, np.random.default_rng(k))
        assert reached <= bounds.difference.mag.max()
        assert reached > 0


@pytest.mark.parametrize("radius", [0.0, 0.01, 0.5, 4.0])
def test_every_output_of_random_and_corner_inputs_is_inside(radius: float) -> None:
    from codesign.network import evaluate
    from codesign.semantics import dequantize, simulate

    network, integer = _models("logits", "int8")
    region = _regions(network, "logits", radius, 1)[0]
    bounds = quadratic_bounds(align(network, integer), integer, region)
    rng = np.random.default_rng(3)
    x = region.lo + (region.hi - region.lo) * np.concatenate(
        [rng.random((200, *region.lo.shape)), rng.integers(0, 2, (200, *region.lo.shape))]
    )
    x = x.astype(np.float32).astype(np.float64).clip(region.lo, region.hi)
    exact = evaluate(network, x)
    difference = dequantize(integer.output, simulate(integer, quantize_input(integer, x.astype(np.float32)))) - exact
    assert (bounds.difference.lo <= difference).all()
    assert (difference <= bounds.difference.hi).all()
    assert (bounds.logits.lo <= exact).all()
    assert (exact <= bounds.logits.hi).all()
    for i in range(exact.shape[1]):
        for j in range(exact.shape[1]):
            if i != j:
                m = bounds.margins[0]
                for box, value in ((m.value, exact), (m.difference, difference), (m.integer, exact + difference)):
                    gap = value[:, i] - value[:, j]
                    assert box.lo[0, i, j] <= gap.min()
                    assert gap.max() <= box.hi[0, i, j]


def test_it_is_tighter_where_the_zonotope_loosens() -> None:
    network, integer = _models("logits", "int16")
    region = _regions(network, "logits", 0.03, 1)[0]
    stages = align(network, integer)
    zonotope = propagate(stages, integer, [region]).logit_difference.mag.max()
    quadratic = quadratic_bounds(stages, integer, region).difference.mag.max()
    assert quadratic < 0.6 * zonotope


def test_certify_takes_the_better_bound_and_records_both_sets_of_choices() -> None:
    network, integer = _models("tiny", "int8")
    regions = _regions(network, "tiny", 0.1, 5)
    plain = certify(network, integer, regions, Options(evaluations=50))
    sharp = certify(network, integer, regions, Options(evaluations=50, method="quadratic", proof="all"))
    for a, b in zip(plain.regions, sharp.regions, strict=True):
        assert (b.bound <= a.bound).all()
        assert b.bound_max < a.bound_max
        assert a.trace is not None
        assert b.trace is not None
        assert b.trace.steps[: len(a.trace.steps)] == a.trace.steps
        kinds = {kind for kind, _, _ in b.trace.steps}
        assert {"sigmoid_square", "tanh_square", "sigmoid_patch", "tanh_patch"} <= kinds
    assert sharp.proof.emitted > plain.proof.emitted
    assert sharp.proof.ok
    assert sharp.proof.checked == sharp.proof.emitted
    two = certify(network, integer, regions, Options(evaluations=50, method="quadratic", proof="none", jobs=2))
    assert [r.bound.tolist() for r in two.regions] == [r.bound.tolist() for r in sharp.regions]


@pytest.mark.parametrize(("name", "word"), [("acts", "layer"), ("sequence", "GiB")])
def test_what_it_does_not_apply_to_is_said(name: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, integer = _models(name, "int8")
    if word == "GiB":
        monkeypatch.setattr(quadratic_network, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match=f"(?s){word}.*use --method zonotope"):
        certify(network, integer, _regions(network, name, 0.01, 1), Options(method="quadratic"))


def test_it_applies_to_lstms_dense_layers_and_relus() -> None:
    for name in ("tiny", "logits", "stacked", "sequence", "timedist", "flatten", "reshaped"):
        assert refusal(align(*_models(name, "int8")), 8, 32, 32) is None


def test_fixed_inputs_have_no_symbol_and_do_not_count_against_the_limit() -> None:
    network, integer = _models("logits", "int8")
    data = load_calibration(FIXTURES / "logits.calib.npz", network.input_shape)
    steps = network.input_shape[0]
    for free_from in (steps - 1, steps):
        region = ball("fixed", data.x[0], 0.05, input_domain(data.x), min(free_from, steps - 1))
        if free_from == steps:
            region = ball("point", data.x[0], 0.0, input_domain(data.x))
        pairs = quadratic_network._inputs(region, integer, Pool())
        assert pairs[0].value.inputs == int((region.lo < region.hi).sum())
        bounds = quadratic_bounds(align(network, integer), integer, region)
        reached = _differences(network, integer, region, np.random.default_rng(1))
        assert reached <= bounds.difference.mag.max()


def test_the_whole_domain_is_refused() -> None:
    from codesign import api

    network, integer = _models("tiny", "int8")
    data = load_calibration(FIXTURES / "tiny.calib.npz", network.input_shape)
    with pytest.raises(InputError, match="leave out --method"):
        api.certify(network, integer, data, region="domain", options=Options(method="quadratic"))


def _point(form: QuadraticForm, symbols: np.ndarray, slack: np.ndarray) -> np.ndarray:
    """The form's value at symbols (K,) and s (S,), without its error term."""
    x = symbols[: form.inputs]
    products = np.einsum("nik,i,k->n", form.quadratic, x, symbols[: form.quadratic.shape[2]])
    return (
        form.center
        + form.linear @ symbols[: form.linear.shape[1]]
        + products
        + form.extra @ slack[: form.extra.shape[1]]
    )


def test_reset_replaces_only_wide_forms() -> None:
    symbols = Symbols(Pool(size=2))
    zero = np.zeros((2, 2, 0)), np.zeros((2, 0)), np.zeros(2)
    x = QuadraticForm(np.zeros(2), np.diag([5.0, 1.0]), *zero)
    y = reset_wide(x, Box(np.array([[-1.0, -1.0]]), np.array([[1.0, 1.0]])), symbols, slack=False)
    np.testing.assert_allclose(y.radius, [1.0, 1.0], rtol=1e-9)
    assert y.linear[1, 1] == x.linear[1, 1]
    assert y.linear[0, 0] == 0.0
    assert reset_wide(x, x.box, symbols, slack=False) is x


def test_forms_enclose_their_own_points() -> None:
    rng = np.random.default_rng(0)
    n, X, K, S = 4, 3, 7, 2

    def random_form() -> QuadraticForm:
        return QuadraticForm(
            rng.normal(size=n), rng.normal(size=(n, K)), 0.3 * rng.normal(size=(n, X, K)), rng.normal(size=(n, S)),
            np.zeros(n),
        )  # fmt: skip

    for _ in range(30):
        u, v = random_form(), random_form()
        symbols = Symbols(Pool(size=K), Pool(size=S))
        a = rng.normal(size=n)
        for width, slack in ((None, False), (X, True), (0, False)):
            out = combine(
                [(a, u), (1.0, v)],
                [Product(0.5, u, v, width)],
                Box(-np.ones((1, n)), np.ones((1, n))),
                symbols,
                "t",
                slack,
            )
            mapped = linear_map([(Matrix.exact(rng.normal(size=(2, n))), u)], np.ones(2))
            for _ in range(40):
                e, s = rng.choice([-1.0, 1.0], K), rng.choice([-1.0, 1.0], S)
                values = [_point(f, e, s) for f in (u, v)]
                exact = a * values[0] + values[1] + 0.5 * (values[0] - u.center) * (values[1] - v.center)
                # the fresh symbol covers what the product drops and the constant
                own = _point(
                    QuadraticForm(out.center, out.linear[:, :K], out.quadratic, out.extra[:, :S], out.error), e, s
                )
                fresh = (out.extra if slack else out.linear)[:, -n:].diagonal()
                assert (np.abs(exact - own) + 1.0 <= fresh + 1e-9).all()
                for form, value in ((u, values[0]), (mapped, _point(mapped, e, s))):
                    for box in (form.box, form.tight_box):
                        assert (box.lo[0] <= value).all()
                        assert (value <= box.hi[0]).all()
            assert (out.tight_box.rad <= out.box.rad * (1 + 1e-12)).all()


@pytest.mark.parametrize("function", ["sigmoid", "tanh"])
def test_curved_residuals_hold_on_dense_grids_and_are_proved(function: str) -> None:
    rng = np.random.default_rng(5)
    f = np.tanh if function == "tanh" else lambda z: 1 / (1 + np.exp(-z))
    n = 60
    zm, dm = rng.normal(0, 2, (1, n)), rng.normal(0, 0.1, (1, n))
    zr, dr = 10.0 ** rng.uniform(-6, 0.6, (1, n)), 10.0 ** rng.uniform(-7, 0, (1, n))
    z, d = Box(zm - zr, zm + zr), Box(dm - dr, dm + dr)
    recorder = Recorder()
    c = curved.curve(function, z, "here", recorder)  # type: ignore[arg-type]
    p = curved.patch(function, z, d, "there", recorder)  # type: ignore[arg-type]
    u = np.linspace(0, 1, 41)[:, None, None, None]
    v = np.linspace(0, 1, 41)[None, :, None, None]
    at, by = z.lo + u * (z.hi - z.lo), d.lo + v * (d.hi - d.lo)
    left = f(at) - c.slope * at - c.curve * at**2
    assert (left >= c.residual.lo).all()
    assert (left <= c.residual.hi).all()
    left = f(at + by) - f(at) - p.slope_z * at - p.slope_d * by - p.cross * at * by
    assert (left >= p.residual.lo).all()
    assert (left <= p.residual.hi).all()
    spread = (left.max((0, 1)) - left.min((0, 1))) / (p.residual.hi - p.residual.lo)
    assert np.median(spread) > 0.9
    facts = obligations(recorder.batches)
    assert {o.kind for o in facts} == {f"{function}_square", f"{function}_patch"}
    assert all(result.status == "proved" for result in prove(facts, "icp"))


def test_random_coefficients_hold_too() -> None:
    rng = np.random.default_rng(6)
    for _ in range(200):
        zl, dl = rng.normal(0, 3), rng.normal(0, 0.5)
        zu, du = zl + rng.exponential(1.0), dl + rng.exponential(0.2)
        a, b, g = rng.normal(0, 0.3, 3)
        z, d = np.meshgrid(np.linspace(zl, zu, 61), np.linspace(dl, du, 31))
        lo, hi = curved_bounds.tanh_patch_residual(zl, zu, dl, du, a, b, g)
        left = np.tanh(z + d) - np.tanh(z) - a * z - b * d - g * z * d
        assert lo <= left.min()
        assert left.max() <= hi
        lo, hi = curved_bounds.tanh_square_residual(zl, zu, a, b)
        left = np.tanh(z) - a * z - b * z * z
        assert lo <= left.min()
        assert left.max() <= hi
