"""Errors planted in the checker itself are found: by the property tests, or by bounds that exact simulation breaks.

Each replaces one piece of the checker's source. What finds it passes where nothing is planted.
"""

import inspect
import textwrap

import exact_layers
import pytest
from exact_forms import boxes, squares, walk

from codesign.checker import Invalid, claims, forms, integer, lstm, replay, solver
from codesign.domain_checker import lstm as domain


def planted(monkeypatch, owner, name, old, new):
    """Put `new` for `old`, which stands once in the source of the function `name` of a module or class."""
    found = inspect.getattr_static(owner, name)
    function = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{name} has changed: plant another error"
    module = inspect.getmodule(function)
    made = {}
    exec(
        compile("from __future__ import annotations\n" + source.replace(old, new), __file__, "exec"), vars(module), made
    )
    replaced = made[name]
    monkeypatch.setattr(owner, name, replaced)
    for other in (claims, forms, integer, lstm, replay, solver):  # functions are imported by name
        if not inspect.isclass(owner) and vars(other).get(name) is function:
            monkeypatch.setattr(other, name, replaced)


def arithmetic():
    boxes(range(8))
    walk(range(40))
    squares(range(10))


FORMS = {
    "sums are not rounded outward": (forms.Box, "__add__", "up(2 * UNIT * np.abs(lo))", "0.0"),
    "products by two corners": (forms.Box, "__mul__", "for b in (other.lo, other.hi)", "for b in (other.lo,)"),
    "half-widths are not rounded": (
        forms.Box,
        "rad",
        "up(np.maximum(self.hi - self.mid, self.mid - self.lo))",
        "0.5 * (self.hi - self.lo)",
    ),
    "the roundings of a linear map": (forms, "affine", "+ gamma(count) * size", ""),
    "a matrix's half-width": (forms, "affine", " + x.size @ a.rad.T", ""),
    "the error of a form under a matrix": (forms, "affine", "error + x.error @ a.mag.T +", "error +"),
    "the error of a form under a factor": (forms, "affine", "error + np.abs(factor) * x.error", "error"),
    "a constant's half-width": (forms, "affine", "up(error + constant.rad)", "error"),
    "the fresh symbol": (forms, "affine", "= up(constant.rad)", "= 0.0"),
    "a product's rest": (forms, "times", "rest = scale * (own * dropped + beyond * v.radius) + ", "rest = "),
    "a product's other factor": (forms, "times", " + beyond * v.radius", ""),
    "x_i x_j twice": (forms, "times", "0.5 * (block + block.swapaxes(-1, -2))", "block + block.swapaxes(-1, -2)"),
    "the centers' product": (forms, "times", "-a * v.center, rest", "0 * a, rest"),
    "a fold's fresh symbol": (forms.Symbols, "fold", "Box(-spread, spread)", "Box(0 * spread, 0 * spread)"),
    "a reset's center": (forms.Symbols, "reset", "np.where(chosen, form.hi, 0.0)", "np.where(chosen, form.lo, 0.0)"),
    "products in the radius": (
        forms.Form,
        "of",
        "for columns in (generators, products)",
        "for columns in (generators,)",
    ),
    "a form's error": (forms.Form, "of", "(total + error)", "total"),
    "columns of a joined form": (
        forms,
        "join",
        "((0, 0), (0, 0), (0, width - array.shape[2]))",
        "((0, 0), (0, 0), (width - array.shape[2], 0))",
    ),
    "the square of products": (replay, "_squared", "t + own * (own / t)", "t"),
    "products of other symbols": (replay, "_squared", "0.5 * m.T @ (m / t[:, None])", "0.0 * m.T @ (m / t[:, None])"),
    "the linear part once only": (replay, "_squared", "for s in (1.0, -1.0)", "for s in (1.0,)"),
    "half the product of deviations": (
        solver.Facts,
        "bilinear",
        "Box(lo / 4 - 1e-14, hi / 4 + 1e-14)",
        "Box(lo / 8, hi / 8)",
    ),
    "one pattern of signs": (
        replay,
        "_magnitudes",
        "for rest in product((1.0, -1.0), repeat=count - 1)",
        "for rest in [(1.0,) * (count - 1)]",
    ),
}


@pytest.mark.parametrize("error", FORMS)
def test_errors_in_the_arithmetic_are_found(error, monkeypatch):
    planted(monkeypatch, *FORMS[error])
    with pytest.raises(AssertionError):
        arithmetic()


def test_the_arithmetic_as_it_is():
    arithmetic()


LAYERS = {
    "the gates' rounding": (
        lstm.LstmReplay,
        "_gate_noise",
        "Box.full(-self.rounding, self.rounding,",
        "Box.full(0.0, 0.0,",
    ),
    "the gates' saturation": (
        lstm.LstmReplay,
        "_gate_noise",
        "return noise + (total + noise).saturation(GATE_LO, GATE_HI)",
        "return noise",
    ),
    "saturation of parts of a gate": (lstm.LstmReplay, "_gate_noise", "for size in (", "for size in () and ("),
    "differences of input weights": (lstm.LstmReplay, "_gates", "affine([from_x, (", "affine([("),
    "differences of recurrent weights": (lstm.LstmReplay, "_gates", "from_h, (self.R_int", "(self.R_int"),
    "the hidden state's difference": (lstm.LstmReplay, "_gates", ", (self.R_int, h.difference), gap", ", gap"),
    "differences of biases": (lstm.LstmReplay, "_gates", "self.b_int - self.b, shape", "0.0 * self.b, shape"),
    "the cell's rounding": (lstm.LstmReplay, "_cell", "clipped.widen(self.cell_rounding)]", "clipped]"),
    "the cell's saturation": (
        lstm.LstmReplay,
        "_cell",
        "clipped = clipped + (total + clipped).saturation(*self.cell_range)",
        "pass",
    ),
    "the float cell's clip in the difference": (lstm.LstmReplay, "_cell", "clipped = clipped - cut", "pass"),
    "the float cell's clip": (
        lstm.LstmReplay,
        "_cell",
        "[(1.0, new), cut]",
        "[(1.0, new), Box(0.0 * cut.lo, 0.0 * cut.hi)]",
    ),
    "the hidden state's rounding": (
        lstm.LstmReplay,
        "_hidden",
        ".saturation(*self.hidden_range).widen(self.hidden_rounding)",
        ".saturation(*self.hidden_range)",
    ),
    "the hidden state's saturation": (
        lstm.LstmReplay,
        "_hidden",
        "reach.saturation(*self.hidden_range)",
        "Box(0.0 * reach.lo, 0.0 * reach.hi)",
    ),
    "the error of tables": (lstm, "relaxed", "d_residual + error]", "d_residual]"),
    "a residual": (lstm, "relaxed", "[(slope, z), residual]", "[(slope, z), Box(residual.lo, residual.lo)]"),
    "a residual of a difference": (
        lstm,
        "relaxed",
        "d_residual + error]",
        "Box(d_residual.lo, d_residual.lo) + error]",
    ),
    "a difference's noise": (lstm, "relaxed", "difference.append(at_noise * noise)", "pass"),
    "a curved difference's noise": (lstm, "relaxed", "at_noise += Box(p, p) * z", "pass"),
    "dx dy": (lstm, "product", "symbols) + last", "symbols)"),
    "half of a difference": (lstm, "product", "(0.5, p.difference)", "(0.25, p.difference)"),
    "the product of centers": (lstm, "_linearised", "Box.around(-x0 * y0)", "Box.around(-0.9 * x0 * y0)"),
    "the range of a product": (lstm, "product", "x.value * y.value,", "x.value * Box(y.value.mid, y.value.mid),"),
    "what the integer value allows": (
        lstm.LstmReplay,
        "_bounded",
        "meet(integer - value)",
        "meet((integer - value).clip(-1e-5, 1e-5))",
    ),
    "the input's rounding": (replay, "input_pairs", "(0.5 + 2.0**-22", "(0.3 + 2.0**-22"),
    "the input's saturation": (replay, "input_pairs", " + (x + Box(-half, half)).saturation(*ends)", ""),
    "half a step of the input's grid": (replay, "input_pairs", "tensor.scale + 0.5 + slack", "tensor.scale + slack"),
    "a dense layer's rounding": (replay, "_dense", "Box.full(-rounding, rounding, shape)", "Box.full(0.0, 0.0, shape)"),
    "a dense layer's saturation": (
        replay,
        "_dense",
        "noise = noise + (value + gap + noise).saturation(lo, hi)",
        "pass",
    ),
    "a dense layer's bias": (replay, "_dense", "op.b * scale - b, shape", "0.0 * b, shape"),
    "where a ReLU turns on": (replay, "_rectified", "Box(zero, top)", "Box(zero, zero)"),
    "a difference across a ReLU": (replay, "_rectified", "np.where(free, np.maximum(d.hi, 0.0), 0.0)", "0.0 * d.hi"),
    "a ReLU's saturation": (replay, "_rectified", "tensor_range(output)[1]", "2.0 * tensor_range(output)[1]"),
    "the other profile's multipliers": (integer, "effective", "np.abs(real) * slack[:, None]", "0.0 * real"),
    "the second rounding": (
        integer,
        "rescaling_error",
        "max(requantization_bound(multiplier.m, multiplier.e), 0.5)",
        "0.5",
    ),
    "a softmax's rounding": (solver.Facts, "softmax", "odds, move) + rounding", "odds, move)"),
    "how a softmax moves": (solver.Facts, "softmax", "Box(lo, hi) if", "Box(0.5 * lo, 0.5 * hi) if"),
    "losses of a softmax": (solver.Facts, "softmax", "np.minimum(2 * gains + lowest, 2 * losses + highest)", "gains"),
    "margins of a rounded softmax": (solver.Facts, "output_margins", " - hi[:, None, :]", ""),
    "margins behind a softmax": (
        solver.Facts,
        "probability_margins",
        "p.hi[:, None, :] * gap.hi",
        "p.lo[:, None, :] * gap.lo",
    ),
    "classes that a probability leaves": (solver.Facts, "confident", "bound[0, i] = -np.inf", "bound = bound + 0.5"),
    "what a margin moves by": (
        claims,
        "_given",
        "np.maximum(m.value.lo, lo) + m.difference.lo",
        "np.maximum(m.value.lo, lo)",
    ),
    "the largest of a row in a norm": (claims, "_norms", "rows.max(1) * sums", "rows.min(1) * sums"),
    "residuals": (
        solver.Facts,
        "_relaxed",
        "Box(*_RESIDUALS[kind](*ends, *coefficients))",
        "Box(*[np.mean(_RESIDUALS[kind](*ends, *coefficients), axis=0)] * 2)",
    ),
    "ranges of functions": (
        solver.Facts,
        "_range",
        "Box(lo - RANGE_ROOM, hi + RANGE_ROOM)",
        "Box(0.5 * (lo + hi), 0.5 * (lo + hi))",
    ),
}


@pytest.mark.parametrize("error", LAYERS)
def test_errors_in_the_layers_are_found(error, monkeypatch):
    planted(monkeypatch, *LAYERS[error])
    with pytest.raises((AssertionError, Invalid)):
        exact_layers.every()


def test_the_layers_as_they_are():
    exact_layers.every()


STEP = domain.DomainReplay, "_step"
BEYOND = "beyond = np.where(clipped, up(SATURATED * (1 + dz)), 0.0)"
DOMAINS = {
    "the gates' rounding and differences": (
        (domain.DomainReplay, "_noise", "return up(total)", "return up(0.0 * total)"),
        {"drift": 9000},
    ),
    "weights' differences": (
        (domain.DomainReplay, "_noise", "total = total + box.mag @ gap.mag.T", "total = total"),
        {"drift": 0, "weight": 2.0, "hidden_scale": 2.0**-7, "bias": 0.1},
    ),
    "the cell's rounding": ((*STEP, "+ i.hi * eg + self.cell_rounding", "+ i.hi * eg"), {"cell_shift": -9, "drift": 0}),
    "the hidden state's rounding": (
        (*STEP, "+ o.hi * et + self.hidden_rounding", "+ o.hi * et"),
        {"hidden_scale": 2.0**-7},
    ),
    "the cell's saturation": (
        (*STEP, "lost = lost + Box(-up(size), up(size)).saturation(*self.cell_range).mag", "pass"),
        {"cell_shift": -16, "bias": 3.0, "drift": 0},
    ),
    "the float cell's clip": (
        (*STEP, "up(lost + exact.saturation(-clip, clip).mag if clip else lost)", "up(lost)"),
        {"cell_clip": 0.1},
    ),
    "the hidden state's saturation": (
        (*STEP, "late = up(late + hidden.saturation(*self.hidden_range).mag)", "pass"),
        {"hidden_scale": 2.0**-17, "bias": 2.0, "drift": 0},
    ),
    "the range of the cell": ((*STEP, "exact = ff * c + fi * fg", "exact = fi * fg"), {"bias": 2.0}),
    "the cell's difference in the next": (
        (domain.DomainReplay, "_bounds", "np.maximum(v[..., 3], 0.0) * dc + ", ""),
        {"drift": 9000, "bias": 3.0},
    ),
    "the output gate": ((domain.DomainReplay, "_bounds", " + np.abs(a) * noise[3]", ""), {"drift": 9000, "bias": 4.0}),
    "the cell's difference in the hidden state": (
        (
            domain.DomainReplay,
            "_bounds",
            "+ b[:, None] * cell) @ sources + np.abs(b) * own",
            "+ b[:, None] * cell) @ sources",
        ),
        {"drift": 9000},
    ),
    **{
        f"what lies beyond {name}'s range": ((*STEP, BEYOND, old), exact_layers.PUSHED[k])
        for k, (name, old) in enumerate(
            (
                ("the input gate", "beyond = np.zeros(reach.lo.shape)"),
                ("the forget gate", "beyond = np.where(reach.lo < GATE_LO, up(SATURATED * (1 + dz)), 0.0)"),
                ("the output gate", "beyond = np.where(clipped, up(SATURATED / 100 * (1 + dz)), 0.0)"),
                ("the low end of the forget gate", "beyond = np.where(reach.hi > GATE_HI, up(SATURATED), 0.0)"),
            )
        )
    },
    "what lies beyond a range in the cell": (
        (*STEP, "lost = ef * reached.mag + ei * g_size", "lost = ei * g_size"),
        exact_layers.PUSHED[1],
    ),
    "what lies beyond a range in the hidden state": (
        (*STEP, "late = up(eo * np.minimum(t.mag + et, 1.0) + ", "late = up("),
        exact_layers.PUSHED[2],
    ),
}


@pytest.mark.parametrize("error", DOMAINS)
def test_errors_in_the_comparison_system_are_found(error, monkeypatch):
    error, settings = DOMAINS[error]
    exact_layers.domain(**settings, batch=8)
    planted(monkeypatch, *error)
    with pytest.raises((AssertionError, Invalid)):
        exact_layers.domain(**settings, batch=8)
