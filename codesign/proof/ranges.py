"""What the outputs' ranges alone say of |integer - float|, and from where on a bound says no more: it is vacuous.

An LSTM's float hidden values lie in [-1, 1], a sigmoid's and a softmax's in [0, 1], a tanh's in [-1, 1]; dense layers
follow by interval arithmetic. The integer network's outputs lie in what its last tensor represents. No input is looked
at. Sums are correctly rounded (math.fsum) and then widened, so that every machine gets the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from codesign.proof.float32 import region_total
from codesign.quantization.align import DenseStage, LstmStage, ReshapeStage, Stage
from codesign.quantization.integer import IntActivation, IntDense, IntegerNetwork, QuantizedTensor

Array = npt.NDArray[np.float64]
NAMES = ("logits", "outputs")
_ROOM = 2.0**-50  # of a sum's magnitudes: its products' roundings, its own, and that of this slack


class Ranges(NamedTuple):
    """Of n values of both networks: `real` and `integer` (lo, hi), each (n,), in real units, rounded outward."""

    real: tuple[Array, Array]
    integer: tuple[Array, Array]

    @property
    def difference(self) -> tuple[Array, Array]:
        """Range of integer - float, (n,) each, rounded outward."""
        lo, hi = self.integer[0] - self.real[1], self.integer[1] - self.real[0]
        return np.nextafter(lo, -np.inf), np.nextafter(hi, np.inf)

    @property
    def vacuous_from(self) -> Array:
        """(n,): a bound of this size says nothing: any pair of values in the ranges keeps it, or it is as wide as all
        that the integer output can represent."""
        lo, hi = self.difference
        return np.asarray(np.minimum(np.maximum(-lo, hi), self.integer[1] - self.integer[0]))

    def vacuous(self, bound: npt.ArrayLike) -> bool:
        """Whether bounds (n,) on |integer - float| say no more than the ranges for some value."""
        return bool((np.asarray(bound) >= self.vacuous_from).any())

    def ends(self, value: Any) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Ranges of the float values and of integer - float, where `value` (`lo`, `hi`: (..., n)) holds the float's."""
        lo, hi = np.maximum(value.lo, self.real[0]), np.minimum(value.hi, self.real[1])
        change = np.nextafter(self.integer[0] - hi, -np.inf), np.nextafter(self.integer[1] - lo, np.inf)
        return (np.broadcast_to(self.real[0], lo.shape), np.broadcast_to(self.real[1], hi.shape)), change

    def to_json(self) -> dict[str, Any]:
        told = {"float": self.real, "integer": self.integer}
        ends = {f"{name}_{end}": box[k].tolist() for name, box in told.items() for k, end in enumerate(("lo", "hi"))}
        return {**ends, "vacuous_from": self.vacuous_from.tolist()}


def stated_ranges(stages: Sequence[Stage], network: IntegerNetwork) -> dict[str, Any]:
    """What a certificate has under 'ranges'."""
    return {name: ranges.to_json() for name, ranges in zip(NAMES, output_ranges(stages, network), strict=True)}


def implied(region: dict[str, Any], ranges: Ranges, rows: int) -> dict[str, Any]:
    """What has to stand in a region's entry, given its differences, 'float32' and the outputs' ranges.

    `rows`: of outputs, one a step where the network gives a sequence.
    """
    bound = np.maximum(np.negative(region["difference_lo"]), region["difference_hi"])
    total = region_total({**region, "bound": bound})
    found = {"bound": bound.tolist(), "bound_max": float(bound.max()), "vacuous": ranges.vacuous(total)}
    found |= {"total_bound": total.tolist(), "total_bound_max": float(total.max())}
    if region.get("output_step_bound") is not None:
        found["output_step_bound"] = bound.reshape(rows, -1).max(1).tolist()
    return found


def says_nothing(stated: dict[str, Any], logits: Ranges, classes: int) -> bool:
    """Whether a certificate's 'all_inputs' is vacuous: its bound is, or of several `classes` no float logits can be as
    far apart as the margin that keeps the class."""
    margin, widest = stated["same_class_margin"], logits.real[1].max() - logits.real[0].min()
    nowhere = classes > 1 and margin is not None and margin >= widest
    return bool(nowhere or logits.vacuous(stated["total_logit_bound"]))


def output_ranges(stages: Sequence[Stage], network: IntegerNetwork) -> tuple[Ranges, Ranges]:
    """(before a final softmax, at the output), of all outputs flattened; the same where there is no softmax.

    Holds for every input and every semantics profile. `stages`: the paired layers, an LSTM among them.
    """
    lo = hi = np.zeros(0)
    op: object = None
    logits: tuple[tuple[Array, Array], object] | None = None
    for stage in stages:
        if isinstance(stage, LstmStage):
            hi = np.ones(stage.float_layer.units)
            lo = -hi
        elif not len(hi):
            continue  # before the first LSTM nothing bounds the values
        elif isinstance(stage, DenseStage):
            lo, hi = _dense(stage.float_layer.W.astype(np.float64), stage.float_layer.b.astype(np.float64), lo, hi)
            if stage.relu:
                lo, hi = np.maximum(lo, 0.0), np.maximum(hi, 0.0)
        elif isinstance(stage, ReshapeStage):
            lo, hi = _reshaped(lo, hi, stage.shape[-1])
        elif stage.kind == "relu":
            lo, hi = np.maximum(lo, 0.0), np.maximum(hi, 0.0)
        else:
            if stage.kind == "softmax":
                logits = (lo, hi), op
            hi = np.ones_like(hi)
            lo = -hi if stage.kind == "tanh" else np.zeros_like(hi)
        op = stage.int_op if not isinstance(stage, ReshapeStage) else op
    count = int(np.prod(network.output.shape))
    found = _ranges((lo, hi), op, count)
    return (found if logits is None else _ranges(*logits, count)), found


def _dense(W: Array, b: Array, lo: Array, hi: Array) -> tuple[Array, Array]:
    """W x + b for x in [lo, hi]; x may be several steps of such rows, one after the other."""
    repeat = W.shape[1] // len(lo)
    first, second = W * np.tile(lo, repeat), W * np.tile(hi, repeat)
    ends = np.minimum(first, second), np.maximum(first, second)
    size = [_ROOM * math.fsum(row) + 1e-300 for row in np.column_stack([*map(np.abs, ends), np.abs(b)]).tolist()]
    low, high = ([math.fsum(row) for row in np.column_stack([end, b]).tolist()] for end in ends)
    return np.subtract(low, size), np.add(high, size)


def _reshaped(lo: Array, hi: Array, width: int) -> tuple[Array, Array]:
    """Rows of another width out of the same values, row-major."""
    if width % len(lo) == 0:
        return np.tile(lo, width // len(lo)), np.tile(hi, width // len(hi))
    return np.full(width, lo.min()), np.full(width, hi.max())


def _ranges(real: tuple[Array, Array], op: object, count: int) -> Ranges:
    repeat = count // len(real[0])
    ends = _representable(op)
    integer = np.full(count, ends[0]), np.full(count, ends[1])
    return Ranges((np.tile(real[0], repeat), np.tile(real[1], repeat)), integer)


def _representable(op: Any) -> tuple[float, float]:
    """Smallest and largest real value that an operator gives; a float32 scale times such an integer is exact."""
    tensor: QuantizedTensor = op.output
    first, last = (op.act_min, op.act_max) if isinstance(op, IntDense) else (tensor.q_min, tensor.q_max)
    if isinstance(op, IntActivation) and op.kind == "relu":
        first = max(first, min(tensor.zero_point, last))
    return tensor.scale * (first - tensor.zero_point), tensor.scale * (last - tensor.zero_point)
