"""Input regions: boxes of real inputs for which a certificate holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.quantization.integer import QuantizedTensor
from codesign.verification.affine import TINY, UNIT, Array, Box, Form, Pool, combine, up
from codesign.verification.lstm import Pair


@dataclass(frozen=True, eq=False)
class Region:
    """A box [lo, hi] of inputs, (T, D) each, around `center`; `radius` is its L-inf radius in input units.

    The domain box has radius None and its middle as the center.
    """

    name: str
    center: Array
    lo: Array
    hi: Array
    radius: float | None


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


def ball(name: str, center: npt.NDArray[np.float32], radius: float, domain: tuple[Array, Array]) -> Region:
    """The L-inf ball around a sample, clipped to the domain; the sample itself stays inside."""
    if not (np.isfinite(radius) and radius >= 0):
        raise InputError(f"the radius {radius} is not a finite number of at least 0; give --radius R in input units")
    x = center.astype(np.float64)
    lo = np.minimum(np.maximum(x - radius, domain[0]), x)
    hi = np.maximum(np.minimum(x + radius, domain[1]), x)
    return Region(name, x, lo, hi, radius)


def domain_region(domain: tuple[Array, Array], steps: int) -> Region:
    """Every input of the domain."""
    lo, hi = (np.tile(end, (steps, 1)) for end in domain)
    return Region("domain", 0.5 * (lo + hi), lo, hi, None)


def quantized(tensor: QuantizedTensor, x: Array) -> Array:
    """The input quantisation rule on real numbers, in float64 (docs/architecture.md)."""
    steps = x / tensor.scale
    low, high = (-128, 127) if tensor.dtype == "int8" else (-32768, 32767)
    return np.asarray(np.clip(np.sign(steps) * np.floor(np.abs(steps) + 0.5) + tensor.zero_point, low, high))


def input_pairs(regions: Sequence[Region], tensor: QuantizedTensor, pool: Pool) -> list[Pair]:
    """The inputs of both networks over a batch of regions: one pair (B, D) for every time step.

    The integer network sees the quantized input. Its difference from the float input is a fresh symbol of half a step;
    or, where the whole interval quantizes to few values and that is tighter, the form (grid box) - x.
    """
    lo = np.stack([r.lo for r in regions])
    hi = np.stack([r.hi for r in regions])
    batch, steps, features = lo.shape
    flat = Box(lo.reshape(batch, -1), hi.reshape(batch, -1))
    x = Form.from_box(flat, pool, "input region")
    grid, half = reachable_inputs(tensor, flat), _rounding_radius(tensor, flat)
    gap = Box(grid.lo - flat.hi, grid.hi - flat.lo).widen(4 * UNIT * (grid.mag + flat.mag))
    by_grid = grid.rad < half.rad
    # Either mid + rad * eps on its own, or grid - x with x's symbols.
    mid = np.where(by_grid, grid.mid, half.mid)
    rad = np.where(by_grid, grid.rad, half.rad)
    dx = combine([(np.where(by_grid, -1.0, 0.0), x)], mid, rad + TINY, pool, "rounding: input")
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
