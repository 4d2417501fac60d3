"""Input regions: boxes of real inputs for which a certificate holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.proof.statement import box_radius
from codesign.quantization.integer import QuantizedTensor
from codesign.text import some
from codesign.verification.affine import TINY, UNIT, Array, Box, Form, Pool, combine, up
from codesign.verification.lstm import Pair

Kind = Literal["ball", "noise", "grid", "domain"]
FLOAT32_UNIT = 2.0**-24


@dataclass(frozen=True, eq=False)
class Region:
    """A box [lo, hi] of inputs, (T, D) each, around `center`; `radius` is its largest half-width in input units.

    The domain box has radius None and its middle as the center. Steps before `free_from` are fixed at the center's.
    A region of kind 'grid' holds the dequantized integer inputs of its box only, all within `grid_steps` of the
    center's: there the float network is taken at the dequantized input (or at that rounded to float32), and no input
    rounding separates the two networks.
    """

    name: str
    center: Array
    lo: Array
    hi: Array
    radius: float | None
    kind: Kind = "ball"
    free_from: int = 0
    grid_steps: int | None = None

    @property
    def by_rule(self) -> bool:
        """Whether center, radius and the domain give the box back."""
        return self.kind == "domain" or (self.kind == "ball" and self.free_from == 0)

    def describe(self) -> dict[str, object]:
        """For the certificate; `box` is given where center, radius and domain do not say it."""
        return {
            "id": self.name,
            "kind": self.kind,
            "radius": self.radius,
            "free_from": self.free_from,
            "grid_steps": self.grid_steps,
            "box": None if self.by_rule else {"lo": self.lo.tolist(), "hi": self.hi.tolist()},
        }


def input_domain(samples: npt.NDArray[np.float32], domain: tuple[float, float] | None = None) -> tuple[Array, Array]:
    """Per-feature range (lo, hi), each (D,): `domain` for every feature, else the samples' minima and maxima."""
    features = samples.shape[2]
    if domain is not None:
        lo, hi = domain
        if not (np.isfinite(lo) and np.isfinite(hi) and lo < hi):
            raise InputError(f"the domain {lo},{hi} is not a range; give --domain LO,HI with LO below HI")
        return np.full(features, float(lo)), np.full(features, float(hi))
    flat = samples.reshape(-1, features).astype(np.float64)
    return flat.min(0), flat.max(0)


def outside(x: npt.NDArray[np.float32], domain: tuple[Array, Array]) -> list[int]:
    """The numbers of the samples x (N, T, D) that lie outside the domain (lo, hi), each (D,)."""
    inside = ((x >= domain[0]) & (x <= domain[1])).all(axis=(1, 2))
    return [int(k) for k in np.flatnonzero(~inside)]


def require_inside(x: npt.NDArray[np.float32], domain: tuple[Array, Array]) -> None:
    """InputError, naming them, where samples x (N, T, D) lie outside the domain (lo, hi), each (D,)."""
    found = outside(x, domain)
    if found:
        raise InputError(
            f"{some(found, 'sample')} of {len(x)}, counted from 0, lie outside the domain, about which alone a "
            "certificate over the whole domain says something; widen --domain, or leave these samples out"
        )


def ball(
    name: str, center: npt.NDArray[np.float32], radius: float, domain: tuple[Array, Array], free_from: int = 0
) -> Region:
    """The L-inf ball around a sample, clipped to the domain; the sample itself stays inside.

    `free_from`: steps before it are fixed at the sample. InputError for a bad radius or step.
    """
    if not (np.isfinite(radius) and radius >= 0):
        raise InputError(f"the radius {radius} is not a finite number of at least 0; give --radius R in input units")
    x, lo, hi = _around(center, np.full(center.shape, float(radius)), domain, free_from)
    return Region(name, x, lo, hi, float(radius), "ball", free_from)


def noisy(
    name: str,
    center: npt.NDArray[np.float32],
    half_widths: npt.ArrayLike,
    domain: tuple[Array, Array],
    free_from: int = 0,
) -> Region:
    """The box of a sensor's noise around a sample, clipped to the domain.

    `half_widths`: one a feature (D,), or one a step and feature (T, D), in input units. InputError for bad ones.
    """
    width = np.asarray(half_widths, dtype=np.float64)
    if width.shape not in (center.shape, center.shape[1:]):
        raise InputError(
            f"the noise has shape {width.shape}; give one half-width a feature, {center.shape[1:]}, or one a step and "
            f"feature, {center.shape}"
        )
    if not (np.isfinite(width).all() and (width >= 0).all()):
        raise InputError("the noise has half-widths that are negative or not finite; give numbers of at least 0")
    x, lo, hi = _around(center, np.broadcast_to(width, center.shape), domain, free_from)
    return Region(name, x, lo, hi, box_radius(x, lo, hi), "noise", free_from)


def grid_ball(
    name: str, center: npt.NDArray[np.float32], steps: int, tensor: QuantizedTensor, free_from: int = 0
) -> Region:
    """All integer inputs within `steps` of the quantized sample (T, D), clipped to the input tensor's range.

    InputError for a negative number of steps.
    """
    from codesign.semantics.inputs import quantize

    if steps < 0:
        raise InputError(f"a grid region of {steps} steps is empty; give --grid K with K at least 0")
    q = quantize(tensor, center).astype(np.float64)
    reach = np.full(q.shape, float(min(steps, 1 << 16)))
    reach[: _checked_step(free_from, len(q))] = 0.0
    # float32 scale times an integer below 2^17: exact in float64
    lo, middle, hi = (
        tensor.scale * (np.clip(q + side * reach, tensor.q_min, tensor.q_max) - tensor.zero_point)
        for side in (-1, 0, 1)
    )
    return Region(name, middle, lo, hi, steps * tensor.scale, "grid", free_from, steps)


def _checked_step(free_from: int, steps: int) -> int:
    if not 0 <= free_from < steps:
        raise InputError(f"no step is free from step {free_from} on; give --free-from STEP from 0 to {steps - 1}")
    return free_from


def _around(
    center: npt.NDArray[np.float32], half: Array, domain: tuple[Array, Array], free_from: int
) -> tuple[Array, Array, Array]:
    x = center.astype(np.float64)
    lo = np.minimum(np.maximum(x - half, domain[0]), x)
    hi = np.maximum(np.minimum(x + half, domain[1]), x)
    fixed = slice(0, _checked_step(free_from, len(x)))
    lo[fixed] = hi[fixed] = x[fixed]
    return x, lo, hi


def domain_region(domain: tuple[Array, Array], steps: int) -> Region:
    """Every input of the domain."""
    lo, hi = (np.tile(end, (steps, 1)) for end in domain)
    return Region("domain", 0.5 * (lo + hi), lo, hi, None, "domain")


def quantized(tensor: QuantizedTensor, x: Array) -> Array:
    """The input quantisation rule on real numbers, in float64 (docs/architecture.md)."""
    steps = x / tensor.scale
    low, high = (-128, 127) if tensor.dtype == "int8" else (-32768, 32767)
    return np.asarray(np.clip(np.sign(steps) * np.floor(np.abs(steps) + 0.5) + tensor.zero_point, low, high))


def input_pairs(regions: Sequence[Region], tensor: QuantizedTensor, pool: Pool) -> list[Pair]:
    """The inputs of both networks over a batch of regions: one pair (B, D) for every time step.

    The integer network sees the quantized input. Its difference from the float input is a fresh symbol of half a step;
    or, where the whole interval quantizes to few values and that is tighter, the form (grid box) - x. On the grid it is
    the float32 rounding of the dequantized value alone.
    """
    lo = np.stack([r.lo for r in regions])
    hi = np.stack([r.hi for r in regions])
    batch, steps, features = lo.shape
    flat = Box(lo.reshape(batch, -1), hi.reshape(batch, -1))
    on_grid = np.array([[r.kind == "grid"] for r in regions])
    single = np.where(on_grid, up(FLOAT32_UNIT * flat.mag), 0.0)
    flat = Box(np.where(on_grid, flat.lo - up(single), flat.lo), np.where(on_grid, flat.hi + up(single), flat.hi))
    x = Form.from_box(flat, pool, "input region")
    grid, half = reachable_inputs(tensor, flat), _rounding_radius(tensor, flat)
    gap = Box(grid.lo - flat.hi, grid.hi - flat.lo).widen(4 * UNIT * (grid.mag + flat.mag))
    half = Box(np.where(on_grid, -single, half.lo), np.where(on_grid, single, half.hi))
    by_grid = (grid.rad < half.rad) & ~on_grid
    # Either mid + rad * eps on its own, or grid - x with x's symbols.
    mid = np.where(by_grid, grid.mid, half.mid)
    rad = np.where(by_grid, grid.rad, half.rad)
    dx = combine([(np.where(by_grid, -1.0, 0.0), x)], mid, rad + TINY, pool, "rounding: input")
    pool.born[-steps * features :] = np.repeat(np.arange(steps), features)
    d_box = dx.box.meet(gap.lo, gap.hi)
    pairs = []
    for t in range(steps):
        part = slice(t * features, (t + 1) * features)
        pairs.append(Pair(x.rows(part), dx.rows(part), flat.rows(part), d_box.rows(part)))
    return pairs


def reachable_inputs(tensor: QuantizedTensor, x: Box) -> Box:
    """Dequantized values that inputs of the box can take: the rule is monotone, ties are covered on both sides."""
    nudge = 2.0**-20  # the single-precision division is off by 2^-24 relative, on at most 2^8 steps... in steps
    low, high = (-128, 127) if tensor.dtype == "int8" else (-32768, 32767)
    slack = nudge * (1 + x.mag / tensor.scale) * 2.0**-3
    q_lo = np.clip(np.ceil(x.lo / tensor.scale - 0.5 - slack) + tensor.zero_point, low, high)
    q_hi = np.clip(np.floor(x.hi / tensor.scale + 0.5 + slack) + tensor.zero_point, low, high)
    value = Box(tensor.scale * (q_lo - tensor.zero_point), tensor.scale * (q_hi - tensor.zero_point))
    return Box(value.lo - 4 * UNIT * np.abs(value.lo), value.hi + 4 * UNIT * np.abs(value.hi))


def _rounding_radius(tensor: QuantizedTensor, x: Box) -> Box:
    """Interval of (dequantized quantized x) - x: half a step, and what saturation cuts off."""
    from codesign.verification import rounding

    half = up(np.asarray(tensor.scale * (0.5 + 2.0**-22 * (1 + x.mag / tensor.scale))))
    noise = Box(-half, half)
    return noise + rounding.saturation_error(x + noise, *rounding.tensor_range(tensor))
