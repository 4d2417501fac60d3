"""One float network as a recurrent chain, and its affine forms over a region: the float half of the verifier.

`Recurrent` is the shape that single-network robustness handles: LSTM layers, then dense layers without nonlinearity
(merged into one readout of the last hidden state). `zonotope` propagates affine forms through it and gives boxes for
every gate input and cell state, logits, and margins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from codesign.errors import InputError
from codesign.network import without_final_softmax
from codesign.network.model import Activation, Dense, FloatNetwork, Lstm, Reshape
from codesign.verification import relaxation
from codesign.verification.affine import UNIT, Array, Box, Form, Matrix, Pool, combine, linear, product_box, up
from codesign.verification.relaxation import Recorder


@dataclass(frozen=True, eq=False)
class Cell:
    """One LSTM layer: W (4H, D), R (4H, H), b (4H,), gates in the order i, f, c, o."""

    name: str
    W: Array
    R: Array
    b: Array

    @property
    def units(self) -> int:
        return int(self.R.shape[1])


@dataclass(frozen=True, eq=False)
class Recurrent:
    """`cells` on every step, then logits V h + v of the last hidden state; V, v known up to `V_slack`, `v_slack`."""

    cells: tuple[Cell, ...]
    steps: int
    V: Array
    v: Array
    V_slack: Array
    v_slack: Array

    @property
    def classes(self) -> int:
        return int(self.V.shape[0])


def recurrent(network: FloatNetwork) -> Recurrent:
    """The network as a `Recurrent`. InputError where a layer is outside of what robustness certification handles."""
    cells: list[Cell] = []
    readout: list[Dense] = []
    for layer in without_final_softmax(network):
        if isinstance(layer, Lstm) and not readout:
            if layer.acting_clip(network.input_shape[0]):
                raise InputError(f"layer '{layer.name}' clips its cell state, which 'codesign robust' does not model")
            weights = (a.astype(np.float64) for a in (layer.W, layer.R, layer.b))
            W, R, b = weights
            cells.append(Cell(layer.name, W.reshape(-1, layer.features), R.reshape(-1, layer.units), b.reshape(-1)))
        elif isinstance(layer, Dense) and cells and layer.activation in ("linear", "softmax"):
            readout.append(layer)
        elif not (isinstance(layer, Activation) and layer.kind == "linear") and not _is_flat(layer):
            raise InputError(
                f"layer '{layer.name}' is not supported by 'codesign robust': it takes LSTM layers followed by dense "
                "layers without nonlinearity, and a softmax"
            )
    lstms = [layer for layer in network.layers if isinstance(layer, Lstm)]
    if not cells or not readout or lstms[-1].return_sequences:
        raise InputError(
            "'codesign robust' needs an LSTM that gives its last step, and a dense layer of classes after it"
        )
    V, v = readout[0].W.astype(np.float64), readout[0].b.astype(np.float64)
    size, offset = np.abs(V), np.abs(v)
    for dense in readout[1:]:
        W, b = dense.W.astype(np.float64), dense.b.astype(np.float64)
        V, v = W @ V, W @ v + b
        size, offset = np.abs(W) @ size, np.abs(W) @ offset + np.abs(b)
    lost = 0.0 if len(readout) == 1 else 8.0 * UNIT * sum(d.W.shape[1] + 4 for d in readout)
    if V.shape[0] < 2:
        raise InputError("the network has a single output: there is no class to certify")
    return Recurrent(tuple(cells), network.input_shape[0], V, v, lost * size, lost * offset)


def _is_flat(layer: object) -> bool:
    return isinstance(layer, Reshape) and len(layer.shape) == 1


@dataclass(frozen=True, eq=False)
class Enclosure:
    """Boxes of one region, (1, n) each: `gates[t][l]` and `cells[t][l]`; `logits`; `margins` (M, M)."""

    gates: list[list[Box]]
    cells: list[list[Box]]
    logits: Box
    margins: Box


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
    for t in range(net.steps):
        x = inputs.rows(slice(t * features, (t + 1) * features))
        gates.append([])
        cells.append([])
        for index, cell in enumerate(net.cells):
            z = linear([(matrices[index][0], x), (matrices[index][1], hidden[index])], cell.b)
            gates[t].append(z.box)
            where = f"{cell.name}[{t}]"
            hidden[index], states[index] = _step(z, states[index], cell.units, pool, where, recorder)
            cells[t].append(states[index][1])
            x = hidden[index]
    out = linear([(Matrix(net.V, net.V_slack), hidden[-1])], net.v, net.v_slack)
    return Enclosure(gates, cells, out.box, _margins(out))


def _margins(out: Form) -> Box:
    """Ranges of l_i - l_j, (M, M)."""
    generators, center, size = out.generators[0], out.center[0], out.magnitude[0]
    radius = np.abs(generators[:, None] - generators[None]).sum(-1)
    lost = out.error[0][:, None] + out.error[0][None] + 4 * UNIT * (generators.shape[1] + 8) * (size[:, None] + size)
    middle, radius = center[:, None] - center[None], up(radius + lost)
    return Box(middle - radius, middle + radius)


def _step(
    z: Form, state: tuple[Form, Box], units: int, pool: Pool, where: str, recorder: Recorder | None
) -> tuple[Form, tuple[Form, Box]]:
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
    squashed = _activated("tanh", cell[0], cell[1], pool, f"{where} cell tanh", recorder)
    return _sum_of_products([(o, squashed, f"{where} output * tanh")], pool, recorder)[0], cell


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
