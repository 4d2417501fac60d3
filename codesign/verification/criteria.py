"""What can be asked of a pair of networks, and the rules that prove it from pairwise ranges (docs/regions.md).

Every rule is conservative: it answers True only where the statement holds for every input of the region, given sound
ranges of l_i - l_j (float), of the differences d_i - d_j and of the integer network's l_i - l_j, before a softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.proof.exponentials import confident_margins
from codesign.proof.float32 import softmax_rounding
from codesign.proof.thresholds import Threshold
from codesign.quantization.integer import IntActivation
from codesign.verification import head
from codesign.verification.affine import Array, Box
from codesign.verification.head import Margins
from codesign.verification.relaxation import Recorder, noting

Status = Literal["proved", "refuted", "unknown"]
Flags = npt.NDArray[np.bool_]
# Those whose status is told for every region, beyond epsilon and top-1 equality.
ORDER_CRITERIA = ("top1_above", "topk", "ranking")
THRESHOLDS = "thresholds"


@dataclass(frozen=True)
class Criteria:
    """What has to be proved, on every region unless a share is given.

    `epsilon`: |integer - float| <= epsilon on every output. `top1_share`: equal top-1 class on that share of counted
    regions. `top1_above`: equal top-1 class for every input whose top-1 probability in the float network exceeds it.
    `topk`: both networks' sets of the K largest outputs are equal. `ranking` (I, J): output I is above output J in the
    integer network wherever it is in the float network. `thresholds`: of each, both networks' outputs are on the same
    side; `Threshold`s, numbers, or texts as of --threshold.

    Those on classes and their order are for models of at least two outputs (a row).
    """

    epsilon: float | None = None
    top1_share: float | None = None
    top1_above: float | None = None
    topk: int | None = None
    ranking: tuple[int, int] | None = None
    thresholds: Sequence[Threshold | float | str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "thresholds", tuple(dict.fromkeys(map(Threshold.of, self.thresholds))))
        if self.epsilon is not None and not (np.isfinite(self.epsilon) and self.epsilon >= 0):
            raise InputError(f"epsilon {self.epsilon} is not a bound; give --epsilon E with E at least 0")
        if self.top1_share is not None and not 0 <= self.top1_share <= 1:
            raise InputError(f"the top-1 share {self.top1_share} is not between 0 and 1; give for example 0.8")
        if self.top1_above is not None and not 0 <= self.top1_above < 1:
            raise InputError(
                f"the confidence {self.top1_above} is not a probability below 1; give for example --top1-above 0.9"
            )
        if self.topk is not None and self.topk < 1:
            raise InputError(f"there are no {self.topk} largest outputs; give --topk K with K at least 1")
        if self.ranking is not None and (self.ranking[0] == self.ranking[1] or min(self.ranking) < 0):
            raise InputError(
                f"the pair {self.ranking[0]},{self.ranking[1]} cannot be ranked; give --ranking I,J with two different "
                "outputs, counted from 0"
            )

    @property
    def asked(self) -> bool:
        return any(v is not None for v in (self.epsilon, self.top1_share, *self.named().values()))

    def to_json(self) -> dict[str, Any]:
        """For the certificate."""
        orders = {name: list(v) if isinstance(v, tuple) else v for name, v in self.orders().items()}
        limits = [t.to_json() for t in self.limits().values()] or None
        return {"epsilon": self.epsilon, "top1_share": self.top1_share, **orders, THRESHOLDS: limits}

    def orders(self) -> dict[str, float | int | tuple[int, int] | None]:
        return {"top1_above": self.top1_above, "topk": self.topk, "ranking": self.ranking}

    def limits(self) -> dict[str, Threshold]:
        """The thresholds, each with the name that its status and counterexamples go by."""
        return {f"{THRESHOLDS}/{k}": Threshold.of(wanted) for k, wanted in enumerate(self.thresholds)}

    def named(self) -> dict[str, float | int | tuple[int, int] | Threshold | None]:
        """What is asked of every region and has a status of its own there, beyond epsilon."""
        return {**self.orders(), **self.limits()}

    def check_outputs(self, outputs: int, classes: bool = True) -> None:
        """InputError where a network with that many outputs a row cannot be asked this; `classes`: as their scores."""
        about = {"--require-top1": self.top1_share, "--top1-above": self.top1_above, "--topk": self.topk,
                 "--ranking": self.ranking}  # fmt: skip
        for option in (name for name, wanted in about.items() if wanted is not None):
            if outputs < 2:
                raise InputError(
                    f"{option} compares classes, but this model has one output, which is the largest in both networks "
                    "whatever it is; give --threshold T (both on the same side of T) or --epsilon E"
                )
            if not classes and option != "--ranking":
                raise InputError(
                    f"{option} compares classes, but the samples' y are real values, to which no class belongs; give "
                    "--epsilon E or --threshold T"
                )
        if self.topk is not None and self.topk >= outputs:
            raise InputError(
                f"the set of the {self.topk} largest of {outputs} outputs is always the same; give --topk K with K "
                f"below {outputs}"
            )
        named = [*(self.ranking or ()), *(t.output for t in self.limits().values() if t.output is not None)]
        if max(named, default=0) >= outputs:
            raise InputError(f"output {max(named)} does not exist; outputs are counted from 0 to {outputs - 1}")


def proofs(
    criteria: Criteria, rows: Sequence[Margins], softmax: IntActivation | None, recorder: Recorder | None = None
) -> dict[str, Flags]:
    """Which of the order criteria asked for are proved, (B,) flags each; every row (step) has to satisfy them.

    `recorder` takes the facts about exponentials that this rests on.
    """
    found: dict[str, Flags] = {}
    if criteria.top1_above is not None:
        found["top1_above"] = _every(top1_above(m, softmax, criteria.top1_above, recorder) for m in rows)
    if criteria.topk is not None:
        found["topk"] = _every(topk(m, softmax, criteria.topk, recorder) for m in rows)
    if criteria.ranking is not None:
        found["ranking"] = _every(ranking(m, softmax, *criteria.ranking, recorder) for m in rows)
    return found


def _every(flags: object) -> Flags:
    return np.all(list(flags), axis=0)  # type: ignore[call-overload, no-any-return]


def _conditioned(m: Margins, floor: Array) -> Margins:
    """The ranges under the condition l_i - l_j >= floor (B, M, M), -inf where there is none.

    (l + d)_i - (l + d)_j is at least the floor plus the least difference, and margins are antisymmetric. Where nothing
    satisfies the condition, a range may be empty.
    """
    value = Box(np.maximum(m.value.lo, floor), np.minimum(m.value.hi, -_transposed(floor)))
    total = value.lo + m.difference.lo
    low = np.maximum(m.integer.lo, total - 1e-14 * (np.abs(value.lo) + np.abs(m.difference.lo)))
    return Margins(value, m.difference, Box(low, np.minimum(m.integer.hi, -_transposed(low))))


def _transposed(x: Array) -> Array:
    return np.swapaxes(x, 1, 2)


def _output_lower(m: Margins, softmax: IntActivation | None, recorder: Recorder | None) -> Array:
    """Least margins (B, M, M) between the integer network's outputs themselves."""
    return m.integer.lo if softmax is None else head.softmax_margins(softmax, m, recorder).lo


def top1_above(m: Margins, softmax: IntActivation | None, delta: float, recorder: Recorder | None = None) -> Flags:
    """Equal top-1 wherever the float network's largest probability exceeds `delta`.

    Where p_i > delta, sum_{j != i} exp(l_j - l_i) < (1 - delta) / delta; every other term k is at least
    exp(-max(l_i - l_k)), so l_i - l_j exceeds -log of what is left. A class that is top-1 has l_i - l_j >= 0 besides.
    Every class that can be top-1 with such a probability has to beat all others in the integer network's output.
    """
    batch, classes, _ = m.value.lo.shape
    others = ~np.eye(classes, dtype=bool)
    ok = np.ones(batch, bool)
    delta = max(delta - softmax_rounding(classes), 0.0)  # of the float32 logits' own softmax
    for i in range(classes):
        bound, impossible = confident_margins(m.value.hi[:, i], i, delta, noting(recorder, f"top-1 class {i}"))
        floor = np.full(m.value.lo.shape, -np.inf)
        floor[:, i] = np.where(others[i], bound, -np.inf)
        lower = _output_lower(_conditioned(m, floor), softmax, recorder)[:, i]
        ok &= impossible | (np.where(others[i], lower, np.inf) > 0).all(1)
    return ok


def topk(m: Margins, softmax: IntActivation | None, count: int, recorder: Recorder | None = None) -> Flags:
    """One set of `count` outputs whose members beat all others, in the float network and in the integer output."""
    beats = (m.value.lo > 0) & (_output_lower(m, softmax, recorder) > 0)
    order = np.argsort(-beats.sum(2), axis=1, kind="stable")
    inside = np.zeros(order.shape, bool)
    np.put_along_axis(inside, order[:, :count], True, axis=1)
    needed = inside[:, :, None] & ~inside[:, None, :]
    return np.asarray((beats | ~needed).all((1, 2)))


def ranking(
    m: Margins, softmax: IntActivation | None, above: int, below: int, recorder: Recorder | None = None
) -> Flags:
    """`above` beats `below` in the integer output for every input on which it does so in the float network.

    Proved where it never does; where its difference cannot fall behind and no softmax rounds the outputs together; or
    where the margin stays positive under the condition that the float network's is.
    """
    never = m.value.hi[:, above, below] <= 0
    floor = np.full(m.value.lo.shape, -np.inf)
    floor[:, above, below] = 0.0
    kept = _output_lower(_conditioned(m, floor), softmax, recorder)[:, above, below] > 0
    monotone = (m.difference.lo[:, above, below] >= 0) & (softmax is None)
    return np.asarray(never | kept | monotone)
