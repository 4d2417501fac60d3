"""Single-network robustness: is the top-1 class the same for every input of an L-inf ball?

Float network: the best of affine forms (`recurrent.zonotope`) and second-order bounds (`second_order`), on the margins
of the class over each rival and on the logits. Integer network: the float network of its dequantized weights is bounded
in the same way, and the joint differential zonotope adds every rounding, table and saturation of the integer one; its
class is certified on its own integer output. A counterexample is exact: the float network in float64, the integer one
by simulation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from codesign.errors import InputError
from codesign.network import evaluate
from codesign.network.model import Activation, Dense, FloatNetwork, Layer, Lstm, Reshape
from codesign.processes import in_order
from codesign.quantization import Calibration
from codesign.quantization.integer import IntActivation, IntDense, IntegerNetwork, IntLstm, IntReshape
from codesign.soundness import require_never, require_within
from codesign.verification.affine import Array, Box, require_round_to_nearest
from codesign.verification.audit import ProofMode, ProofSummary, discharge
from codesign.verification.gradient import input_gradient
from codesign.verification.recurrent import Enclosure, Recurrent, recurrent, zonotope
from codesign.verification.regions import Region, ball, input_domain
from codesign.verification.relaxation import Recorder
from codesign.verification.second_order import Mode, SecondOrder

Status = Literal["robust", "refuted", "unknown"]
# The evaluation's own rounding is far below this: a smaller margin is no counterexample.
_EXACT = 1e-9


@dataclass(frozen=True)
class RobustOptions:
    """`mode`: see `second_order`. `steps`, `restarts`: of the gradient attack. `proof`: obligations to discharge."""

    mode: Mode = "tight"
    steps: int = 20
    restarts: int = 2
    seed: int = 0
    jobs: int = 1
    proof: ProofMode = "all"
    audit_sample: int = 25
    second_sample: int = 10
    prover: str = "auto"


@dataclass(frozen=True, eq=False)
class RobustRegion:
    """One ball: `label` is the class, `lower`, `upper` (M,) enclose the logits, `margin` bounds logit_label - logit_k
    over all rivals k from below, `attack` is the smallest margin that was attained (on float logits)."""

    sample: int
    label: int
    status: Status
    lower: Array
    upper: Array
    margin: float
    attack: float
    counterexample: Array | None
    seconds: float
    cpu_seconds: float
    proof: ProofSummary

    def __post_init__(self) -> None:
        """No ball is robust in which another class was found: SoundnessAlarm."""
        require_never(
            f"sample {self.sample}: class {self.label} was derived to hold, and an exact evaluation finds another",
            self.status == "robust" and self.counterexample is not None,
            lambda: {"input": self.counterexample, "class": self.label, "margin": self.margin},
        )

    @property
    def width(self) -> float:
        """Mean width of the logits' enclosures."""
        return float((self.upper - self.lower).mean())


@dataclass(frozen=True, eq=False)
class Robustness:
    """All regions of a run."""

    network: str
    kind: str
    sha256: str
    radius: float
    options: RobustOptions
    regions: tuple[RobustRegion, ...]
    proof: ProofSummary = field(default_factory=lambda: ProofSummary("none"))

    def count(self, status: Status) -> int:
        return sum(r.status == status for r in self.regions)

    def document(self) -> dict[str, Any]:
        """For --json."""
        n = len(self.regions)
        return {
            "network": self.network,
            "kind": self.kind,
            "sha256": self.sha256,
            "radius": self.radius,
            "mode": self.options.mode,
            "seed": self.options.seed,
            "regions": [
                {
                    "sample": r.sample,
                    "class": r.label,
                    "status": r.status,
                    "logit_lower": r.lower.tolist(),
                    "logit_upper": r.upper.tolist(),
                    "mean_logit_width": r.width,
                    "margin_lower": r.margin,
                    "margin_attained": r.attack,
                    "counterexample": None if r.counterexample is None else r.counterexample.tolist(),
                    "seconds": r.seconds,
                    "cpu_seconds": r.cpu_seconds,
                }
                for r in self.regions
            ],
            "summary": {
                "regions": n,
                "robust": self.count("robust"),
                "refuted": self.count("refuted"),
                "unknown": self.count("unknown"),
                "mean_logit_width": sum(r.width for r in self.regions) / n,
                "cpu_seconds_per_region": sum(r.cpu_seconds for r in self.regions) / n,
            },
            "proof": self.proof.to_json(),
        }


@dataclass(frozen=True, eq=False)
class _Task:
    network: FloatNetwork | IntegerNetwork
    twin: FloatNetwork
    sample: int
    region: Region
    label: int
    options: RobustOptions


def robust(
    network: FloatNetwork | IntegerNetwork,
    data: Calibration,
    radius: float,
    samples: int = 20,
    domain: tuple[float, float] | None = None,
    options: RobustOptions | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Robustness:
    """Certify the class in the ball of `radius` around each of the first `samples` correctly classified samples.

    Without labels every sample counts as correctly classified. Balls are clipped to `domain`, else to the data's range
    of each feature. InputError for a network that is not LSTM layers with a linear readout, for outputs that
    are no classes, and where no sample is classified correctly.
    """
    options = options or RobustOptions()
    if samples < 1:
        raise InputError(f"cannot certify {samples} samples; give --samples N with N at least 1")
    twin = network if isinstance(network, FloatNetwork) else float_twin(network)
    recurrent(twin)
    if data.values is not None:
        raise InputError("robust certifies the class, but the samples' y are real values, to which no class belongs")
    bounds = input_domain(data.x, domain)
    predicted = _classes(network, data.x)
    correct = np.arange(len(predicted)) if data.y is None else np.flatnonzero(predicted == data.y)
    if not len(correct):
        raise InputError("no sample is classified correctly: there is nothing to certify; check the labels")
    tasks = [
        _Task(network, twin, int(k), ball(str(k), data.x[k], radius, bounds), int(predicted[k]), options)
        for k in correct[:samples]
    ]
    regions = []
    for region in in_order(_certify, tasks, options.jobs):
        regions.append(region)
        if on_progress is not None:
            on_progress(len(regions), len(tasks))
    proof = ProofSummary(options.proof)
    for region in regions:
        proof.merge(region.proof)
    kind = "float" if isinstance(network, FloatNetwork) else network.input.dtype
    return Robustness(network.name, kind, network.sha256, radius, options, tuple(regions), proof)


def _classes(network: FloatNetwork | IntegerNetwork, x: Any) -> Array:
    if isinstance(network, FloatNetwork):
        return np.asarray(evaluate(network, x).argmax(-1))
    from codesign.semantics import quantize_input, simulate

    return np.asarray(simulate(network, quantize_input(network, x)).argmax(-1))


def _certify(task: _Task) -> RobustRegion:
    require_round_to_nearest()
    started, cpu = time.perf_counter(), time.process_time()
    options, recorder = task.options, Recorder() if task.options.proof != "none" else None
    lower, upper, margins = float_bounds(recurrent(task.twin), task.region, task.label, options.mode, recorder)
    if isinstance(task.network, IntegerNetwork):
        lower, upper, margins = _integer_bounds(task, lower, upper, margins, recorder)
    margin = float(margins.min())
    attack, found, nearest = _attack(task)
    status: Status = "robust" if margin > _EXACT else "unknown" if found is None else "refuted"
    if isinstance(task.network, FloatNetwork):
        where = f"sample {task.sample}: "
        at = evaluate(task.network, np.stack([nearest, task.region.center]), logits=True)
        require_within(
            f"{where}minus a margin of its class", _EXACT - attack, 2 * _EXACT - margin, lambda: {"input": nearest}
        )
        require_within(f"{where}a logit", at, upper + _EXACT, lambda: {"input": nearest})
        require_within(f"{where}minus a logit", -at, _EXACT - lower, lambda: {"input": nearest})
    spent = time.process_time() - cpu
    rng = np.random.default_rng([options.seed, task.sample])
    proof = discharge(
        recorder.batches if recorder else [],
        options.proof,
        options.audit_sample,
        options.prover,
        rng,
        options.second_sample,
    )
    return RobustRegion(
        task.sample,
        task.label,
        status,
        lower,
        upper,
        margin,
        attack,
        found,
        time.perf_counter() - started,
        spent,
        proof,
    )


def float_bounds(
    net: Recurrent, region: Region, label: int, mode: Mode, recorder: Recorder | None = None
) -> tuple[Array, Array, Array]:
    """(lower, upper) of the logits, and lower bounds of logit_label - logit_k over all rivals k, in order."""
    rivals = [k for k in range(net.classes) if k != label]
    first, second = _enclosed(net, region, mode, recorder)
    known = first.margins.lo[label][rivals]
    if second is None:
        return first.logits.lo[0], first.logits.hi[0], known
    V = np.concatenate([net.V, net.V[label] - net.V[rivals]])
    v = np.concatenate([net.v, net.v[label] - net.v[rivals]])
    V_slack = np.concatenate([net.V_slack, net.V_slack[label] + net.V_slack[rivals]]) + 2.0**-52 * np.abs(V)
    v_slack = np.concatenate([net.v_slack, net.v_slack[label] + net.v_slack[rivals]]) + 2.0**-52 * np.abs(v)
    box = second.functionals(V, v, V_slack, v_slack).box
    logits = Box(box.lo[: net.classes], box.hi[: net.classes]).meet(first.logits.lo[0], first.logits.hi[0])
    return logits.lo, logits.hi, np.maximum(box.lo[net.classes :], known)


def _enclosed(
    net: Recurrent, region: Region, mode: Mode, recorder: Recorder | None
) -> tuple[Enclosure, SecondOrder | None]:
    """Affine forms, and second-order bounds unless a cell's clip may act.

    Second-order bounds do not model clips. Where the cells of the network without clips are proved to stay within
    them after every step, no clip acts from the first step on, and both networks are the same function there.
    """
    plain = net.unclipped
    own = None if recorder is None else Recorder()
    first = zonotope(plain, region.lo, region.hi, own)
    second = SecondOrder(plain, region.lo, region.hi, mode, first, own)
    if any(cell.clip and (size > cell.clip).any() for cell, size in zip(net.cells, second.cell_size, strict=True)):
        return zonotope(net, region.lo, region.hi, recorder), None
    if recorder is not None and own is not None:
        recorder.batches += own.batches
    return first, second


def _integer_bounds(
    task: _Task, lower: Array, upper: Array, margins: Array, recorder: Recorder | None
) -> tuple[Array, Array, Array]:
    """The same for the dequantized logits of the integer network; margins are those of its integer output."""
    from codesign.quantization.align import align
    from codesign.verification.propagate import propagate

    network = task.network
    assert isinstance(network, IntegerNetwork)
    joint = propagate(align(task.twin, network), network, [task.region], recorder)
    rivals = [k for k in range(len(lower)) if k != task.label]
    m = joint.margins[0]
    shifted = np.maximum(
        m.integer.lo[0, task.label, rivals], (margins + m.difference.lo[0, task.label, rivals]) - 1e-12
    )
    if joint.output_margins is not None and joint.softmax is not None:
        # The integer softmax rounds its output: equal bytes are no margin.
        from codesign.verification import head

        better = m.integer.lo.copy()
        better[0, task.label, rivals] = shifted
        integer = Box(better, np.maximum(better, m.integer.hi))
        output = head.softmax_margins(joint.softmax, head.Margins(m.value, m.difference, integer), recorder).lo
        shifted = np.maximum(output, joint.output_margins[0].lo)[0, task.label, rivals]
    low = np.maximum(lower, joint.logits.lo[0]) + joint.logit_difference.lo[0]
    high = np.minimum(upper, joint.logits.hi[0]) + joint.logit_difference.hi[0]
    return low - 1e-12 * np.abs(low), high + 1e-12 * np.abs(high), shifted


def _attack(task: _Task) -> tuple[float, Array | None, Array]:
    """Projected sign-gradient descent on every margin: (smallest float margin attained, a counterexample, where the
    margin is smallest)."""
    region, options = task.region, task.options
    rng = np.random.default_rng([options.seed, task.sample, 1])
    classes = evaluate(task.twin, region.center[None], logits=True).shape[1]
    rivals = np.array([k for k in range(classes) if k != task.label])
    weights = np.zeros((len(rivals), classes))
    weights[:, task.label] = 1.0
    weights[np.arange(len(rivals)), rivals] = -1.0
    size = region.hi - region.lo
    best, found, nearest = np.inf, None, region.center
    for restart in range(options.restarts):
        x = np.repeat(region.center[None], len(rivals), axis=0)
        if restart:
            x = region.lo + size * rng.random(x.shape)
        for step in range(options.steps):
            x = np.clip(
                x - 0.5 * 0.85**step * size * np.sign(input_gradient(task.twin, x, weights)), region.lo, region.hi
            )
            logits = evaluate(task.twin, x, logits=True)
            margins = (logits * weights).sum(1)
            if margins.min() < best:
                best, nearest = float(margins.min()), x[int(margins.argmin())]
            wrong = _wrong(task, x, logits)
            if wrong is not None and found is None:
                found = wrong
        if found is not None:
            break
    return best, found, nearest


def _wrong(task: _Task, x: Array, logits: Array) -> Array | None:
    """A point of the batch on which the network chooses another class, if there is one."""
    if isinstance(task.network, FloatNetwork):
        others = np.delete(logits, task.label, axis=1).max(1)
        index = int(np.argmax(others - logits[:, task.label]))
        return x[index] if others[index] - logits[index, task.label] > _EXACT else None
    single = x.astype(np.float32)
    inside = ((single >= task.region.lo) & (single <= task.region.hi)).all((1, 2))
    single = np.where(inside[:, None, None], single, _inward(task.region, single))
    hit = np.flatnonzero(_classes(task.network, single) != task.label)
    return single[hit[0]].astype(np.float64) if len(hit) else None


def _inward(region: Region, x: Any) -> Any:
    """float32 values moved into the real box; where the box holds none, the center's (a float32) stays."""
    lo, hi = region.lo.astype(np.float32), region.hi.astype(np.float32)
    lo = np.where(lo < region.lo, np.nextafter(lo, np.float32(np.inf)), lo)
    hi = np.where(hi > region.hi, np.nextafter(hi, np.float32(-np.inf)), hi)
    center = region.center.astype(np.float32)
    return np.where(lo > hi, center, np.clip(x, np.minimum(lo, center), np.maximum(hi, center))).astype(np.float32)


def float_twin(network: IntegerNetwork) -> FloatNetwork:
    """The float network of an integer network's dequantized weights (float32)."""
    ops = network.ops
    layers: list[Layer] = []
    for index, op in enumerate(ops):
        if isinstance(op, IntLstm):
            following = next((v for v in ops[index + 1 :] if not isinstance(v, IntReshape)), None)
            W_scale, R_scale = np.array(op.W_scale)[:, None, None], np.array(op.R_scale)[:, None, None]
            last = type(following).__name__ == "IntLastStep"
            b = (op.b * (op.input.scale * np.array(op.W_scale)[:, None])).astype(np.float32)
            W, R = (op.W * W_scale).astype(np.float32), (op.R * R_scale).astype(np.float32)
            layers.append(Lstm(op.name, W, R, b, not last))
        elif isinstance(op, IntDense):
            scale = np.broadcast_to(op.W_scale, (op.W.shape[0],))
            following = next((v for v in ops[index + 1 :] if not isinstance(v, IntReshape)), None)
            fused = op.act_min == op.output.zero_point
            relu = fused and not (isinstance(following, IntActivation) and following.kind == "relu")
            W, b = (op.W * scale[:, None]).astype(np.float32), (op.b * (op.input.scale * scale)).astype(np.float32)
            layers.append(Dense(op.name, W, b, "relu" if relu else "linear"))
        elif isinstance(op, IntActivation):
            layers.append(Activation(op.name, op.kind))
        elif isinstance(op, IntReshape):
            layers.append(Reshape(op.name, op.output.shape))
    shape = (int(network.input.shape[0]), int(network.input.shape[1]))
    return FloatNetwork(network.name, shape, tuple(layers), network.sha256, "dequantized")


__all__ = ["RobustOptions", "RobustRegion", "Robustness", "float_bounds", "float_twin", "robust"]
