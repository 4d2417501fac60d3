"""One float network as a recurrent chain, and its affine forms over a region: the float half of the verifier.

`Recurrent` is the shape that single-network robustness handles: LSTM layers, then reshapes and dense layers without
nonlinearity (merged into one readout of the last hidden state, or of all of them). `zonotope` propagates affine forms
through it and gives boxes for every gate input and cell state, logits, and margins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Union

import numpy as np

from codesign.errors import InputError
from codesign.network import without_final_softmax
from codesign.network.model import Activation, Dense, FloatNetwork, Lstm, Reshape
from codesign.verification import relaxation, rounding
from codesign.verification.affine import UNIT, Array, Box, Form, Matrix, Pool, combine, linear, product_box, up
from codesign.verification.relaxation import Recorder


@dataclass(frozen=True, eq=False)
class Cell:
    """One LSTM layer: W (4H, D), R (4H, H), b (4H,), gates in the order i, f, c, o; its cell's clip (0: none)."""

    name: str
    W: Array
    R: Array
    b: Array
    clip: float = 0.0

    @property
    def units(self) -> int:
        return int(self.R.shape[1])


@dataclass(frozen=True, eq=False)
class Recurrent:
    """`cells` on every step, then logits V h + v of the last layer's hidden states; V, v up to `V_slack`, `v_slack`.

    V (M, read * H): h are the states after the last `read` steps, one after the other.
    """

    cells: tuple[Cell, ...]
    steps: int
    V: Array
    v: Array
    V_slack: Array
    v_slack: Array

    @property
    def classes(self) -> int:
        return int(self.V.shape[0])

    @property
    def read(self) -> int:
        return int(self.V.shape[1]) // self.cells[-1].units

    @property
    def unclipped(self) -> Recurrent:
        """The same network without cell clips: another function, unless none of them can act."""
        return replace(self, cells=tuple(replace(cell, clip=0.0) for cell in self.cells))


_Linear = Union[Dense, Reshape]


def recurrent(network: FloatNetwork) -> Recurrent:
    """The network as a `Recurrent`. InputError where a layer is outside of what robustness certification handles."""
    cells: list[Cell] = []
    head: list[_Linear] = []
    for layer in without_final_softmax(network):
        if isinstance(layer, Lstm) and not head:
            W, R, b = (a.astype(np.float64) for a in (layer.W, layer.R, layer.b))
            W, R = W.reshape(-1, layer.features), R.reshape(-1, layer.units)
            cells.append(Cell(layer.name, W, R, b.reshape(-1), layer.acting_clip(network.input_shape[0])))
        elif cells and (isinstance(layer, Reshape) or (isinstance(layer, Dense) and layer.activation == "linear")):
            head.append(layer)
        elif not (isinstance(layer, Activation) and layer.kind == "linear"):
            raise InputError(
                f"layer '{layer.name}' is not supported by 'codesign robust': it takes LSTM layers one after the "
                "other, then Flatten, Reshape and dense layers without nonlinearity, and a softmax"
            )
    lstms = [layer for layer in network.layers if isinstance(layer, Lstm)]
    if not cells or not any(isinstance(layer, Dense) for layer in head):
        raise InputError("'codesign robust' needs an LSTM, and a dense layer of classes after it")
    steps = network.input_shape[0]
    shape = (steps, cells[-1].units) if lstms[-1].return_sequences else (cells[-1].units,)
    return Recurrent(tuple(cells), steps, *_readout(head, shape))


def _readout(head: Sequence[_Linear], shape: tuple[int, ...]) -> tuple[Array, Array, Array, Array]:
    """(V, v, and how far the real ones can be from them) of reshapes and dense layers on values of `shape`.

    A dense layer acts on every row. InputError where the outputs are not one row of at least two classes.
    """
    rows = []
    for layer in head:
        rows.append(int(np.prod(shape[:-1])))
        shape = layer.shape if isinstance(layer, Reshape) else (*shape[:-1], layer.W.shape[0])
    classes = shape[-1]
    if int(np.prod(shape)) != classes:
        raise InputError(f"the network gives outputs of shape {shape}: 'codesign robust' certifies one class a sample")
    if classes < 2:
        raise InputError(
            "the network has one output: there is no class to certify; use codesign certify with --threshold T or "
            "--epsilon E"
        )
    V, v = np.eye(classes), np.zeros(classes)
    size, offset = V, v
    terms, count = 0, 0
    for layer, n in zip(reversed(head), reversed(rows), strict=True):
        if isinstance(layer, Dense):
            W, b = layer.W.astype(np.float64), layer.b.astype(np.float64)
            parts, sizes = (a.reshape(classes, n, -1) for a in (V, size))
            v, offset = v + parts.sum(1) @ b, offset + sizes.sum(1) @ np.abs(b)
            V, size = (parts @ W).reshape(classes, -1), (sizes @ np.abs(W)).reshape(classes, -1)
            terms, count = terms + n + W.shape[0] + 4, count + 1
    lost = 0.0 if count == 1 else 8.0 * UNIT * terms  # the identity times one matrix is that matrix
    return V, v, lost * size, lost * offset


@dataclass(frozen=True, eq=False)
class Enclosure:
    """Boxes of one region, (1, n) each: `gates[t][l]` and `cells[t][l]`; `logits`; `margins` (M, M).

    `clipped`: whether a cell's clip may act.
    """

    gates: list[list[Box]]
    cells: list[list[Box]]
    logits: Box
    margins: Box
    clipped: bool


def zonotope(net: Recurrent, lo: Array, hi: Array, recorder: Recorder | None = None) -> Enclosure:
    """Affine forms of one network over the box [lo, hi], (T, D) each."""
    pool = Pool()
    features = lo.shape[1]
    inputs = Form.from_box(Box(lo.reshape(1, -1), hi.reshape(1, -1)), pool, "input region")
    matrices = [(Matrix.exact(cell.W), Matrix.exact(cell.R)) for cell in net.cells]
    zero = [Form.constant(np.zeros((1, cell.units))) for cell in net.cells]
    hidden, states = list(zero), [(form, form.box) for form in zero]
    gates: list[list[Box]] = []
    cells: list[list[Box]] = []
    read: list[Form] = []
    clipped = False
    for t in range(net.steps):
        x = inputs.rows(slice(t * features, (t + 1) * features))
        gates.append([])
        cells.append([])
        for index, cell in enumerate(net.cells):
            z = linear([(matrices[index][0], x), (matrices[index][1], hidden[index])], cell.b)
            gates[t].append(z.box)
            where = f"{cell.name}[{t}]"
            hidden[index], states[index], cut = _step(z, states[index], cell, pool, where, recorder)
            clipped = clipped or cut
            cells[t].append(states[index][1])
            x = hidden[index]
        if t >= net.steps - net.read:
            read.append(hidden[-1])
    H = net.cells[-1].units
    parts = [slice(k * H, (k + 1) * H) for k in range(net.read)]
    terms = [(Matrix(net.V[:, p], net.V_slack[:, p]), h) for p, h in zip(parts, read, strict=True)]
    out = linear(terms, net.v, net.v_slack)
    return Enclosure(gates, cells, out.box, _margins(out), clipped)


def _margins(out: Form) -> Box:
    """Ranges of l_i - l_j, (M, M)."""
    generators, center, size = out.generators[0], out.center[0], out.magnitude[0]
    radius = np.abs(generators[:, None] - generators[None]).sum(-1)
    lost = out.error[0][:, None] + out.error[0][None] + 4 * UNIT * (generators.shape[1] + 8) * (size[:, None] + size)
    middle, radius = center[:, None] - center[None], up(radius + lost)
    return Box(middle - radius, middle + radius)


def _step(
    z: Form, state: tuple[Form, Box], layer: Cell, pool: Pool, where: str, recorder: Recorder | None
) -> tuple[Form, tuple[Form, Box], bool]:
    """The new hidden state, the new cell with its box, and whether its clip may act."""
    units, clip = layer.units, layer.clip
    functions = (
        ("sigmoid", "input gate"),
        ("sigmoid", "forget gate"),
        ("tanh", "cell gate"),
        ("sigmoid", "output gate"),
    )
    i, f, g, o = (
        _activated(name, z.rows(slice(k * units, (k + 1) * units)), None, pool, f"{where} {label}", recorder)
        for k, (name, label) in enumerate(functions)
    )
    cell = _sum_of_products([(f, state, f"{where} forget * cell"), (i, g, f"{where} input * gate")], pool, recorder)
    acts = bool(clip and (cell[1].mag > clip).any())
    if acts:
        cut = rounding.saturation_error(cell[1], -clip, clip)
        new = combine([(1.0, cell[0])], cut.mid, cut.rad, pool, "cell clip")
        cell = new, (cell[1] + cut).meet(-clip, clip)
    squashed = _activated("tanh", cell[0], cell[1], pool, f"{where} cell tanh", recorder)
    return _sum_of_products([(o, squashed, f"{where} output * tanh")], pool, recorder)[0], cell, acts


def _activated(
    function: str, z: Form, box: Box | None, pool: Pool, where: str, recorder: Recorder | None
) -> tuple[Form, Box]:
    inside = z.box if box is None else box
    plane = relaxation.relax(function, inside, where, recorder)  # type: ignore[arg-type]
    out = combine([(plane.slope, z)], plane.mid, plane.rad, pool, "relaxation: gates")
    image = relaxation.image(function, inside, where, recorder)  # type: ignore[arg-type]
    return out, out.box.meet(image.lo, image.hi)


def _sum_of_products(
    factors: list[tuple[tuple[Form, Box], tuple[Form, Box], str]], pool: Pool, recorder: Recorder | None
) -> tuple[Form, Box]:
    terms: list[tuple[Array | float, Form]] = []
    shape = factors[0][0][0].center.shape
    constant, noise, size = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    box = Box(np.zeros(shape), np.zeros(shape))
    for (x, x_box), (y, y_box), where in factors:
        spread = relaxation.product_residual(x, x_box, y, y_box, where, recorder)
        terms += [(x_box.mid, y), (y_box.mid, x)]
        constant = constant + spread.mid - x_box.mid * y_box.mid
        noise = noise + spread.rad
        size = size + np.abs(x_box.mid * y_box.mid) + spread.mag
        box = box + product_box(x_box, y_box)
    out = combine(terms, constant, up(noise + 16 * UNIT * size), pool, "relaxation: products")
    return out, out.box.meet(box.lo, box.hi)
