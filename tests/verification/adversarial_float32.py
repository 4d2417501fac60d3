"""Float32 programs of the worst kind, simulated in float64: every operation rounds to whichever side is asked for.

An operation's result r becomes r (1 + s 2^-24), or for sigmoid and tanh r + s units 2^-24, with |s| <= 1 chosen for
each site of the computation; so each run is one that the model of `codesign.proof.float32` allows. (float64's own
rounding is a part in 2^29 of these.)
"""

import numpy as np

from codesign.network.evaluation import activate
from codesign.network.model import Activation, Dense, Lstm
from codesign.proof.float32 import EXP, SIGMOID, TANH, UNIT


class Adversary:
    """Evaluates a network for a batch of choices of signs (S, sites); sites are numbered as they come up."""

    def __init__(self, signs=None):
        self.signs, self.site = signs, 0

    def _sign(self, shape):
        """One sign a value, the same for all operations of the value's own sum."""
        count = int(np.prod(shape[1:]))
        first, self.site = self.site, self.site + count
        if self.signs is None:
            return np.zeros(shape)
        return self.signs[:, first : self.site].reshape(-1, *shape[1:])

    def dot(self, terms, sign):
        """Sums (S, n) of terms (S, n, k), largest first, every product and partial sum pushed towards `sign`."""
        order = np.argsort(-np.abs(terms), axis=2)
        terms = np.take_along_axis(terms + np.abs(terms) * UNIT * sign[:, :, None], order, axis=2)
        total = terms[:, :, 0]
        for k in range(1, terms.shape[2]):
            total = total + terms[:, :, k]
            total = total + np.abs(total) * UNIT * sign
        return total

    def affine(self, parts, b):
        terms = [W[None] * x[:, None, :] for W, x in parts]
        shape = (len(parts[0][1]), len(b))
        bias = np.broadcast_to(b[None, :, None], (*shape, 1))
        return self.dot(np.concatenate([*terms, bias], axis=2), self._sign(shape))

    def function(self, kind, z):
        units = {"sigmoid": SIGMOID, "tanh": TANH}[kind]
        return activate(kind, z) + units * UNIT * self._sign(z.shape)

    def rounded(self, value):
        return value + np.abs(value) * UNIT * self._sign(value.shape)

    def lstm(self, layer, rows):
        H = layer.units
        W, R = (v.astype(np.float64).reshape(4 * H, -1) for v in (layer.W, layer.R))
        b = layer.b.astype(np.float64).reshape(-1)
        h = c = np.zeros((len(rows[0]), H))
        outputs = []
        for x in rows:
            z = self.affine([(W, x), (R, h)], b)
            i, f, g, o = (self.function("tanh" if k == 2 else "sigmoid", z[:, k * H : (k + 1) * H]) for k in range(4))
            c = self.rounded(self.rounded(f * c) + self.rounded(i * g))
            if layer.cell_clip:
                c = np.clip(c, -layer.cell_clip, layer.cell_clip)
            h = self.rounded(o * self.function("tanh", c))
            outputs.append(h)
        return outputs if layer.return_sequences else outputs[-1:]

    def softmax(self, logits):
        v = self.rounded(logits - logits.max(1, keepdims=True))
        powers = np.exp(v)
        powers = powers + powers * (EXP + np.abs(v)) * UNIT * self._sign(v.shape)
        total = powers[:, :1]
        sign = self._sign(total.shape)
        for k in range(1, powers.shape[1]):
            total = total + powers[:, k : k + 1]
            total = total + total * UNIT * sign
        return self.rounded(powers / total)

    def activation(self, kind, x):
        if kind in ("linear", "relu"):
            return activate(kind, x)
        return self.softmax(x) if kind == "softmax" else self.function(kind, x)

    def run(self, network, x):
        """Outputs (S, outputs) for one input (T, D)."""
        count = 1 if self.signs is None else len(self.signs)
        rows = [np.broadcast_to(step.astype(np.float64), (count, len(step))) for step in x]
        self.site = 0
        for layer in network.layers:
            if isinstance(layer, Lstm):
                rows = self.lstm(layer, rows)
            elif isinstance(layer, Dense):
                W, b = layer.W.astype(np.float64), layer.b.astype(np.float64)
                rows = [self.activation(layer.activation, self.affine([(W, row)], b)) for row in rows]
            elif isinstance(layer, Activation):
                rows = [self.activation(layer.kind, row) for row in rows]
            else:
                whole = np.concatenate(rows, axis=1)
                rows = np.split(whole, whole.shape[1] // layer.shape[-1], axis=1)
        return np.concatenate(rows, axis=1)


def worst_errors(network, x, rng, rounds=2, at_once=256):
    """(outputs,) errors that directed roundings reach at one input (T, D): signs by each site's own effect."""
    plain = Adversary()
    exact = plain.run(network, x)[0]
    sites, best = plain.site, np.zeros(len(exact))
    start = np.zeros(sites)
    for _ in range(rounds):
        effects = np.zeros((sites, len(exact)))
        for first in range(0, sites, at_once):
            chosen = np.arange(first, min(first + at_once, sites))
            signs = np.broadcast_to(start, (len(chosen), sites)).copy()
            signs[np.arange(len(chosen)), chosen] += 1.0
            effects[chosen] = Adversary(signs).run(network, x) - Adversary(start[None]).run(network, x)
        directed = np.concatenate([np.sign(effects.T), -np.sign(effects.T), rng.choice([-1.0, 1.0], (8, sites))])
        found = np.abs(Adversary(directed).run(network, x) - exact)
        best = np.maximum(best, found.max(0))
        start = directed[int(found.max(1).argmax())] * (1 - 1e-3)
    return best
