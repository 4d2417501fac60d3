"""Which regions a certification is about: around samples, the whole domain, or those that a file names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from codesign.errors import InputError
from codesign.network import evaluate, layer_shapes
from codesign.network.model import FloatNetwork
from codesign.quantization import Calibration
from codesign.quantization.integer import QuantizedTensor
from codesign.verification.affine import Array
from codesign.verification.region_files import NamedRegion, load_noise, load_regions
from codesign.verification.regions import Region, ball, domain_region, grid_ball, noisy

RegionKind = Literal["ball", "domain"]


@dataclass(frozen=True)
class Neighbourhood:
    """How regions differ from balls around the first samples, see docs/regions.md.

    `noise`: a file of half-widths. `free_from`: steps before it are fixed at the sample. `grid`: integer inputs within
    that many steps. `regions`: a file of named regions, which says all of this for each.
    """

    noise: Path | None = None
    free_from: int = 0
    grid: int | None = None
    regions: Path | None = None

    def __post_init__(self) -> None:
        if self.noise is not None and self.grid is not None:
            raise InputError("--noise and --grid exclude each other; give one of them")
        if self.regions is not None and (self.noise is not None or self.grid is not None or self.free_from):
            raise InputError("a regions file states noise, grid and free_from itself; leave these options out")

    @property
    def changed(self) -> bool:
        return self != Neighbourhood()


@dataclass(frozen=True)
class Selection:
    """Regions, the index of each one's sample (None: around none), and whether it counts for a top-1 share: samples
    without a label and those that the float network classifies correctly do; all do where there is not one class."""

    regions: tuple[Region, ...]
    samples: tuple[int | None, ...]
    counted: tuple[bool, ...]


def parse_radius(text: str | float, scale: float) -> float:
    """A radius in input units: a number, or '2lsb' for two steps of the input quantisation. InputError otherwise."""
    try:
        if isinstance(text, str) and text.strip().lower().endswith("lsb"):
            return float(text.strip()[:-3] or "1") * scale
        return float(text)
    except (ValueError, OverflowError):
        shown = str(text)[:40]
        raise InputError(
            f"the radius '{shown}' is not a number; give input units such as 0.01, or quantisation steps such as 1lsb"
        ) from None


def select(
    network: FloatNetwork,
    tensor: QuantizedTensor,
    data: Calibration,
    kind: RegionKind,
    radius: str | float,
    samples: int,
    domain: tuple[Array, Array],
    around: Neighbourhood,
) -> Selection:
    """The regions asked for. `tensor` is the integer network's input. InputError where they cannot be made."""
    step = parse_radius(radius, tensor.scale)
    if kind == "domain":
        if around.changed:
            raise InputError("the domain region takes no noise, grid, free step or regions file; leave --region out")
        return Selection((domain_region(domain, network.input_shape[0]),), (None,), (True,))
    if around.regions is not None:
        named = load_regions(around.regions)
        regions = tuple(_named(entry, tensor, data, step, domain) for entry in named)
        indices = tuple(entry.sample for entry in named)
        return Selection(regions, indices, _counted(network, data, indices))
    if samples < 1:
        raise InputError(f"cannot certify {samples} samples; give --samples N with N at least 1")
    count = min(samples, len(data.x))
    noise = None if around.noise is None else load_noise(around.noise)
    free = around.free_from
    regions = tuple(_region(str(k), data.x[k], tensor, step, noise, around.grid, free, domain) for k in range(count))
    return Selection(regions, tuple(range(count)), _counted(network, data, tuple(range(count))))


def _region(
    name: str,
    x: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    tensor: QuantizedTensor,
    radius: float,
    noise: Array | None,
    grid: int | None,
    free_from: int,
    domain: tuple[Array, Array],
) -> Region:
    if grid is not None:
        return grid_ball(name, x, grid, tensor, free_from)
    if noise is not None:
        return noisy(name, x, noise, domain, free_from)
    return ball(name, x, radius, domain, free_from)


def _named(
    entry: NamedRegion, tensor: QuantizedTensor, data: Calibration, radius: float, domain: tuple[Array, Array]
) -> Region:
    shape = data.x.shape[1:]
    if entry.sample is not None:
        if entry.sample >= len(data.x):
            raise InputError(
                f"region {entry.name!r} is around sample {entry.sample}, but there are {len(data.x)}, counted from 0"
            )
        x = data.x[entry.sample]
    else:
        assert entry.center is not None
        if entry.center.shape != shape:
            raise InputError(
                f"the center of region {entry.name!r} has shape {entry.center.shape}, but an input has {shape}"
            )
        with np.errstate(over="ignore"):
            x = entry.center.astype(np.float32)
        if not np.isfinite(x).all():
            raise InputError(f"the center of region {entry.name!r} holds values that float32 cannot")
    if entry.radius is not None:
        radius = parse_radius(entry.radius, tensor.scale)
    try:
        return _region(entry.name, x, tensor, radius, entry.noise, entry.grid, entry.free_from, domain)
    except InputError as error:
        raise InputError(f"region {entry.name!r}: {error}") from None


def one_class(network: FloatNetwork) -> bool:
    """Whether the outputs are the scores of one class: one row of at least two."""
    *steps, width = layer_shapes(network)[-1]
    return not steps and width > 1


def _counted(network: FloatNetwork, data: Calibration, indices: tuple[int | None, ...]) -> tuple[bool, ...]:
    around = [k for k in indices if k is not None]
    if data.y is None or not around or not one_class(network):
        return (True,) * len(indices)
    classes = evaluate(network, data.x[around]).argmax(-1)
    right = {k: bool(a == data.y[k]) for k, a in zip(around, classes, strict=True)}
    return tuple(True if k is None else right[k] for k in indices)
