"""Single-network robustness: bounds hold on adversarial inputs, relaxations are provable, bad input is refused."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from codesign.cli.main import main
from codesign.errors import InputError
from codesign.network import evaluate
from codesign.network.evaluation import evaluate_layers
from codesign.network.model import Activation, Dense, FloatNetwork, Lstm, Reshape
from codesign.proof import curved_bounds
from codesign.quantization import Calibration
from codesign.text import proved_sentence
from codesign.verification.affine import Box
from codesign.verification.gradient import input_gradient
from codesign.verification.quadratic import (
    eigenvalue_bounds,
    largest_eigenvalue,
    parabola,
    sigmoid_tanh,
    sigmoid_times,
)
from codesign.verification.recurrent import Recurrent, recurrent, zonotope
from codesign.verification.regions import Region
from codesign.verification.relaxation import Recorder, value
from codesign.verification.robust import RobustOptions, float_bounds, float_twin, robust
from codesign.verification.second_order import SecondOrder


def lstm(rng: np.random.Generator, features: int, units: int, sequences: bool, size: float, name: str) -> Lstm:
    shapes = ((4, units, features), (4, units, units), (4, units))
    W, R, b = (rng.normal(0, size, s).astype(np.float32) for s in shapes)
    return Lstm(name, W, R, b, sequences)


def network(seed: int, steps: int = 4, features: int = 5, units: int = 6, layers: int = 1, size: float = 0.5):
    rng = np.random.default_rng(seed)
    sizes = [features] + [units] * layers
    lstms = [lstm(rng, sizes[k], units, k + 1 < layers, size, f"lstm{k}") for k in range(layers)]
    dense = Dense("dense", rng.normal(0, 1, (3, units)).astype(np.float32), np.zeros(3, np.float32), "softmax")
    return FloatNetwork("random", (steps, features), (*lstms, dense), "0" * 64, "test")


def region(rng: np.random.Generator, shape: tuple[int, int], radius: float) -> Region:
    center = rng.uniform(0, 1, shape)
    return Region("r", center, np.maximum(center - radius, 0.0), np.minimum(center + radius, 1.0), radius)


def attacked(net: FloatNetwork, box: Region, rng: np.random.Generator) -> np.ndarray:
    """Logits of random corners, and of gradient ascent on every logit and its negative."""
    size = box.hi - box.lo
    points = [np.where(rng.random((200, *box.lo.shape)) < 0.5, box.lo, box.hi)]
    weights = np.concatenate([np.eye(3), -np.eye(3)])
    x = np.repeat(box.center[None], 6, axis=0)
    for k in range(25):
        x = np.clip(x + 0.8**k * size * np.sign(input_gradient(net, x, weights)), box.lo, box.hi)
        points.append(x)
    return evaluate(net, np.concatenate(points), logits=True)


@pytest.mark.parametrize("mode", ["fast", "balanced", "tight"])
@pytest.mark.parametrize(("seed", "layers"), [(0, 1), (1, 1), (2, 2)])
def test_no_attack_leaves_the_bounds(mode: str, seed: int, layers: int) -> None:
    rng = np.random.default_rng(seed)
    net = network(seed, layers=layers)
    for radius in (0.0, 0.003, 0.03, 0.1, 0.4):
        box = region(rng, net.input_shape, radius)
        label = int(evaluate(net, box.center[None])[0].argmax())
        lower, upper, margins = float_bounds(recurrent(net), box, label, mode)  # type: ignore[arg-type]
        logits = attacked(net, box, rng)
        assert (logits >= lower - 1e-12).all()
        assert (logits <= upper + 1e-12).all()
        rivals = [k for k in range(3) if k != label]
        assert (logits[:, [label]] - logits[:, rivals] >= margins - 1e-12).all()


def every_step_read(head: str, seed: int) -> FloatNetwork:
    """Four steps of 6 units, all of which the logits depend on."""
    rng = np.random.default_rng(seed)

    def dense(name: str, outputs: int, inputs: int, activation: str = "linear") -> Dense:
        W, b = rng.normal(0, 0.6, (outputs, inputs)), rng.normal(0, 0.3, outputs)
        return Dense(name, W.astype(np.float32), b.astype(np.float32), activation)  # type: ignore[arg-type]

    net = network(seed, layers=1 if head == "flatten" else 2)
    lstms = (*net.layers[:-2], dataclasses.replace(net.layers[-2], return_sequences=True))
    if head == "flatten":
        rest = (Reshape("flat", (24,)), dense("classes", 3, 24, "softmax"))
    else:
        rest = (
            dense("each", 4, 6), Reshape("r", (2, 8)), dense("pairs", 5, 8), Reshape("same", (2, 5)),
            Activation("none", "linear"), Reshape("flat", (10,)), dense("classes", 3, 10),
        )  # fmt: skip
    return dataclasses.replace(net, layers=(*lstms, *rest))


@pytest.mark.parametrize("head", ["flatten", "stacked"])
def test_heads_that_read_every_step_are_one_readout(head: str) -> None:
    net = every_step_read(head, 30)
    merged = recurrent(net)
    assert (merged.read, merged.V.shape) == (4, (3, 24))
    x = np.random.default_rng(31).uniform(-1, 1, (50, 4, 5))
    hidden = evaluate_layers(net, x)[len(merged.cells) - 1].reshape(50, -1)
    gap = np.abs(hidden @ merged.V.T + merged.v - evaluate(net, x, logits=True))
    assert (gap <= merged.V_slack.sum(1) + merged.v_slack + 1e-14).all()
    if head == "flatten":
        np.testing.assert_array_equal(merged.V, net.layers[-1].W)
        assert not merged.V_slack.any()


@pytest.mark.parametrize("mode", ["fast", "balanced", "tight"])
@pytest.mark.parametrize("head", ["flatten", "stacked"])
def test_no_attack_leaves_the_bounds_of_heads_that_read_every_step(mode: str, head: str) -> None:
    rng = np.random.default_rng(32)
    net = every_step_read(head, 33)
    recorder = Recorder()
    for radius in (0.0, 0.01, 0.1, 0.4):
        box = region(rng, net.input_shape, radius)
        label = int(evaluate(net, box.center[None])[0].argmax())
        lower, upper, margins = float_bounds(recurrent(net), box, label, mode, recorder)  # type: ignore[arg-type]
        logits = attacked(net, box, rng)
        assert (logits >= lower - 1e-12).all()
        assert (logits <= upper + 1e-12).all()
        rivals = [k for k in range(3) if k != label]
        assert (logits[:, [label]] - logits[:, rivals] >= margins - 1e-12).all()
        if radius == 0.01:  # not by being wide
            assert (upper - lower).max() < 1.3 * (logits.max(0) - logits.min(0)).max() + 1e-3
    assert recorder.batches


def clipped(net: FloatNetwork, clip: float) -> FloatNetwork:
    layers = (dataclasses.replace(v, cell_clip=clip) if isinstance(v, Lstm) else v for v in net.layers)
    return dataclasses.replace(net, layers=tuple(layers))


def bounds_of(net: Recurrent, box: Region, label: int, mode: str) -> tuple[np.ndarray, ...]:
    return float_bounds(net, box, label, mode)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["fast", "balanced", "tight"])
@pytest.mark.parametrize("layers", [1, 2])
def test_cell_clips_that_cannot_act_change_nothing_and_others_are_modelled(mode: str, layers: int) -> None:
    rng = np.random.default_rng(34)
    net = network(35, steps=6, layers=layers, size=1.0)
    missed = 0
    for radius in (0.0, 0.02, 0.2):
        box = region(rng, net.input_shape, radius)
        label = int(evaluate(net, box.center[None])[0].argmax())
        plain = bounds_of(recurrent(net), box, label, mode)
        largest = max(np.abs(b.lo).max() for boxes in zonotope(recurrent(net), box.lo, box.hi).cells for b in boxes)
        largest = max(largest, max(b.hi.max() for v in zonotope(recurrent(net), box.lo, box.hi).cells for b in v))
        idle = bounds_of(recurrent(clipped(net, 1.001 * largest)), box, label, mode)
        for a, b in zip(plain, idle, strict=True):
            np.testing.assert_array_equal(a, b)
        acting = clipped(net, 0.4)
        lower, upper, margins = bounds_of(recurrent(acting), box, label, mode)
        logits = attacked(acting, box, rng)
        assert (logits >= lower - 1e-12).all()
        assert (logits <= upper + 1e-12).all()
        rivals = [k for k in range(3) if k != label]
        assert (logits[:, [label]] - logits[:, rivals] >= margins - 1e-12).all()
        assert np.isfinite(lower).all()
        # Without its clip the network has other bounds, which these logits leave: the clip counts.
        missed += int(((logits < plain[0]) | (logits > plain[1])).any())
    assert missed >= 1


def test_a_clip_that_only_second_order_bounds_rule_out_does_not_act() -> None:
    """Affine forms reach the clip, second-order bounds do not: they count, and agree with those of no clip."""
    rng = np.random.default_rng(36)
    net = network(37, steps=6, size=1.0)
    box = region(rng, net.input_shape, 0.25)
    plain, label = recurrent(net), int(evaluate(net, box.center[None])[0].argmax())
    first = zonotope(plain, box.lo, box.hi)
    second = SecondOrder(plain, box.lo, box.hi, "tight", first)
    reach = max(max(-b.lo.min(), b.hi.max()) for boxes in first.cells for b in boxes)
    clip = float(second.cell_size[0].max()) * 1.0001
    assert clip < reach
    assert zonotope(recurrent(clipped(net, clip)), box.lo, box.hi).clipped
    for a, b in zip(
        bounds_of(plain, box, label, "tight"),
        bounds_of(recurrent(clipped(net, clip)), box, label, "tight"),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    tighter = clipped(net, float(second.cell_size[0].max()) * 0.9)
    assert (bounds_of(recurrent(tighter), box, label, "tight")[0] != bounds_of(plain, box, label, "tight")[0]).any()


def test_gradients_stop_at_a_clip() -> None:
    net = clipped(network(38, steps=5, size=1.0), 0.3)
    rng = np.random.default_rng(39)
    x = rng.uniform(-1, 1, (4, 5, 5))
    weights = rng.normal(size=(4, 3))
    grad, step = input_gradient(net, x, weights), 1e-6
    for place in ((0, 0, 1), (1, 2, 3), (2, 4, 0), (3, 1, 2)):
        moved = [x.copy(), x.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        up, down = (float((evaluate(net, m, logits=True) * weights).sum()) for m in moved)
        assert grad[place] == pytest.approx((up - down) / (2 * step), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_flattened_sequences_are_certified_from_files(kind: str) -> None:
    from codesign.network import load_network
    from codesign.quantization import load_calibration, read_integer_network
    from codesign.semantics import dequantize, quantize_input, simulate_trace

    floats = load_network("tests/fixtures/flatten.float.tflite")
    assert floats.layers[0].cell_clip == 10.0  # type: ignore[union-attr]
    data = load_calibration("tests/fixtures/flatten.calib.npz", floats.input_shape)
    net = floats if kind == "float" else read_integer_network("tests/fixtures/flatten.tflite")
    result = robust(net, data, 0.01, 3, None, RobustOptions(mode="fast", proof="all"))
    assert result.count("robust") >= 1
    assert result.proof.ok
    rng = np.random.default_rng(40)
    ends = data.x.reshape(-1, 3).min(0), data.x.reshape(-1, 3).max(0)
    for r in result.regions:
        x = data.x[r.sample] + rng.choice([-0.00999, 0.0, 0.00999], (300, 12, 3))
        x = np.clip(x, *ends).astype(np.float32)
        if kind == "float":
            y = evaluate(floats, x, logits=True)
        else:
            trace = simulate_trace(net, quantize_input(net, x))  # type: ignore[arg-type]
            y = dequantize(net.ops[-2].output, trace.outputs[-2])  # type: ignore[union-attr]
        assert (y >= r.lower - 1e-9).all()
        assert (y <= r.upper + 1e-9).all()


@pytest.mark.parametrize("mode", ["fast", "balanced", "tight"])
def test_wide_regions_and_many_steps_give_finite_bounds(mode: str) -> None:
    # Remainders enter squared: without a limit they pass float64's range within sixteen steps.
    rng = np.random.default_rng(8)
    net = network(8, steps=18, features=3, layers=2, size=1.5)
    box = region(rng, net.input_shape, 5.0)
    label = int(evaluate(net, box.center[None])[0].argmax())
    lower, upper, margins = float_bounds(recurrent(net), box, label, mode)  # type: ignore[arg-type]
    assert np.isfinite([lower, upper]).all()
    assert np.isfinite(margins).all()
    logits = attacked(net, box, rng)
    assert (logits >= lower).all()
    assert (logits <= upper).all()


def test_second_order_is_tighter_than_affine_forms_and_scales_with_the_square_of_the_radius() -> None:
    net = recurrent(network(3, steps=5, features=20, units=8))
    excess = []
    for radius in (0.005, 0.01, 0.02):
        box = region(np.random.default_rng(9), (5, 20), radius)
        lo, hi = box.center - radius, box.center + radius
        first = zonotope(net, lo, hi)
        tight = SecondOrder(net, lo, hi, "tight", first).functionals(net.V, net.v, net.V_slack, net.v_slack)
        balanced = SecondOrder(net, lo, hi, "balanced", first).functionals(net.V, net.v, net.V_slack, net.v_slack)
        fast = SecondOrder(net, lo, hi, "fast", first).functionals(net.V, net.v, net.V_slack, net.v_slack)
        assert (balanced.above + balanced.below).mean() < (fast.above + fast.below).mean()
        assert (tight.above + tight.below <= fast.above + fast.below + 1e-12).all()
        assert (tight.box.hi - tight.box.lo).mean() < (first.logits.hi - first.logits.lo).mean()
        excess.append(float((tight.above + tight.below).mean()))
    assert 3.0 < excess[1] / excess[0] < 8.0
    assert 3.0 < excess[2] / excess[1] < 8.0


@pytest.mark.parametrize("function", ["sigmoid", "tanh"])
def test_parabolas_enclose_the_function(function: str) -> None:
    rng = np.random.default_rng(5)
    lo = rng.uniform(-6, 6, 400)
    hi = lo + np.exp(rng.uniform(np.log(1e-9), np.log(8), 400))
    center = lo + (hi - lo) * rng.uniform(-0.2, 1.2, 400)
    p = parabola(function, Box(lo, hi), center)  # type: ignore[arg-type]
    z = lo + (hi - lo) * np.linspace(0, 1, 999)[:, None]
    d = z - center
    residual = value(function, z) - (p.s0 + p.s1 * d + p.s2 * d * d)  # type: ignore[arg-type]
    assert (residual >= p.residual.lo).all()
    assert (residual <= p.residual.hi).all()
    reached = residual.max(0) - residual.min(0)
    wide = hi - lo > 0.1
    assert (p.residual.hi - p.residual.lo)[wide].max() <= 1.6 * reached[wide].max()


def test_second_derivatives_and_their_lipschitz_constants() -> None:
    # tanh is sigmoid on doubled arguments in codesign.proof.curved_bounds
    z = np.linspace(-9, 9, 20001)
    step = 1e-4
    f = [value("sigmoid", z + k * step) for k in (-1, 0, 1)]
    numeric = (f[0] - 2 * f[1] + f[2]) / step**2
    second = curved_bounds._sigmoid_bend(z)
    assert np.abs(numeric - second).max() < 1e-6
    assert np.abs(np.diff(second) / np.diff(z)).max() < 1.0001 * curved_bounds.THIRD_DERIVATIVE
    third = curved_bounds.third_derivative(z[:-1], z[1:])
    assert (np.abs(np.diff(second) / np.diff(z)) <= third + 1e-9).all()


@pytest.mark.parametrize("relax", [sigmoid_times, sigmoid_tanh])
def test_patches_enclose_products(relax) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(6)
    n = 300
    ul, vl = rng.uniform(-4, 4, n), rng.uniform(-3, 3, n)
    uh, vh = (low + np.exp(rng.uniform(np.log(1e-6), np.log(3), n)) for low in (ul, vl))
    u0, v0 = ul + (uh - ul) * rng.random(n), vl + (vh - vl) * rng.random(n)
    patch = relax(Box(ul, uh), u0, Box(vl, vh), v0, "", None)
    s, t = (a.reshape(-1, 1) for a in np.meshgrid(np.linspace(0, 1, 41), np.linspace(0, 1, 41)))
    u, v = ul + (uh - ul) * s, vl + (vh - vl) * t
    du, dv = u - u0, v - v0
    exact = value("sigmoid", u) * (np.tanh(v) if relax is sigmoid_tanh else v)
    quu, quv, qvv = patch.q
    model = patch.k + patch.a * du + patch.b * dv + quu * du**2 + quv * du * dv + qvv * dv**2
    assert (np.abs(exact - model) <= patch.rad + 1e-13).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_eigenvalue_bounds_hold_and_are_close(dtype: type) -> None:
    rng = np.random.default_rng(7)
    for n in (1, 2, 7, 60, 200):
        for rank in (1, 3, n):
            factors, signs = rng.normal(size=(n, rank)), rng.choice([-1.0, 1.0], rank)
            matrix = ((factors * signs) @ factors.T).astype(dtype)
            matrix = (0.5 * (matrix + matrix.T)).astype(dtype)
            exact = np.linalg.eigvalsh(matrix.astype(np.float64))
            high, low = eigenvalue_bounds(matrix)
            scale = np.abs(exact).max()
            assert max(exact[-1], 0) <= high <= max(exact[-1], 0) * 1.25 + 0.07 * scale * np.sqrt(rank) + 1e-9
            assert max(-exact[0], 0) <= low <= max(-exact[0], 0) * 1.25 + 0.07 * scale * np.sqrt(rank) + 1e-9
            assert largest_eigenvalue(matrix) >= exact[-1]
    assert eigenvalue_bounds(np.zeros((3, 3))) == (0.0, 0.0)


def test_a_wrong_estimate_cannot_lower_an_eigenvalue_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanczos is heuristic; only the Cholesky factorisation is trusted."""
    from codesign.verification import quadratic

    monkeypatch.setattr(quadratic, "_lanczos", lambda matrix, steps: (0.0, 0.0))
    factors = np.random.default_rng(8).normal(size=(30, 5))
    matrix = factors @ factors.T
    assert eigenvalue_bounds(matrix)[0] >= np.linalg.eigvalsh(matrix)[-1]


def test_relaxations_are_discharged_by_branch_and_bound_and_wrong_ones_are_refuted() -> None:
    from codesign.proof import prove
    from codesign.verification.audit import obligations

    net = recurrent(network(11))
    box = region(np.random.default_rng(11), (4, 5), 0.05)
    recorder = Recorder()
    first = zonotope(net, box.lo, box.hi, recorder)
    SecondOrder(net, box.lo, box.hi, "fast", first, recorder)
    batches = [b for b in recorder if b.kind in ("sigmoid_square", "tanh_square")]
    assert {b.kind for b in batches} == {"sigmoid_square", "tanh_square"}
    chosen = obligations(batches)[::3]
    assert len(chosen) > 20
    assert all(r.status == "proved" for r in prove(chosen, prover="auto"))
    narrow = [dataclasses.replace(o, hi=o.lo + 0.5 * (o.hi - o.lo)) for o in chosen if o.hi - o.lo > 1e-7][:5]
    assert narrow
    assert all(r.status == "refuted" for r in prove(narrow, prover="icp"))


def samples(net: FloatNetwork, count: int, seed: int) -> Calibration:
    x = np.random.default_rng(seed).uniform(0, 1, (count, *net.input_shape)).astype(np.float32)
    return Calibration(x, evaluate(net, x).argmax(-1))


def test_statuses_are_robust_for_small_and_refuted_for_large_radii() -> None:
    net = network(12)
    data = samples(net, 6, 12)
    options = RobustOptions(mode="fast")
    small = robust(net, data, 1e-5, 6, (0.0, 1.0), options)
    assert [r.status for r in small.regions] == ["robust"] * 6
    assert small.proof.checked == small.proof.emitted > 0
    assert small.proof.ok
    large = robust(net, data, 1.0, 6, (0.0, 1.0), options)
    assert large.count("refuted") >= 1
    assert large.count("robust") == 0
    for r in large.regions:
        if r.counterexample is not None:
            assert evaluate(net, r.counterexample[None])[0].argmax() != r.label
            assert (r.counterexample >= 0).all()
            assert (r.counterexample <= 1).all()


def test_misclassified_samples_are_left_out() -> None:
    net = network(13)
    data = samples(net, 6, 13)
    assert data.y is not None
    wrong = data.y.copy()
    wrong[[0, 3]] = (wrong[[0, 3]] + 1) % 3
    result = robust(net, Calibration(data.x, wrong), 1e-4, 10, (0.0, 1.0), RobustOptions(mode="fast"))
    assert [r.sample for r in result.regions] == [1, 2, 4, 5]


def test_integer_network_bounds_hold_on_its_exact_simulation() -> None:
    from codesign.quantization import load_calibration, read_integer_network
    from codesign.semantics import dequantize, quantize_input, simulate

    net = read_integer_network("tests/fixtures/logits.tflite")
    data = load_calibration("tests/fixtures/logits.calib.npz", net.input.shape)  # type: ignore[arg-type]
    radius = net.input.scale
    result = robust(net, data, radius, 4, None, RobustOptions(mode="fast"))
    assert result.kind == "int8"
    assert result.count("robust") >= 1
    rng = np.random.default_rng(14)
    flat = data.x.reshape(-1, data.x.shape[2])
    for r in result.regions:
        x = data.x[r.sample] + rng.choice([-radius, 0.0, radius], (300, *data.x.shape[1:])) * 0.999
        x = np.clip(x, flat.min(0), flat.max(0)).astype(np.float32)
        q = simulate(net, quantize_input(net, x))
        y = dequantize(net.output, q)
        assert (y >= r.lower - 1e-9).all()
        assert (y <= r.upper + 1e-9).all()
        if r.status == "robust":
            assert (q.argmax(-1) == r.label).all()


def test_float_twin_has_the_integer_networks_weights() -> None:
    from codesign.quantization import load_calibration, read_integer_network
    from codesign.semantics import dequantize, quantize_input, simulate

    net = read_integer_network("tests/fixtures/tiny.tflite")
    data = load_calibration("tests/fixtures/tiny.calib.npz", net.input.shape)  # type: ignore[arg-type]
    y = dequantize(net.output, simulate(net, quantize_input(net, data.x)))
    assert np.abs(evaluate(float_twin(net), data.x) - y).max() < 0.15


def test_unsupported_networks_and_bad_arguments_are_refused() -> None:
    net = network(15)
    data = samples(net, 3, 15)
    with pytest.raises(InputError, match="dense"):
        recurrent(
            dataclasses.replace(net, layers=(*net.layers[:-1], dataclasses.replace(net.layers[-1], activation="relu")))
        )
    with pytest.raises(InputError, match="LSTM"):
        recurrent(dataclasses.replace(net, layers=(net.layers[-1],)))
    every_step = dataclasses.replace(net.layers[0], return_sequences=True)
    with pytest.raises(InputError, match=r"shape \(4, 3\).*one class a sample"):
        recurrent(dataclasses.replace(net, layers=(every_step, net.layers[-1])))
    second = dataclasses.replace(network(16, features=12).layers[0], name="second")
    with pytest.raises(InputError, match="'second' is not supported"):
        recurrent(dataclasses.replace(net, layers=(every_step, Reshape("r", (2, 12)), second, net.layers[-1])))
    with pytest.raises(InputError, match="not supported"):
        recurrent(dataclasses.replace(net, layers=(net.layers[0], Activation("a", "relu"), net.layers[-1])))
    with pytest.raises(InputError, match="samples"):
        robust(net, data, 0.1, 0)
    with pytest.raises(InputError, match="radius"):
        robust(net, data, float("nan"), 1)
    assert data.y is not None
    with pytest.raises(InputError, match="correctly"):
        robust(net, Calibration(data.x, (data.y + 1) % 3), 0.1, 1)


def test_command() -> None:
    runner = CliRunner()
    arguments = ["robust", "tests/fixtures/tiny.h5", "--radius", "0.001", "--samples", "3", "--mode", "fast"]
    result = runner.invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["summary"]["regions"] == 3
    assert document["summary"]["robust"] == 3
    told = runner.invoke(main, arguments).stdout
    assert proved_sentence(document["proof"]) in told
    assert document["proof"]["obligations"] == document["proof"]["proved"] > 0
    for mode in ("audit", "none"):
        assert runner.invoke(main, [*arguments, "--prove", mode]).exit_code == 1
    again = runner.invoke(main, [*arguments, "--json", "--jobs", "2"])
    assert [r["margin_lower"] for r in json.loads(again.stdout)["regions"]] == [
        r["margin_lower"] for r in document["regions"]
    ]
    text = runner.invoke(main, arguments)
    assert text.exit_code == 0
    assert "3 of 3 robust" in text.stdout
    refused = runner.invoke(main, ["robust", "tests/fixtures/tiny.h5", "--radius", "1lsb"])
    assert refused.exit_code == 2
