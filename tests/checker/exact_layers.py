"""Small layers of random weights, replayed over small regions and simulated exactly: every value in between compared.

Scales are chosen such that one loss after another is the largest, so that a bound that forgets one is broken.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from codesign.checker import claims, integer, replay
from codesign.checker import lstm as module
from codesign.checker.forms import Box, Symbols, affine
from codesign.checker.lstm import LstmReplay, Pair
from codesign.checker.solver import Facts, Margins
from codesign.domain_checker.lstm import DomainReplay
from codesign.network.model import Dense, Lstm
from codesign.proof.obligation import VARIABLES
from codesign.quantization.integer import IntActivation, IntDense, IntegerNetwork, IntLstm, QuantizedTensor
from codesign.quantization.multipliers import quantize_multiplier
from codesign.semantics import dequantize, run_operator, sigmoid_table, tanh_table
from codesign.semantics.inputs import quantize
from codesign.semantics.primitives import mbqm, sat16

BATCH, STEPS, FEATURES, UNITS = 48, 2, 2, 2
ROOM = 1e-12  # of the simulation, in binary64


class Choices:
    """Slopes that no heuristic would take; nothing is reset or folded."""

    def slopes(self, kind, place, units):
        return [np.full((1, units), v) for v in (0.2, 0.2, 0.05)[: len(VARIABLES[kind])]]

    def resets(self, units):
        return np.zeros((1, units), bool)

    def fold(self, place):
        return 0


class CurvedChoices(Choices):
    def slopes(self, kind, place, units):
        values = (0.2, 0.05) if kind.endswith("square") else (0.0, 0.0, 0.18) if kind.endswith("patch") else (0.2, 0.2)
        return [np.full((1, units), v) for v in values[: len(VARIABLES[kind])]]


@dataclass
class Layer:
    """What makes one loss large. `drift`: of the integer biases, in their steps. `pushed`: a gate and a sign; the
    recurrent part alone carries that gate beyond its range at the second step, no other part of any gate saturates."""

    weight: float = 0.5
    bias: float = 0.5
    drift: int = 300
    cell_shift: int = -12
    hidden_scale: float = 2.0**-15
    cell_clip: float = 0.0
    radius: float = 0.0
    input_scale: float = 2.0**-7
    reach: float = 0.9
    second_order: bool = False
    batch: int = BATCH
    seed: int = 0
    pushed: tuple[int, float] | None = None


def tensor(shape, scale, dtype="int8"):
    return QuantizedTensor("t", shape, dtype, scale, 0)


def lstm_of(c, rng):
    """(float layer, integer one), weights of the integer one rounded to its scale."""
    W, R, b = (rng.uniform(-1, 1, (4, UNITS, *rest)).astype(np.float32) * np.float32(size)
               for rest, size in (((FEATURES,), c.weight), ((UNITS,), c.weight), ((), c.bias)))  # fmt: skip
    if c.pushed is not None:
        gate, sign = c.pushed
        W[:], R[:], b[:] = 0.0, 0.0, 6.0
        R[gate], b[gate] = sign * c.weight, sign * 6.0
    scales = [c.weight / 127] * 4
    hidden = tensor((STEPS, UNITS), c.hidden_scale, "int16" if c.hidden_scale < 2.0**-9 else "int8")
    step = c.input_scale * scales[0]
    op = IntLstm(
        name="l", input=tensor((STEPS, FEATURES), c.input_scale), output=hidden,
        W=np.rint(W / scales[0]).astype(np.int8), R=np.rint(R / scales[0]).astype(np.int8),
        b=np.rint(b / step).astype(np.int32) + rng.integers(-c.drift, c.drift + 1, b.shape),
        W_scale=tuple(scales), R_scale=tuple(scales), cell_shift=c.cell_shift,
        cell_clip_q=0, input_multipliers=(quantize_multiplier(step * 2.0**12),) * 4,
        recurrent_multipliers=(quantize_multiplier(c.hidden_scale * scales[0] * 2.0**12),) * 4,
        forget_multiplier=quantize_multiplier(2.0**-15),
        input_gate_multiplier=quantize_multiplier(2.0 ** (-30 - c.cell_shift)),
        hidden_multiplier=quantize_multiplier(2.0**-30 / c.hidden_scale),
    )  # fmt: skip
    return Lstm("l", W, R, b, True, c.cell_clip), op


class Recorded(LstmReplay):
    """Keeps what it derives in between."""

    def _gates(self, *given):
        self.kept.append([*(made := super()._gates(*given))])
        return made

    def _cell(self, *given):
        self.kept[-1].append(made := super()._cell(*given))
        return made

    def _hidden(self, *given):
        self.kept[-1].append(made := super()._hidden(*given))
        return made


def simulated(layer, op, x, q):
    """(float value, integer value) of gates i and f, g, o, cell and hidden state at every step, (B, units) each."""
    sigma, tau, tau_cell = sigmoid_table(), tanh_table(-12), tanh_table(op.cell_shift)
    W, R, b = (np.asarray(a, np.float64) for a in (layer.W, layer.R, layer.b))
    h, c = np.zeros((2, len(x), UNITS))
    hq, cq = np.zeros((2, len(x), UNITS), np.int64)
    found = []
    for t in range(STEPS):
        real, device = [], []
        for k in range(4):
            z = x[:, t] @ W[k].T + h @ R[k].T + b[k]
            real.append(np.tanh(z) if k == 2 else 1 / (1 + np.exp(-z)))
            first = sat16(mbqm(q[:, t] @ op.W[k].T.astype(np.int64) + op.b[k], op.input_multipliers[k]))
            a = sat16(first + sat16(mbqm(hq @ op.R[k].T.astype(np.int64), op.recurrent_multipliers[k])))
            device.append((tau if k == 2 else sigma)[a + 32768].astype(np.int64))
        i, f, g, o = real
        c = f * c + i * g
        c = np.clip(c, -layer.cell_clip, layer.cell_clip) if layer.cell_clip else c
        h = o * np.tanh(c)
        iq, fq, gq, oq = device
        cq = sat16(sat16(mbqm(fq * cq, op.forget_multiplier)) + sat16(mbqm(iq * gq, op.input_gate_multiplier)))
        tanh_c = tau_cell[cq + 32768].astype(np.int64)
        hq = np.clip(mbqm(tanh_c * oq, op.hidden_multiplier), op.output.q_min, op.output.q_max)
        found.append([
            (np.concatenate([i, f], 1), np.concatenate([iq, fq], 1) * 2.0**-15), (g, gq * 2.0**-15), (o, oq * 2.0**-15),
            (c, cq * 2.0**op.cell_shift), (h, hq * op.output.scale),
        ])  # fmt: skip
    return found


def compared(pair, real, device, what):
    for name, box, values in (("value", pair.value, real), ("difference", pair.difference, device - real)):
        assert ((box.lo - ROOM <= values) & (values <= box.hi + ROOM)).all(), f"{name} of {what}"


def lstm(**settings):
    """A layer over small regions, one input of each simulated."""
    c = Layer(**settings)
    rng = np.random.default_rng(c.seed)
    layer, op = lstm_of(c, rng)
    center = rng.uniform(-c.reach, c.reach, (c.batch, STEPS, FEATURES)).astype(np.float32)
    lo, hi = center - np.float32(c.radius), center + np.float32(c.radius)
    x = np.where(rng.random(center.shape) < 0.5, lo, hi)
    q = quantize(op.input, x).astype(np.int64)
    for rows in [slice(k, k + 1) for k in range(c.batch)] if c.second_order else [slice(None)]:
        symbols = Symbols(c.second_order)
        network = IntegerNetwork("n", op.input, op.output, (op,), "", "tflm-double", b"")
        ends = lo[rows].astype(np.float64), hi[rows].astype(np.float64)
        inputs = replay.input_pairs(network, *ends, np.zeros(len(ends[0]), bool), symbols)
        for t, pair in enumerate(inputs):
            compared(pair, x[rows, t].astype(np.float64), dequantize(op.input, q[rows, t]), f"input {t}")
        replayed = Recorded(layer, [op], Facts(CurvedChoices() if c.second_order else Choices()), symbols)
        replayed.kept = []
        outputs = replayed.run(inputs)
        sim = simulated(layer, op, x[rows].astype(np.float64), q[rows])
        for t, (kept, values) in enumerate(zip(replayed.kept, sim, strict=True)):
            for pair, (real, device), what in zip(kept, values, ("i, f", "g", "o", "cell", "hidden"), strict=True):
                compared(pair, real, device, f"{what}, step {t}")
            compared(outputs[t], *values[-1], f"output {t}")


def domain(**settings):
    """The comparison system step by step, from the reset state."""
    c = Layer(**{"batch": 24, **settings})
    rng = np.random.default_rng(c.seed)
    layer, op = lstm_of(c, rng)
    network = IntegerNetwork("n", op.input, op.output, (op,), "", "tflm-double", b"")
    center = rng.uniform(-c.reach, c.reach, (c.batch, STEPS, FEATURES)).astype(np.float32)
    lo, hi = (center + np.float32(side * c.radius) for side in (-1, 1))
    x = np.where(rng.random(center.shape) < 0.5, lo, hi)
    q = quantize(op.input, x).astype(np.int64)
    for k in range(c.batch):
        symbols, row = Symbols(), slice(k, k + 1)
        ends = lo[row].astype(np.float64), hi[row].astype(np.float64)
        inputs = replay.input_pairs(network, *ends, np.zeros(1, bool), symbols)
        replayed = DomainReplay(layer, [op], Facts(Choices()), symbols)
        replayed.shared = np.concatenate([replayed.R_int.mid, replayed.W_int.mid], axis=1)
        state = np.zeros((6, UNITS))
        for t, (given, values) in enumerate(
            zip(inputs, simulated(layer, op, x[row].astype(float), q[row]), strict=True)
        ):
            state = replayed._step(given.value, given.difference.mag, state, "")
            for (real, device), first, last in ((values[4], 0, 4), (values[3], 2, 5)):
                inside = (-state[first] - ROOM <= real) & (real <= state[first + 1] + ROOM)
                assert inside.all(), f"value {first}, step {t}"
                assert (np.abs(device - real) <= state[last] + ROOM).all(), f"difference {last}, step {t}"


def dense(relu=False, bias=0.5, radius=0.0, output_scale=2.0**-6, seed=0):
    """A dense layer on inputs of small regions; the integer one rounds and saturates."""
    rng = np.random.default_rng(seed)
    W, b = rng.uniform(-1, 1, (5, 3)).astype(np.float32), rng.uniform(-bias, bias, 5).astype(np.float32)
    given, made = tensor((1, 3), 2.0**-7), tensor((1, 5), output_scale)
    step = given.scale / 127
    op = IntDense("d", given, made, np.rint(W * 127).astype(np.int8), np.rint(b / step).astype(np.int32) + 300,
                  (1 / 127,), (quantize_multiplier(step / output_scale),), 0 if relu else -128, 127)  # fmt: skip
    x = rng.uniform(-0.9, 0.9, (200, 1, 3)).astype(np.float32)
    network = IntegerNetwork("n", given, made, (op,), "", "tflm-double", b"")
    symbols, lo, hi = Symbols(), x - np.float32(radius), x + np.float32(radius)
    (row,) = replay.input_pairs(network, lo.astype(np.float64), hi.astype(np.float64), np.zeros(200, bool), symbols)
    x = np.where(rng.random(x.shape) < 0.5, lo, hi)
    out = replay._dense(Dense("d", W, b, "linear"), [op], relu, row, symbols)
    real = x[:, 0].astype(np.float64) @ W.T.astype(np.float64) + b
    device = dequantize(made, run_operator(op, quantize(given, x), network))[:, 0]
    compared(out, np.maximum(real, 0) if relu else real, device, "dense layer")


def noise(second_order, size=0.2):
    """A function behind a noise that the form of its argument's difference is without."""
    z = np.linspace(-2.0, 2.0, 9)[None]
    still, symbols, wide = 0.0 * z, Symbols(second_order), Box(0.0 * z - size, 0.0 * z + size)
    row = Pair(affine([Box(z, z)], symbols), affine([Box(still, still)], symbols).within(wide))
    facts = Facts(CurvedChoices() if second_order else Choices())
    out = module.relaxed("tanh", "", row, wide, (0.0, 0.0), facts, symbols)
    for share in np.linspace(-1.0, 1.0, 5):
        compared(out, np.tanh(z), np.tanh(z + share * size), "noise")


def activation(kind="sigmoid"):
    """An activation as an operator of its own, on every input."""
    given = tensor((1,), 2.0**-5)
    made = QuantizedTensor("a", (1,), "int8", *((2.0**-8, -128) if kind == "sigmoid" else (2.0**-7, 0)))
    op, q = IntActivation("a", kind, given, made), np.arange(-128, 128)[:, None].astype(np.int8)
    network, symbols = IntegerNetwork("n", given, made, (op,), "", "tflm-double", b""), Symbols()
    x, zero = dequantize(given, q), np.zeros((256, 1))
    row = Pair(affine([Box(x, x)], symbols), affine([Box(zero, zero)], symbols))
    out = replay._elementwise(op, row, Facts(Choices()), symbols)
    real = 1 / (1 + np.exp(-x)) if kind == "sigmoid" else np.tanh(x)
    compared(out, real, dequantize(made, run_operator(op, q, network)), kind)


def multipliers(seed=0):
    """What integers are multiplied by under two profiles, and how far their rescaling is off, in exact arithmetic."""
    rng = np.random.default_rng(seed)
    for scale in (0.9, 0.3, 0.04, 0.0007):
        pair = [quantize_multiplier(scale), quantize_multiplier(scale * (1 + 3e-8))]
        weights = rng.integers(-127, 128, (2, 3)).astype(np.int8)
        real, _, slack, rounding = integer.effective(weights, 0.25, [[m] for m in pair], 0.5)
        for m in pair:
            for (i, j), w in np.ndenumerate(weights):
                exactly = Fraction(int(w)) * Fraction(m.real) * Fraction(1, 2) / Fraction(1, 4)
                assert Fraction(float(real.lo[i, j])) <= exactly <= Fraction(float(real.hi[i, j])), "weight"
            v = rng.integers(-(2**20), 2**20, 3000)
            off = np.abs(mbqm(v, m) - v * m.real).max() * 0.5
            assert off <= rounding.min() * (1 + 1e-12) + 1e-9, "rounding"
            assert abs(m.real / pair[0].real - 1) <= slack.min(), "slack"


def softmax(classes=3, dtype="int8", seed=0):
    """A softmax on logits that are known: probabilities, differences and margins."""
    rng = np.random.default_rng(seed)
    given = tensor((classes,), 0.05 if dtype == "int8" else 2.0**-11, dtype)
    made = QuantizedTensor("p", (classes,), dtype, *((2.0**-8, -128) if dtype == "int8" else (2.0**-15, 0)))
    op = IntActivation("s", "softmax", given, made)
    network = IntegerNetwork("n", given, made, (op,), "", "tflm-double", b"")
    q = rng.integers(-128, 128, (150, classes)).astype(dtype) * (1 if dtype == "int8" else 40)
    q = (q * rng.choice([0.1, 1.0], (150, 1))).astype(dtype)
    real = dequantize(given, q) + rng.uniform(-1, 1, q.shape) * 0.02
    device = dequantize(made, run_operator(op, q, network))
    gaps = [v[:, :, None] - v[:, None, :] for v in (real, dequantize(given, q) - real, dequantize(given, q))]
    m, facts = Margins(*(Box.around(gap) for gap in gaps)), Facts(Choices())
    output, change, sums = facts.softmax(op, m)
    p = np.exp(real - real.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    compared(Pair(output, change), p, device, "softmax")
    assert (np.abs(device - p).sum(1) <= sums + ROOM).all(), "sum of magnitudes"
    assert (device[:, :, None] - device[:, None, :] >= facts.output_margins(op, m) - ROOM).all(), "integer margins"
    assert (p[:, :, None] - p[:, None, :] >= facts.probability_margins(m.value) - ROOM).all(), "real margins"
    for least in (0.0, 0.3, 0.5, 0.9):
        for i in range(classes):
            for k in np.flatnonzero((p.argmax(1) == i) & (p[:, i] > least + 1e-9)):
                wide = Box(*(end[k : k + 1] + w for end, w in ((m.value.lo, -1.0), (m.value.hi, 1.0))))
                floor = facts.confident(i, least, wide)
                assert floor is not None, "confident"
                assert (gaps[0][k, i] >= floor - ROOM).all(), "confident"


LSTMS = (
    {},
    {"radius": 0.02},
    {"hidden_scale": 2.0**-7},
    {"weight": 10.0, "bias": 6.0},
    {"cell_shift": -16, "bias": 3.0},
    {"cell_shift": -9},
    {"hidden_scale": 2.0**-17, "bias": 2.0},
    {"cell_clip": 0.1},
    {"reach": 1.5},
    {"second_order": True, "batch": 4, "radius": 0.02},
    {"second_order": True, "batch": 4, "radius": 0.3},
    {"second_order": True, "batch": 4, "drift": 9000},
)


def every():
    """The quick ones first."""
    for relu in (False, True):
        for bias, radius in ((0.5, 0.0), (4.0, 0.0), (0.5, 0.3)):
            dense(relu, bias, radius)
    for second_order in (False, True):
        noise(second_order)
    for kind in ("sigmoid", "tanh"):
        activation(kind)
    multipliers()
    for settings in LSTMS:
        lstm(**settings)
    conclusions()
    for classes, dtype in ((2, "int8"), (3, "int8"), (3, "int16")):
        softmax(classes, dtype)


# Gates i, f, o above their range and f below it: of g, tanh leaves less beyond 8 than its table is off.
PUSHED = tuple(
    {"pushed": pushed, "weight": 5.0, "drift": 0, "cell_shift": -14}
    for pushed in ((0, 1.0), (1, 1.0), (3, 1.0), (1, -1.0))
)
DOMAINS = (
    {},
    {"radius": 0.05},
    {"hidden_scale": 2.0**-7},
    {"hidden_scale": 2.0**-17, "bias": 2.0, "drift": 0},
    {"cell_shift": -9},
    {"cell_shift": -16, "bias": 3.0, "drift": 0},
    {"weight": 10.0, "bias": 6.0},
    {"cell_clip": 0.1},
    {"drift": 9000},
    *PUSHED,
)


def conclusions(seeds=range(20), classes=4):
    """Norms, and margins under a condition, of samples whose ranges are known."""
    facts = Facts(Choices())
    for seed in seeds:
        rng = np.random.default_rng(seed)
        real = rng.uniform(-1, 1, (60, classes))
        moved = rng.uniform(-0.3, 0.3, real.shape) * np.sign(real)
        gaps = [v[:, :, None] - v[:, None, :] for v in (real, moved, real + moved)]
        m = Margins(*(Box.around(gap.min(0)[None]) for gap in gaps))
        m = Margins(*(Box(box.lo, Box.around(gap.max(0)[None]).hi) for box, gap in zip(m, gaps, strict=True)))
        for i in range(classes):
            floor = np.where(rng.random(classes) < 0.5, rng.uniform(-0.5, 0.5, classes), -np.inf)
            chosen = (gaps[0][:, i] >= floor).all(1)
            lower = claims._given(m, i, floor, None, facts)
            assert (gaps[2][chosen, i] >= lower - ROOM).all(), "margins under a condition"
        for given in (moved[:1], moved[1:2], moved):
            rows = np.abs(given).reshape(len(given), 2, -1)
            linf, l2, l1 = claims._norms(np.abs(given).max(0), rows.sum(2).max(0))
            assert np.abs(given).max() <= linf, "Linf"
            assert np.sqrt(np.square(given).sum(1)).max() <= l2, "L2"
            assert np.abs(given).sum(1).max() <= l1, "L1"
