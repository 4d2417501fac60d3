"""Second-order bounds of a recurrent network over a box: every value is affine in the input up to a small remainder.

Backward, row by row: a functional of the state is expanded through the quadratic patches of all earlier steps down to
the input. What is left is an affine function of the input symbols e in [-1, 1]^K, a quadratic form, and remainders:

    phi = c + G e + sum_n w_n du_n dv_n + third order,      du_n = G_n e + eta_n with |eta_n| <= bound

The quadratic form is bounded as a whole, e^T M e <= lambda_max(D^-1/2 M D^-1/2) sum(D) for any positive diagonal D, not
term by term as affine forms and plane relaxations do: contributions of different units and steps, which cannot all be
extreme at one input, then largely cancel. The largest eigenvalue is bounded by the Frobenius norm, which needs only the
Gram matrix of the nodes (fast), or by a Cholesky factorisation that succeeds: of its projection onto a subspace, with
one D for all rows (balanced), or of each row's own matrix and D (tight).

Products with a remainder, sum_n p_n |g_n e| with p_n = |w_n| eta_n: the smaller of the sum of extremes and, by
Cauchy-Schwarz, sqrt(sum p_n r_n) sqrt(e^T (sum p_n / r_n g_n g_n^T) e).

Rounding: coefficients as computed are taken as exact, and every place that computes with them is charged gamma_n times
the sum of absolute values there (`size`), n beyond the longest sum of a place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from codesign.verification.affine import UNIT, Array, Box, gamma, product_box, up
from codesign.verification.quadratic import (
    Patch,
    absolute_rows,
    eigenvalue_bounds,
    largest_eigenvalue,
    sigmoid_tanh,
    sigmoid_times,
)
from codesign.verification.recurrent import Enclosure, Recurrent
from codesign.verification.relaxation import Recorder, image

Indices = npt.NDArray[np.int64]
Mode = Literal["fast", "balanced", "tight"]
# Four times the unit roundoff of float32.
_SINGLE = 2.0**-22
SCALE_ROWS = 6
WIDE = 16  # half-widths of its box: a remainder over that takes the form with it
RANK = 192
"""Dimensions of the subspace on which eigenvalues are verified; the rest is charged by its Frobenius norm."""


@dataclass(frozen=True, eq=False)
class Node:
    """A vector of values: center + forms e +- eta, inside `box`; `start` is its first row among all nodes."""

    center: Array
    forms: Array
    eta: Array
    box: Box
    start: int

    def rows(self, part: slice) -> Node:
        box = Box(self.box.lo[part], self.box.hi[part])
        return Node(self.center[part], self.forms[part], self.eta[part], box, self.start + (part.start or 0))


@dataclass(frozen=True, eq=False)
class _Placed:
    """A patch between two nodes, with the place of its three quadratic terms among all terms."""

    patch: Patch
    constant: Array  # k - a u0 - b v0
    rest: Array  # remainder, second order in eta included
    size: Array
    start: int


@dataclass
class _Rows:
    """Functionals on their way back: coefficients of what is reached, and what is collected on the way."""

    const: Array
    rest: Array
    size: Array
    forms: Array
    weights: list[tuple[int, Array]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Bounds:
    """const + forms e + [-below, above] for a batch of functionals."""

    const: Array
    forms: Array
    below: Array
    above: Array

    @property
    def box(self) -> Box:
        reach = absolute_rows(self.forms)
        slack = 8 * UNIT * (np.abs(self.const) + reach + self.below + self.above)
        lo, hi = self.const - reach - self.below - slack, self.const + reach + self.above + slack
        overflown = np.isnan(lo) | np.isnan(hi)
        return Box(np.where(overflown, -np.inf, lo), np.where(overflown, np.inf, hi))


class SecondOrder:
    """Propagates one region (lo, hi (T, D)); `logits` then bounds functionals of the logits.

    `first` are boxes that are known already (from the affine forms); they only make patches smaller.
    """

    def __init__(
        self, net: Recurrent, lo: Array, hi: Array, mode: Mode, first: Enclosure, recorder: Recorder | None = None
    ) -> None:
        self.net, self.mode, self.recorder = net, mode, recorder
        flat = Box(lo.reshape(-1), hi.reshape(-1))
        self.middle, self.radius = flat.mid.reshape(lo.shape), flat.rad.reshape(lo.shape)
        self.input_size = np.abs(self.middle) + self.radius
        self.features = lo.shape[1]
        self.forms = np.zeros((0, lo.size))
        self.reach = np.zeros(0)
        self.eta = np.zeros(0)
        self.scale = up((np.abs(net.cells[0].W).sum(0) * self.radius).reshape(-1)) + 1e-9
        self.gram, self.single_gram = np.zeros((0, 0)), np.zeros((0, 0), np.float32)
        self.left, self.right = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        self.pairs = np.zeros((0, 0))
        self.longest = lo.size + 8 * max(c.units for c in net.cells) + 64 * net.steps * len(net.cells)
        if net.read > 1:
            self.longest += net.V.shape[1]
        self.cell_size = [np.zeros(cell.units) for cell in net.cells]  # largest |c| after any step
        self.hidden_size = [[np.zeros(cell.units)] for cell in net.cells]
        self.placed: list[list[tuple[_Placed, _Placed, _Placed]]] = []
        self._propagate(first)

    def _propagate(self, first: Enclosure) -> None:
        cells = [self._zero(cell.units) for cell in self.net.cells]
        for t in range(self.net.steps):
            self.placed.append([])
            for index, cell in enumerate(self.net.cells):
                H, where = cell.units, f"{cell.name}[{t}] second order"
                gates = self._node(t, index, first.gates[t][index], gates=np.eye(4 * H))
                i, f, g, o = (gates.rows(slice(k * H, (k + 1) * H)) for k in range(4))
                old = cells[index]
                forget = self._place(f, old, False, f"{where} forget * cell")
                write = self._place(i, g, True, f"{where} input * gate")
                known = first.cells[t][index]
                images = [
                    image(name, n.box, where, self.recorder)  # type: ignore[arg-type]
                    for name, n in (("sigmoid", f), ("sigmoid", i), ("tanh", g))
                ]
                exact = product_box(images[0], old.box) + product_box(images[1], images[2])
                self.placed[t].append((forget, write, write))
                new = self._node(t, index, known, exact, cell=np.eye(H))
                out = self._place(o, new, True, f"{where} output * tanh")
                self.placed[t][index] = (forget, write, out)
                self.hidden_size[index].append(np.minimum(1.0, new.box.mag))
                self.cell_size[index] = np.maximum(self.cell_size[index], new.box.mag)
                cells[index] = new

    def _zero(self, units: int) -> Node:
        zero = np.zeros(units)
        return self._register(zero, np.zeros((units, self.scale.size)), zero, Box(zero, zero))

    def _register(self, center: Array, forms: Array, eta: Array, box: Box) -> Node:
        node = Node(center, forms, eta, box, len(self.forms))
        self.forms = np.concatenate([self.forms, forms])
        self.reach = np.concatenate([self.reach, absolute_rows(forms)])
        self.eta = np.concatenate([self.eta, eta])
        self._measure()
        return node

    def _measure(self) -> None:
        scaled = self.forms / np.sqrt(self.scale)
        self.gram = scaled @ scaled.T
        self.single_gram = self.gram.astype(np.float32)

    def _rescale(self, weights: Array) -> None:
        """Choose D for these rows: the norms of M's rows, averaged over a few functionals. Any D > 0 is right."""
        total = np.zeros(self.scale.size)
        plain = self.forms @ self.forms.T
        for k in np.unique(np.linspace(0, len(weights) - 1, SCALE_ROWS).astype(int)):
            used = np.flatnonzero(weights[k])
            mixed = _mixed(self.forms, self.left[used], self.right[used], 0.5 * weights[k, used])
            square = np.maximum((mixed * (plain @ mixed)).sum(0), 0.0)
            total += square / max(float(square.sum()), 1e-300)
        if not total.any():
            return
        self.scale = np.sqrt(total) + 1e-4 * float(np.sqrt(total.max()))
        self._measure()
        left, right = self.left, self.right
        self.left, self.right, self.pairs = left[:0], right[:0], np.zeros((0, 0))
        self._add_terms(left, right)

    def _node(
        self,
        t: int,
        layer: int,
        known: Box,
        exact: Box | None = None,
        gates: Array | None = None,
        cell: Array | None = None,
    ) -> Node:
        bounds = self._bound(self._back(t, layer, gates, cell, None))
        center = bounds.const + 0.5 * (bounds.above - bounds.below)
        eta = up(0.5 * (bounds.above + bounds.below) + 8 * UNIT * (np.abs(center) + np.abs(bounds.const)))
        box = bounds.box.meet(known.lo[0], known.hi[0])
        if exact is not None:
            box = box.meet(exact.lo, exact.hi)
        # Remainders enter squared and must not grow without limit from step to step; much sooner than here the form
        # still pays, as its symbols are those of other nodes.
        kept = eta <= WIDE * box.rad
        center, eta = np.where(kept, center, box.mid), np.where(kept, eta, box.rad)
        return self._register(center, np.where(kept[:, None], bounds.forms, 0.0), eta, box)

    def _place(self, u: Node, v: Node, squashed: bool, where: str) -> _Placed:
        relax = sigmoid_tanh if squashed else sigmoid_times
        patch = relax(u.box, u.center, v.box, v.center, where, self.recorder)
        quu, quv, qvv = (np.abs(q) for q in patch.q)
        rest = up(patch.rad + quu * u.eta**2 + qvv * v.eta**2 + quv * u.eta * v.eta)
        constant = patch.k - patch.a * u.center - patch.b * v.center
        ur, vr = self.reach[u.start :][: len(u.eta)] + u.eta, self.reach[v.start :][: len(v.eta)] + v.eta
        size = np.abs(patch.k) + patch.size + np.abs(patch.a) * (2 * np.abs(u.center) + ur)
        size = size + np.abs(patch.b) * (2 * np.abs(v.center) + vr) + quu * ur**2 + quv * ur * vr + qvv * vr**2
        start = len(self.left)
        a, b = u.start + np.arange(len(u.eta)), v.start + np.arange(len(v.eta))
        self._add_terms(np.concatenate([a, a, b]), np.concatenate([a, b, b]))
        return _Placed(patch, constant, up(rest), up(size), start)

    def _add_terms(self, left: Indices, right: Indices) -> None:
        """Frobenius products <sym(g_a g_b^T), sym(g_c g_d^T)> of all terms, in the scaled symbols."""
        old = len(self.left)
        self.left, self.right = np.concatenate([self.left, left]), np.concatenate([self.right, right])
        P = self.gram
        new = P[np.ix_(left, self.left)] * P[np.ix_(right, self.right)]
        new += P[np.ix_(left, self.right)] * P[np.ix_(right, self.left)]
        pairs = np.zeros((len(self.left),) * 2)
        pairs[:old, :old] = self.pairs
        pairs[old:], pairs[:, old:] = 0.5 * new, 0.5 * new.T
        self.pairs = pairs

    def _back(self, t: int, layer: int, gates: Array | None, cell: Array | None, hidden: Array | None) -> _Rows:
        """Expand rows given on the gate inputs or the cells of (step t, layer), or on the hidden states of that layer
        after the last steps up to t (rows, steps, H), down to the input."""
        count = len(next(a for a in (gates, cell, hidden) if a is not None))
        zero = np.zeros(count)
        rows = _Rows(zero, zero, zero, np.zeros((count, self.scale.size)))
        on_hidden: list[Array | None] = [None] * len(self.net.cells)
        on_cell: list[Array | None] = [None] * len(self.net.cells)
        on_cell[layer] = cell
        for step in range(t, -1, -1):
            if hidden is not None and t - step < hidden.shape[1]:
                on_hidden[layer] = _plus(on_hidden[layer], hidden[:, -1 - (t - step)])
            top = layer if step == t else len(self.net.cells) - 1
            for index in range(top, -1, -1):
                given = gates if (step, index) == (t, layer) else None
                z = given if given is not None else self._through(rows, step, index, on_hidden, on_cell)
                if z is not None:
                    self._through_gates(rows, z, step, index, on_hidden)
        return rows

    def _through(
        self, rows: _Rows, step: int, index: int, on_hidden: list[Array | None], on_cell: list[Array | None]
    ) -> Array | None:
        forget, write, out = self.placed[step][index]
        hidden, cell = on_hidden[index], on_cell[index]
        on_hidden[index] = None
        if hidden is None and cell is None:
            return None
        H = self.net.cells[index].units
        z = np.zeros((len(rows.const), 4 * H))
        if hidden is not None:
            z[:, 3 * H :], more = self._apply(rows, hidden, out)
            cell = more if cell is None else cell + more
        assert cell is not None
        z[:, H : 2 * H], on_cell[index] = self._apply(rows, cell, forget)
        z[:, :H], z[:, 2 * H : 3 * H] = self._apply(rows, cell, write)
        return z

    def _apply(self, rows: _Rows, A: Array, p: _Placed) -> tuple[Array, Array]:
        rows.const = rows.const + A @ p.constant
        size = np.abs(A)
        rows.rest = rows.rest + size @ p.rest
        rows.size = rows.size + size @ p.size
        rows.weights.append((p.start, np.concatenate([A * q for q in p.patch.q], axis=1)))
        return A * p.patch.a, A * p.patch.b

    def _through_gates(self, rows: _Rows, z: Array, step: int, index: int, on_hidden: list[Array | None]) -> None:
        cell = self.net.cells[index]
        below = self.hidden_size[index - 1][step + 1] if index else self.input_size[step]
        size = np.abs(cell.W) @ below + np.abs(cell.R) @ self.hidden_size[index][step] + np.abs(cell.b)
        rows.size = rows.size + np.abs(z) @ size
        rows.const = rows.const + z @ cell.b
        down, back = z @ cell.W, z @ cell.R
        if index:
            on_hidden[index - 1] = _plus(on_hidden[index - 1], down)
        else:
            rows.const = rows.const + down @ self.middle[step]
            part = slice(step * self.features, (step + 1) * self.features)
            rows.forms[:, part] += down * self.radius[step]
        if step:
            on_hidden[index] = _plus(on_hidden[index], back)

    def _bound(self, rows: _Rows) -> Bounds:
        count = len(rows.const)
        weights = np.zeros((count, len(self.left)))
        for start, w in rows.weights:
            weights[:, start : start + w.shape[1]] = w
        rest = rows.rest * (1 + gamma(self.longest)) + 8 * gamma(self.longest) * rows.size
        above, below = np.zeros(count), np.zeros(count)
        if rows.weights:
            if self.mode == "balanced":
                self._rescale(weights)
            above, below = self._quadratic(weights)
            rest = rest + self._cross(weights)
        return Bounds(rows.const, rows.forms, up(below + rest), up(above + rest))

    def _quadratic(self, weights: Array) -> tuple[Array, Array]:
        """Upper bounds of the quadratic forms and of their negatives, (rows,) each."""
        norm = np.sqrt(np.diagonal(self.gram))
        size = np.abs(weights) @ (norm[self.left] * norm[self.right])
        lost = 8 * gamma(self.longest + len(self.left))
        square = np.maximum(np.einsum("rm,rm->r", weights @ self.pairs, weights), 0.0)
        total = float(self.scale[self._used()].sum()) * (1 + gamma(self.scale.size))
        frobenius = up((np.sqrt(square + lost * size**2) + lost * size) * total)
        if self.mode == "fast":
            return frobenius, frobenius
        if self.mode == "tight":
            ends = np.array([self._spectral(row) for row in weights])
            return np.minimum(frobenius, ends[:, 0]), np.minimum(frobenius, ends[:, 1])
        basis, loose = self._subspace()
        above, below = frobenius.copy(), frobenius.copy()
        for k in np.flatnonzero(frobenius > 0):
            used = np.flatnonzero(weights[k])
            core = (weights[k, used, None] * basis[self.left[used]]).T @ basis[self.right[used]]
            room = (lost + loose) * float(size[k])
            high, low = _outside(0.5 * (core + core.T), float(square[k]) + lost * float(size[k]) ** 2, room, True)
            above[k], below[k] = min(above[k], high * total), min(below[k], low * total)
        return up(above), up(below)

    def _spectral(self, weights: Array) -> tuple[float, float]:
        """Bounds with a diagonal D of this row's own, in float32: any D > 0 is right, and its rounding is charged."""
        used = np.flatnonzero(weights)
        if not len(used):
            return 0.0, 0.0
        nodes, place = np.unique(np.concatenate([self.left[used], self.right[used]]), return_inverse=True)
        a, b = place[: len(used)], place[len(used) :]
        G = self.forms[nodes]
        G = G[:, np.abs(G).sum(0) > 0].astype(np.float32)
        M = _symmetric_product(G, _mixed(G, a, b, (0.5 * weights[used]).astype(np.float32)))
        d = np.sqrt(np.einsum("ij,ij->i", M, M)).astype(np.float64)
        d = d + 1e-6 * d.max(initial=0.0) + 1e-30
        scaled = 1.0 / np.sqrt(d)
        M = (M * (scaled[:, None] * scaled)).astype(np.float32)
        norm = np.sqrt(np.square(G * scaled).sum(1))
        lost = _SINGLE * (len(nodes) + 32) * float(np.abs(weights[used]) @ (norm[a] * norm[b])) + 1e-30 * len(d)
        high, low = eigenvalue_bounds(M)
        total = float(d.sum()) * (1 + gamma(len(d)))
        return float(up(np.asarray((high + lost) * total))), float(up(np.asarray((low + lost) * total)))

    def _subspace(self) -> tuple[Array, float]:
        """Nodes in an orthonormal basis of the symbols that matter most, (nodes, r), and how far it is off orthonormal.

        Any basis is right; this one comes from two rounds of randomised subspace iteration on the nodes' scaled forms.
        """
        used = np.flatnonzero(np.abs(self.forms).sum(0) > 0)
        scaled = self.forms[:, used] / np.sqrt(self.scale[used])
        count = min(RANK, len(used), len(scaled))
        start = np.random.default_rng(0).normal(size=(len(scaled), count))
        Q = np.linalg.qr(scaled.T @ start)[0]
        for _ in range(2):
            Q = np.linalg.qr(scaled.T @ (scaled @ Q))[0]
        off = float(np.sqrt(np.square(Q.T @ Q - np.eye(Q.shape[1])).sum())) + gamma(len(used)) * count
        return scaled @ Q, 8 * off

    def _used(self) -> slice:
        """The symbols of the steps that have nodes so far."""
        return slice(0, (int(np.flatnonzero(np.abs(self.forms).sum(0) > 0).max(initial=-1)) + 1))

    def _cross(self, weights: Array) -> Array:
        """Upper bounds of sum |w| (|g_u| eta_v + |g_v| eta_u) over the region, (rows,)."""
        size = np.abs(weights)
        p = np.zeros((len(weights), len(self.eta)))
        np.add.at(p.T, self.left, (size * self.eta[self.right]).T)
        np.add.at(p.T, self.right, (size * self.eta[self.left]).T)
        plain = p @ self.reach
        ratio = p / np.maximum(self.reach, 1e-12)
        total = float(self.scale[self._used()].sum()) * (1 + gamma(self.scale.size))
        norm = np.diagonal(self.gram)
        lost = 8 * gamma(self.longest + len(norm)) * (ratio @ norm)
        if self.mode == "fast":
            square = np.maximum(np.einsum("rm,rm->r", ratio @ np.square(self.gram), ratio), 0.0)
            eigenvalue = np.sqrt(square + lost * (ratio @ norm)) + lost
        elif self.mode == "tight":
            eigenvalue = np.array([self._cross_eigenvalue(row) for row in ratio]) + lost
        else:
            basis, loose = self._subspace()
            square = np.maximum(np.einsum("rm,rm->r", ratio @ np.square(self.gram), ratio), 0.0) + lost * (ratio @ norm)
            room = loose * (ratio @ norm) + lost
            eigenvalue = np.array(
                [
                    _outside((row[:, None] * basis).T @ basis, float(square[k]), float(room[k]), False)[0]
                    for k, row in enumerate(ratio)
                ]
            )
        together = np.sqrt(plain) * np.sqrt(eigenvalue * total)
        # A node that does not move at all has no ratio: its part counts in full.
        still = p @ np.where(self.reach < 1e-12, self.reach, 0.0)
        return up(np.minimum(plain, together + still) * (1 + gamma(len(norm))))

    def _cross_eigenvalue(self, ratio: Array) -> float:
        """Largest eigenvalue of sum ratio_n g_n g_n^T in the scaled symbols, from the Gram matrix in float32."""
        norm = np.diagonal(self.gram)
        used = ratio > 1e-9 * ratio.max(initial=0.0)
        left_out = float(ratio[~used] @ norm[~used])
        if not used.any():
            return left_out
        root = np.sqrt(ratio[used]).astype(np.float32)
        core = self.single_gram[np.ix_(used, used)] * root[:, None]
        core *= root
        # Five roundings of an entry; the Frobenius norm of a Gram matrix is at most its trace.
        lost = 2 * _SINGLE * float(ratio[used] @ norm[used]) + 1e-30
        return largest_eigenvalue(core) + lost + left_out

    def functionals(self, V: Array, v: Array, V_slack: Array, v_slack: Array) -> Bounds:
        """Bounds of V h + v for the hidden states h that are read, V (n, read * H) and v (n,) known up to slacks."""
        last, read = len(self.net.cells) - 1, self.net.read
        rows = self._back(self.net.steps - 1, last, None, None, V.reshape(len(V), read, -1))
        size = np.concatenate(self.hidden_size[last][-read:])
        rows.rest = rows.rest + V_slack @ size + v_slack
        rows.size = rows.size + np.abs(V) @ size + np.abs(v)
        rows.const = rows.const + v
        return self._bound(rows)


def _plus(old: Array | None, new: Array) -> Array:
    return new if old is None else old + new


def _outside(core: Array, square: float, room: float, both: bool) -> tuple[float, float]:
    """Bounds of the largest eigenvalues of a symmetric M and of -M from its projection V^T M V and |M|_F^2 <= `square`.

    The blocks outside of the projection have Frobenius norms b (twice) and c with 2 b^2 + c^2 = |M|_F^2 - |core|_F^2,
    so the eigenvalues are at most those of [[a, b], [b, c]] with a that of the core.
    """
    high, low = eigenvalue_bounds(core) if both else (largest_eigenvalue(core), 0.0)
    inside = float(np.square(core).sum()) * (1 - gamma(core.size))
    left = max(square - inside, 0.0) + 4 * room * np.sqrt(max(square, 0.0)) + room * room
    b, c = np.sqrt(0.5 * left), np.sqrt(left)

    def joined(a: float) -> float:
        a += room
        return float((0.5 * (a + c) + np.sqrt(0.25 * (a - c) ** 2 + b * b)) * (1 + 1e-12))

    return joined(high), joined(low)


def _symmetric_product(G: Any, H: Any, block: int = 128) -> Any:
    """G^T H, known to be symmetric: the blocks above the diagonal, mirrored."""
    n = G.shape[1]
    M = np.empty((n, n), dtype=G.dtype)
    for i in range(0, n, block):
        j = min(i + block, n)
        M[i:j, i:] = G[:, i:j].T @ H[:, i:]
        M[i:j, i:j] = 0.5 * (M[i:j, i:j] + M[i:j, i:j].T)
        M[j:, i:j] = M[i:j, j:].T
    return M


def _mixed(G: Any, a: Indices, b: Indices, half: Any) -> Any:
    """sum over terms of half (e_a e_b^T + e_b e_a^T) G: every node has at most a few partners."""
    from scipy.sparse import coo_array

    n = len(G)
    index = (np.concatenate([a, b]), np.concatenate([b, a]))
    return np.asarray(coo_array((np.concatenate([half, half]), index), shape=(n, n)).tocsr() @ G)
