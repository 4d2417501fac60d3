"""Intervals and forms against exact rational arithmetic: values and noise symbols are fractions, nothing is rounded.

A walk applies random operations to forms whose values are known exactly. The symbols that an operation adds are given
what its values need; it is right if they lie in [-1, 1], and every value in its box.
"""

from fractions import Fraction
from itertools import product

import numpy as np

from codesign.checker import forms, replay
from codesign.checker.forms import Box, Symbols
from codesign.checker.solver import Facts

BATCH, UNITS = 2, 3
exact = np.vectorize(lambda v: v if isinstance(v, Fraction) else Fraction(float(v)), otypes=[object])


def holds(box, values):
    """Whether exact values lie in the box, ends included."""
    lo, hi = exact(box.lo), exact(box.hi)
    assert np.shape(values) == lo.shape
    return bool(((lo <= values) & (values <= hi)).all())


def dyadic(rng, shape=(), size=1.0):
    """Random binary64 numbers of many magnitudes, some of them 0 or round."""
    scale = size * 2.0 ** rng.integers(-12, 4, shape)
    full = rng.uniform(-1, 1, shape) * scale
    return np.where(rng.random(shape) < 0.1, np.round(full), full)


def inside(rng, lo, hi):
    """Exact numbers in [lo, hi], often an end."""
    share = np.where(rng.random(lo.shape) < 0.5, rng.integers(0, 2, lo.shape), rng.integers(0, 1025, lo.shape) / 1024)
    lo, hi = exact(lo), exact(hi)
    return lo + (hi - lo) * exact(share)


def interval(rng, shape, size=1.0):
    """A random box, often of one number."""
    ends = dyadic(rng, (2, *shape), size)
    other = np.where(rng.random(shape) < 0.4, ends[0], ends[1])
    return Box(np.minimum(ends[0], other), np.maximum(ends[0], other))


class Walk:
    """Forms with their exact values, and exact noise symbols (B, count)."""

    def __init__(self, seed, second_order=False):
        self.rng, self.symbols = np.random.default_rng(seed), Symbols(second_order)
        self.eps = np.zeros((BATCH, 0), dtype=object)
        ends = interval(self.rng, (BATCH, UNITS))
        fixed = self.rng.random(UNITS) < 0.2
        box = Box(ends.lo, np.where(fixed, ends.lo, ends.hi))
        values = inside(self.rng, box.lo, box.hi)
        self.pool = [(self.told(self.symbols.of_input(box), values, "of_input").within(box), values)]
        self.facts = Facts(None)

    def pairs(self, width):
        """The exact products of symbols, (B, width), in the order of their columns."""
        inputs = self.eps[:, : self.symbols.inputs]
        blocks = [np.zeros((BATCH, 0), dtype=object)]
        for first, last in self.symbols.spans:
            if last <= self.eps.shape[1]:
                blocks.append((self.eps[:, first:last, None] * inputs[:, None, :]).reshape(BATCH, -1))
        return np.concatenate(blocks, axis=1)[:, :width]

    def told(self, form, values, what):
        """The form, once its new symbols are chosen; fails where they cannot be, or a value is not in the box."""
        known = self.eps.shape[1]
        new = self.symbols.count - known
        g, error = exact(form.generators), exact(form.error)
        rest = values - exact(form.center)
        rest = rest - (g[..., :known] * self.eps[:, None, : g.shape[-1]]).sum(-1)
        added = np.zeros((BATCH, new), dtype=object)
        if new:
            for b in range(BATCH):
                for k in range(values.shape[1]):
                    own = np.flatnonzero(form.generators[b, k, known:])
                    assert len(own) <= 1, f"{what}: two fresh symbols in one value"
                    if len(own):
                        needed = rest[b, k] / g[b, k, known + own[0]]
                        if not form.products.shape[-1]:
                            added[b, own[0]] = min(max(needed, Fraction(-1)), Fraction(1))
        products = exact(form.products)
        width = products.shape[-1]
        self.eps = np.concatenate([self.eps, added], axis=1)
        if width:
            rest = rest - (products * self.pairs(width)[:, None, :]).sum(-1)
            if new:
                for b, k in np.ndindex(*values.shape):
                    for own in np.flatnonzero(form.generators[b, k, known:]):
                        needed = rest[b, k] / g[b, k, known + own]
                        self.eps[b, known + own] = min(max(needed, Fraction(-1)), Fraction(1))
        if new:
            rest = rest - (g[..., known:] * self.eps[:, None, known : g.shape[-1]]).sum(-1)
        assert (np.vectorize(abs)(rest) <= error).all(), f"{what}: a value is not of the form"
        total = np.abs(g).sum(-1) + np.abs(products).sum(-1) + error
        assert (total <= exact(form.radius)).all(), f"{what}: the radius is too small"
        assert (np.abs(exact(form.center)) + total <= exact(form.size)).all(), f"{what}: the size is too small"
        assert holds(form, values), f"{what}: a value is not in the box"
        return form

    def pick(self):
        form, values = self.pool[self.rng.integers(len(self.pool))]
        return (form, values) if form.lo.shape[1] == UNITS else (form.part(slice(0, UNITS)), values[:, :UNITS])

    def step(self):
        """The name of the operation."""
        rng = self.rng
        name = rng.choice(["affine", "affine", "times", "product", "narrow", "reset", "fold", "parts", "read"])
        form, values = getattr(self, f"_{name}")()
        form = self.told(form, values, name)
        assert float(np.abs(values).max()) < 1e30
        self.pool = [*self.pool[-5:], (form, values)]
        return str(name)

    def _constant(self):
        box = interval(self.rng, (BATCH, UNITS))
        return box, inside(self.rng, box.lo, box.hi)

    def _affine(self):
        rng, (box, total) = self.rng, self._constant()
        terms = [box]
        for _ in range(rng.integers(1, 4)):
            x, values = self.pick()
            if rng.random() < 0.5:
                matrix = interval(rng, (UNITS, UNITS), 0.5)
                total = total + values @ inside(rng, matrix.lo, matrix.hi).T
                terms.append((matrix, x))
            else:
                factor = dyadic(rng, (BATCH, UNITS), 0.5)
                total = total + exact(factor) * values
                terms.append((factor, x))
        return forms.affine(terms, self.symbols if rng.random() < 0.7 else None, paired=bool(rng.random() < 0.5)), total

    def _times(self):
        (x, xs), (y, ys), rng = self.pick(), self.pick(), self.rng
        if rng.random() < 0.3:
            y, ys = x, xs
        factor, spans = dyadic(rng, (BATCH, UNITS), 0.1), [None, 0, 1][rng.integers(3)]
        terms = forms.times(factor, x, y, self.symbols, spans)
        return forms.affine(terms, self.symbols, paired=bool(rng.random() < 0.5)), exact(factor) * xs * ys

    def _product(self):
        """Through the ranges of u + v and u - v."""
        (x, xs), (y, ys) = self.pick(), self.pick()
        if self.rng.random() < 0.3:
            y, ys = x, xs
        residual = self.facts.bilinear("", x, y)
        assert holds(residual, (xs - exact(x.mid)) * (ys - exact(y.mid))), "bilinear: a value is not in the box"
        terms = [(0.125 * x.mid, y), (0.125 * y.mid, x)]
        rest = Box(0.125 * residual.lo, 0.125 * residual.hi) + Box.around(-0.125 * x.mid * y.mid)
        return forms.affine([*terms, rest], self.symbols), xs * ys / 8

    def _narrow(self):
        """A box that the values are known to lie in, here often one of their ends."""
        (form, values), rng = self.pick(), self.rng
        sides = [np.vectorize(float, otypes=[float])(values)] * 2
        for k, toward in enumerate((-np.inf, np.inf)):
            far = np.abs(dyadic(rng, values.shape, 0.3)) * np.sign(toward)
            sides[k] = np.where(rng.random(values.shape) < 0.7, np.nextafter(sides[k], toward), sides[k] + far)
            sides[k] = np.nextafter(sides[k], toward)
        return form.meet(Box(*sides)), values

    def _reset(self):
        (form, values), rng = self.pick(), self.rng
        return self.symbols.reset(form, rng.random(values.shape) < 0.5, paired=bool(rng.random() < 0.5)), values

    def _fold(self):
        form, values = self.pick()
        self.symbols.step = int(self.rng.integers(0, 4))
        return self.symbols.fold(form, int(self.rng.integers(0, 4))), values

    def _parts(self):
        (x, xs), (y, ys) = self.pick(), self.pick()
        form, values = forms.join([x, y]), np.concatenate([xs, ys], axis=1)
        columns = self.rng.permutation(2 * UNITS)[0] % (UNITS + 1)
        return form.part(slice(columns, columns + UNITS)), values[:, columns : columns + UNITS]

    def _read(self):
        """What is read off a form at the end."""
        form, values = self.pick()
        assert holds(replay._tight_box(form, self.symbols), values), "tight box"
        assert holds(replay._pairwise(form, self.symbols), values[:, :, None] - values[:, None, :]), "pairs"
        assert (np.abs(values).sum(1) <= exact(replay._magnitudes(form, self.symbols))).all(), "sum of magnitudes"
        return form, values


def walk(seeds, steps=14):
    """Random walks, every other one with products of symbols."""
    for seed in seeds:
        path = Walk(seed, second_order=bool(seed % 2))
        for _ in range(steps):
            path.step()


def boxes(seeds, shape=(40,)):
    """Every operation on intervals, on numbers of many magnitudes."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        a, b = interval(rng, shape, 2.0), interval(rng, shape, 3.0)
        x, y = inside(rng, a.lo, a.hi), inside(rng, b.lo, b.hi)
        assert holds(a + b, x + y), "sum"
        assert holds(a - b, x - y), "difference"
        assert holds(a * b, x * y), "product"
        mid, rad = exact(a.mid), exact(a.rad)
        assert (np.abs(x - mid) <= rad).all(), "half-width"
        assert (np.abs(x) <= exact(a.mag)).all(), "magnitude"
        radius = np.abs(dyadic(rng, shape))
        assert holds(a.widen(radius), x + exact(radius) * exact(rng.integers(-1, 2, shape))), "widened"
        value, slack = dyadic(rng, shape), np.abs(dyadic(rng, shape, 1e-3))
        assert holds(Box.around(value, slack), exact(value) + exact(slack) * exact(rng.integers(-1, 2, shape))), (
            "around"
        )
        lo, hi = -np.abs(dyadic(rng)), np.abs(dyadic(rng))
        clipped = np.minimum(np.maximum(x, exact(lo)), exact(hi))
        assert holds(a.clip(lo, hi), clipped), "clip"
        saturation = a.saturation(lo, hi)
        assert holds(saturation, clipped - x), "saturation"
        assert ((saturation.lo <= 0) & (saturation.hi >= 0)).all(), "a kernel may leave it out"


def squares(seeds, inputs=2, others=3, count=6):
    """Forms with products of symbols: the ranges that are read off hold the values at all corners of the symbols."""
    for seed in seeds:
        rng, symbols = np.random.default_rng(seed), Symbols(True)
        symbols.of_input(Box(-np.ones((1, inputs)), np.ones((1, inputs))))
        symbols.fresh(1)
        symbols.fresh(others, paired=True)
        width = inputs + 1 + others
        some = [rng.integers(-1, 2, size) * np.where(rng.random(size) < 0.5, 1.0, rng.random(size))
                for size in ((1, count, width), (1, count, (inputs + others) * inputs))]  # fmt: skip
        square = some[1][..., : inputs**2].reshape(1, count, inputs, inputs)
        some[1][..., : inputs**2] = (0.5 * (square + square.swapaxes(-1, -2))).reshape(1, count, -1)
        form = forms.Form.of(dyadic(rng, (1, count)), *some, np.abs(dyadic(rng, (1, count), 1e-3)))
        box, sums = replay._tight_box(form, symbols), replay._magnitudes(form, symbols)
        g, products, error = exact(some[0][0]), exact(some[1][0]), exact(form.error[0])
        for corner in product((1, -1), repeat=width):
            x, eps = np.array(corner[:inputs], object), np.array(corner, object)
            pairs = (np.concatenate([x, eps[inputs + 1 :]])[:, None] * x).ravel()
            values = exact(form.center[0]) + g @ eps + products @ pairs
            assert all(holds(box, np.stack([values + sign * error])) for sign in (1, -1)), "tight box"
            assert np.abs(values).sum() <= exact(sums)[0], "sum of magnitudes"
