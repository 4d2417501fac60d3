"""Every kind of region: what it holds, that its bounds hold on the exact simulation, files that state it, bad ones."""

import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_pairs import random_pair

from codesign.errors import InputError
from codesign.network import evaluate
from codesign.proof.ranges import output_ranges
from codesign.quantization import Calibration
from codesign.quantization.align import align
from codesign.semantics import dequantize, quantize_input, simulate, simulate_trace
from codesign.verification import (
    Neighbourhood,
    ball,
    domain_region,
    grid_ball,
    input_domain,
    noisy,
    parse_radius,
    search,
    select,
)
from codesign.verification.abstract import abstract_lower
from codesign.verification.facts import facts
from codesign.verification.norms import class_margins
from codesign.verification.propagate import propagate, top1_proved
from codesign.verification.region_files import load_noise, load_regions

NAMES = ["tiny", "logits", "stacked", "sequence", "timedist", "acts", "flatten", "reshaped"]


def draw(region, tensor, rng, count):
    """Float inputs of a region: corners and uniform; grid points and their float32 roundings."""
    share = rng.random((count, *region.lo.shape))
    share[::2] = np.round(share[::2])
    x = region.lo + share * (region.hi - region.lo)
    if region.kind != "grid":
        low, high = (end.astype(np.float32) for end in (region.lo, region.hi))
        x = np.clip(x.astype(np.float32), low, high)
        inside = ((x >= region.lo) & (x <= region.hi)).all((1, 2))
        return x[inside]
    x = np.rint(x / tensor.scale) * tensor.scale
    return np.concatenate([x, x.astype(np.float32).astype(np.float64)])


def every_kind(integer, x, domain, rng):
    steps, features = x.shape
    scale = integer.input.scale
    free = int(rng.integers(steps))
    return [
        ball("ball", x, 2 * scale, domain),
        ball("suffix", x, 3 * scale, domain, free),
        noisy("feature noise", x, rng.uniform(0, 3 * scale, features), domain),
        noisy("step noise", x, rng.uniform(0, 3 * scale, (steps, features)), domain, free),
        grid_ball("grid", x, 2, integer.input),
        grid_ball("grid suffix", x, 1, integer.input, free),
        grid_ball("point", x, 0, integer.input),
        domain_region(domain, steps),
    ]


def check_bounds(network, integer, regions, rng, count=150):
    """Bounds, norms, step bounds and margins against the exact simulation."""
    enclosure = propagate(align(network, integer), integer, regions)
    _, winners = top1_proved(enclosure)
    for k, region in enumerate(regions):
        x = draw(region, integer.input, rng, count)
        if region.kind == "grid":  # what the device is given are integers
            q = np.rint(x / integer.input.scale).astype(int) + integer.input.zero_point
            np.testing.assert_array_equal(quantize_input(integer, x), q)
        device = quantize_input(integer, x)
        exact = evaluate(network, x)
        real = dequantize(integer.output, simulate(integer, device))
        d = (real - exact).reshape(len(x), -1)
        lo, hi = enclosure.output_difference.lo[k], enclosure.output_difference.hi[k]
        assert ((d >= lo) & (d <= hi)).all(), region.name
        bound, logit = (
            np.maximum(-box.lo[k], box.hi[k]) for box in (enclosure.output_difference, enclosure.logit_difference)
        )
        margins = class_margins(enclosure.margins, enclosure.output_margins, winners[k], k)
        told = facts(enclosure, k, bound, logit, margins)
        assert np.abs(d).max() <= told.norms.linf
        assert np.sqrt((d**2).sum(1)).max() <= told.norms.l2 <= np.sqrt((bound**2).sum()) * (1 + 1e-9) + 1e-280
        assert np.abs(d).sum(1).max() <= told.norms.l1 <= bound.sum() * (1 + 1e-9) + 1e-280
        check_steps(network, integer, x, device, told)
        check_margins(network, integer, x, device, told)
    return enclosure


def check_steps(network, integer, x, device, told):
    from codesign.network import Lstm, evaluate_layers
    from codesign.quantization import IntLstm

    hidden = [
        h for layer, h in zip(network.layers, evaluate_layers(network, x), strict=True) if isinstance(layer, Lstm)
    ]
    traced = [
        dequantize(op.output, out)
        for op, out in zip(integer.ops, simulate_trace(integer, device).outputs, strict=True)
        if isinstance(op, IntLstm)
    ]
    assert len(hidden) == len(traced) == len(told.step_bound)
    for real, exact, bound in zip(traced, hidden, told.step_bound, strict=True):
        assert (np.abs(real - exact).max((0, 2)) <= bound).all()


def check_margins(network, integer, x, device, told):
    exact = evaluate(network, x)
    real = dequantize(integer.output, simulate(integer, device))
    logits = evaluate(network, x, logits=True)
    classes = exact.shape[-1]
    softmax = logits.max() != exact.max() or logits.min() != exact.min()
    for row, margin in enumerate(told.margins):
        winner = margin["class"]
        rest = np.arange(classes) != winner
        f, q, z = (v.reshape(len(x), -1, classes)[:, row] for v in (exact, real, logits))
        assert (z[:, winner] - z[:, rest].max(1)).min() >= margin["float_logit"]
        if softmax:
            assert (f[:, winner] - f[:, rest].max(1)).min() >= margin["float_probability"] - 1e-12
            assert (q[:, winner] - q[:, rest].max(1)).min() >= margin["integer_probability"] - 1e-12
        else:
            assert (q[:, winner] - q[:, rest].max(1)).min() >= margin["integer_logit"]


@pytest.mark.parametrize("gain", [0.3, 1.0, 20.0])
def test_random_networks_stay_within_their_bounds(gain):
    rng = np.random.default_rng(11)
    for seed in range(8):
        network, integer = random_pair(seed, gain)
        steps, features = integer.input.shape
        scale, zero = integer.input.scale, integer.input.zero_point
        domain = (np.full(features, scale * (-128 - zero)), np.full(features, scale * (127 - zero)))
        x = rng.uniform(domain[0], domain[1], (steps, features)).astype(np.float32)
        check_bounds(network, integer, every_kind(integer, x, domain, rng), rng)


@pytest.mark.parametrize("name", [*NAMES, "tiny.int16"])
def test_fixtures_stay_within_their_bounds(name, pair):
    network, integer, data = pair(name)
    rng = np.random.default_rng(12)
    regions = every_kind(integer, data.x[0], input_domain(data.x), rng)
    enclosure = check_bounds(network, integer, regions, rng)
    size = np.maximum(-enclosure.output_difference.lo, enclosure.output_difference.hi).max(1)
    by_name = {region.name: s for region, s in zip(regions, size, strict=True)}
    assert by_name["suffix"] <= by_name["domain"]
    assert by_name["point"] < by_name["grid"]


def test_the_grid_has_no_input_rounding(pair):
    """The same box: on the grid the bound is smaller, since half a step of input rounding is gone."""
    network, integer, data = pair("logits")
    scale = integer.input.scale
    wide = (np.full(integer.input.shape[1], -1e3), np.full(integer.input.shape[1], 1e3))
    grid = grid_ball("grid", data.x[0], 1, integer.input)
    box = ball("ball", grid.center.astype(np.float32), scale, wide)
    enclosure = propagate(align(network, integer), integer, [grid, box])
    bound = np.maximum(-enclosure.logit_difference.lo, enclosure.logit_difference.hi).max(1)
    assert bound[0] < 0.95 * bound[1]


@pytest.mark.parametrize("name", ["tiny", "logits", "sequence", "timedist", "flatten", "reshaped"])
def test_search_stays_inside_and_below_the_bound(name, pair):
    network, integer, data = pair(name)
    rng = np.random.default_rng(13)
    for region in every_kind(integer, data.x[1], input_domain(data.x), rng):
        found = search(network, integer, region, rng, 400)
        x = found.worst.astype(np.float64)
        if region.kind == "grid":
            steps = x / integer.input.scale
            assert np.abs(steps - np.rint(steps)).max() < 1e-4
            assert np.abs(np.rint(steps) * integer.input.scale - x).max() <= 2.0**-24 * np.abs(x).max()
        else:
            assert ((x >= region.lo) & (x <= region.hi)).all()
        if region.free_from:
            fixed = slice(0, region.free_from)
            np.testing.assert_allclose(x[fixed], region.center[fixed], rtol=1e-7)
        enclosure = propagate(align(network, integer), integer, [region])
        bound = np.maximum(-enclosure.output_difference.lo[0], enclosure.output_difference.hi[0])
        assert (found.per_output <= bound).all()
        lower = abstract_lower(align(network, integer), integer, region, rng)
        logit = np.maximum(-enclosure.logit_difference.lo[0], enclosure.logit_difference.hi[0])
        assert found.logit_error <= logit.max()
        assert lower is not None
        assert (lower <= logit).all()
        assert lower.max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_regions_left_out_have_the_bound_of_the_output_ranges(name, pair):
    network, integer, data = pair(name)
    region = domain_region(input_domain(data.x), integer.input.shape[0])
    before, after = output_ranges(align(network, integer), integer)
    rng = np.random.default_rng(14)
    x = rng.uniform(region.lo, region.hi, (300, *region.lo.shape)).astype(np.float32)
    x = np.clip(x, region.lo.astype(np.float32), region.hi.astype(np.float32))
    exact = evaluate(network, x).reshape(300, -1)
    d = dequantize(integer.output, simulate(integer, quantize_input(integer, x))).reshape(300, -1) - exact
    assert exact.shape[1:] == before.difference[0].shape == after.difference[0].shape
    assert ((d >= after.difference[0]) & (d <= after.difference[1])).all()
    assert ((exact >= after.real[0]) & (exact <= after.real[1])).all()


def test_what_regions_hold(pair):
    _, integer, data = pair("tiny")
    scale = integer.input.scale
    wide = (np.full(3, -1e3), np.full(3, 1e3))
    x = data.x[0]
    suffix = ball("b", x, 0.5, wide, 2)
    np.testing.assert_array_equal(suffix.lo[:2], x[:2].astype(np.float64))
    np.testing.assert_array_equal(suffix.hi[2:], x[2:].astype(np.float64) + 0.5)
    noise = noisy("n", x, [0.1, 0.2, 0.0], wide)
    np.testing.assert_allclose(noise.hi - noise.lo, np.tile([0.2, 0.4, 0.0], (4, 1)), atol=1e-12)
    assert noise.radius == 0.2
    grid = grid_ball("g", x, 3, integer.input)
    q = quantize_input(integer, x[None])[0].astype(int)
    np.testing.assert_array_equal(quantize_input(integer, grid.lo[None])[0], np.clip(q - 3, -128, 127))
    np.testing.assert_array_equal(quantize_input(integer, grid.hi[None])[0], np.clip(q + 3, -128, 127))
    np.testing.assert_array_equal(quantize_input(integer, grid.center[None])[0], q)
    assert grid.describe()["grid_steps"] == 3
    assert grid.describe()["box"] is not None
    assert ball("b", x, scale, wide).describe()["box"] is None
    edge = grid_ball("g", np.full_like(x, 1e6), 500, integer.input)
    assert (quantize_input(integer, edge.hi[None]) == 127).all()
    assert (quantize_input(integer, edge.lo[None]) == -128).all()


def test_bad_regions_are_refused(pair):
    _, integer, data = pair("tiny")
    x, domain = data.x[0], input_domain(data.x)
    with pytest.raises(InputError, match="free"):
        ball("b", x, 0.1, domain, 4)
    with pytest.raises(InputError, match="free"):
        grid_ball("b", x, 1, integer.input, -1)
    with pytest.raises(InputError, match="grid"):
        grid_ball("b", x, -1, integer.input)
    with pytest.raises(InputError, match="shape"):
        noisy("b", x, [0.1, 0.1], domain)
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="half-widths"):
            noisy("b", x, [bad, 0.0, 0.0], domain)
    for bad in ("1e", "lsb lsb", 10**400, "0x1"):
        with pytest.raises(InputError, match="radius"):
            parse_radius(bad, 0.1)


def test_noise_files(tmp_path):
    csv = tmp_path / "n.csv"
    csv.write_text("0.1,0.2,0\n")
    np.testing.assert_array_equal(load_noise(csv), [0.1, 0.2, 0.0])
    csv.write_text("0.1,0.2\n0.3,0.4\n")
    assert load_noise(csv).shape == (2, 2)
    for shape in ((3,), (4, 3)):
        np.savez(tmp_path / "n.npz", np.full(shape, 0.25, np.float32))
        np.testing.assert_array_equal(load_noise(tmp_path / "n.npz"), np.full(shape, 0.25))


def test_bad_noise_files_are_refused_in_one_sentence(tmp_path):
    path = tmp_path / "n.csv"
    for text in (
        "",
        "a,b\n",
        "0.1,0.2\n0.3\n",
        "-1,0\n",
        "nan,1\n",
        "1e999,1\n",
        "\x00",
        "\ud800".encode("utf-8", "surrogatepass"),
    ):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(InputError) as error:
            load_noise(path)
        assert "\n" not in str(error.value)
    archive = tmp_path / "n.npz"
    np.savez(archive, a=np.zeros(3), b=np.zeros(3))
    with pytest.raises(InputError, match="2 arrays"):
        load_noise(archive)
    for wrong in (np.zeros((2, 2, 2)), np.array(["x"]), np.zeros(0), np.array([1j]), np.array([object()])):
        np.savez(archive, wrong)
        with pytest.raises(InputError):
            load_noise(archive)
    archive.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(InputError):
        load_noise(archive)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("a.npy", bytes(100 << 20))
    with pytest.raises(InputError, match="too large"):
        load_noise(archive)
    with pytest.raises(InputError, match="no file"):
        load_noise(tmp_path / "none.csv")


TOML = """
[[region]]
name = "a"
sample = 1
radius = "2lsb"

[[region]]
name = "b"
sample = 0
noise = [0.1, 0.2, 0.3]
free_from = 2

[[region]]
name = "c"
center = [[0.0, 0, 0], [0, 0.5, 0], [0, 0, 0], [0, 0, 0]]
grid = 1

[[region]]
name = "d"
sample = 1
noise = "n.csv"

[[region]]
name = "e"
sample = 2
"""


def test_regions_file(tmp_path, pair):
    network, integer, data = pair("tiny")
    path = tmp_path / "r.toml"
    path.write_text(TOML)
    (tmp_path / "n.csv").write_text("0.1,0.1,0.1\n")
    chosen = select(network, integer.input, data, "ball", "3lsb", 1, input_domain(data.x), Neighbourhood(regions=path))
    assert [r.name for r in chosen.regions] == ["a", "b", "c", "d", "e"]
    assert [r.kind for r in chosen.regions] == ["ball", "noise", "grid", "noise", "ball"]
    assert chosen.samples == (1, 0, None, 1, 2)
    assert chosen.regions[0].radius == 2 * integer.input.scale
    assert chosen.regions[1].free_from == 2
    assert chosen.regions[4].radius == pytest.approx(3 * integer.input.scale)
    assert chosen.counted[2] is True
    classes = evaluate(network, data.x[:3]).argmax(-1)
    wrong = Calibration(data.x, (np.r_[classes[0], classes[1] + 1, classes[2]]).astype(np.int64).repeat(1))
    counted = select(
        network, integer.input, wrong, "ball", "3lsb", 1, input_domain(data.x), Neighbourhood(regions=path)
    ).counted
    assert counted == (False, True, True, False, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "region = 3",
        "[[region]]\nsample = 0",
        "[[region]]\nname = 'a'",
        "[[region]]\nname = ''\nsample = 0",
        "[[region]]\nname = 'a'\nsample = -1",
        "[[region]]\nname = 'a'\nsample = 1.5",
        "[[region]]\nname = 'a'\nsample = true",
        "[[region]]\nname = 'a'\nsample = 10000000",
        "[[region]]\nname = 'a'\nsample = 0\nwidth = 3",
        "[[region]]\nname = 'a'\nsample = 0\nradius = 1\ngrid = 2",
        "[[region]]\nname = 'a'\nsample = 0\nradius = nan",
        "[[region]]\nname = 'a'\nsample = 0\nradius = -1",
        "[[region]]\nname = 'a'\nsample = 0\nradius = 1979-05-27",
        "[[region]]\nname = 'a'\nsample = 0\nnoise = [1, 2]",
        "[[region]]\nname = 'a'\nsample = 0\nnoise = [inf, 0, 0]",
        "[[region]]\nname = 'a'\nsample = 0\nnoise = 'none.csv'",
        "[[region]]\nname = 'a'\nsample = 0\nnoise = \"a\\u0000b\"",
        "[[region]]\nname = 'a'\nsample = 0\nfree_from = 4",
        f"[[region]]\nname = 'a'\nsample = 0\nradius = 1{'0' * 400}",
        "[[region]]\nname = 'a'\ncenter = [[0, 0], [0]]",
        "[[region]]\nname = 'a'\ncenter = [[0, 0, 0]]",
        "[[region]]\nname = 'a'\ncenter = [[1e300, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]",
        f"[[region]]\nname = 'a'\ncenter = [[1{'0' * 400}, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]",
        "[[region]]\nname = 'a'\nsample = 0\ncenter = [[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]",
        "[[region]]\nname = 'a'\nsample = 0\n[[region]]\nname = 'a'\nsample = 1",
        "[[region]]\nname = 'a'\nsample = 0\n[other]\n",
        "[[region]\n",
        "x = " + "[" * 3000,
    ],
)
def test_bad_regions_files_are_refused_in_one_sentence(text, tmp_path, pair):
    network, integer, data = pair("tiny")
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        select(network, integer.input, data, "ball", 0.1, 1, input_domain(data.x), Neighbourhood(regions=path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


VALUES = st.recursive(
    st.one_of(
        st.integers(), st.floats(), st.booleans(), st.sampled_from(["1lsb", "", "x", "n.csv", "2lsb"]), st.dates()
    ),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


def toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return value.isoformat() if hasattr(value, "isoformat") else repr(value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["name", "sample", "center", "radius", "noise", "grid", "free_from", "other"]), VALUES
        ),
        max_size=3,
    ),
    st.binary(max_size=30),
    st.integers(0, 200),
)
def test_fuzzed_regions_files_give_regions_or_one_sentence(pair, tmp_path, tables, noise, cut):
    network, integer, data = pair("tiny")
    lines = [line for t in tables for line in ("[[region]]", *(f"{k} = {toml(v)}" for k, v in t.items()))]
    content = bytearray("\n".join(lines).encode())
    content[cut:cut] = noise if cut < 30 else b""
    path = tmp_path / "r.toml"
    path.write_bytes(bytes(content))
    sentence = ""
    try:
        chosen = select(network, integer.input, data, "ball", 0.1, 1, input_domain(data.x), Neighbourhood(regions=path))
    except InputError as error:
        sentence = str(error)
    else:
        for region in chosen.regions:
            assert np.isfinite(region.lo).all()
            assert (region.lo <= region.hi).all()
    assert "\n" not in sentence


def test_options_that_exclude_each_other(tmp_path, pair):
    network, integer, data = pair("tiny")
    with pytest.raises(InputError, match="exclude"):
        Neighbourhood(noise=tmp_path / "n", grid=1)
    with pytest.raises(InputError, match="regions file"):
        Neighbourhood(regions=tmp_path / "r", free_from=1)
    with pytest.raises(InputError, match="domain"):
        select(network, integer.input, data, "domain", 0.1, 1, input_domain(data.x), Neighbourhood(grid=1))


def test_a_regions_file_is_small(tmp_path):
    path = tmp_path / "r.toml"
    with path.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(InputError, match="too large"):
        load_regions(path)
