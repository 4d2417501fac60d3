"""Region and noise files: what an engineer states about inputs, read and checked."""

from __future__ import annotations

import io
import sys
import warnings
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from codesign.errors import InputError
from codesign.verification.affine import Array

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_BYTES = 64 << 20
_NUMBERS: dict[str, Any] = {"type": "array", "items": {"type": "number"}, "minItems": 1}
_TABLE: dict[str, Any] = {"type": "array", "items": _NUMBERS, "minItems": 1}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["region"],
    "additionalProperties": False,
    "properties": {
        "region": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string", "minLength": 1, "maxLength": 200},
                    "sample": {"type": "integer", "minimum": 0},
                    "center": _TABLE,
                    "radius": {"type": ["number", "string"]},
                    "noise": {"oneOf": [{"type": "string"}, _NUMBERS, _TABLE]},
                    "grid": {"type": "integer", "minimum": 0},
                    "free_from": {"type": "integer", "minimum": 0},
                },
            },
        }
    },
}


@dataclass(frozen=True, eq=False)
class NamedRegion:
    """One entry of a regions file: a sample's index or a center, and how far inputs may be from it.

    At most one of `radius` (as on the command line), `noise` (half-widths) and `grid` (steps) is given.
    """

    name: str
    sample: int | None
    center: Array | None
    radius: str | float | None
    noise: Array | None
    grid: int | None
    free_from: int


def load_noise(path: Path) -> Array:
    """Half-widths in input units, (D,) or (T, D), from a .npz with one array or a .csv of numbers. InputError."""
    recipe = "give a .csv of numbers, or a .npz with one array, of half-widths: one a feature, or a row a step"
    content = _content(path, recipe)
    try:
        values = _from_npz(content) if path.suffix == ".npz" else _from_csv(content)
    except InputError:
        raise
    except Exception:  # numpy and zipfile raise many types on damaged files
        raise InputError(f"'{path}' holds no noise that can be read; {recipe}") from None
    if values.size == 0 or not (np.isfinite(values).all() and (values >= 0).all()):
        raise InputError(f"'{path}' holds half-widths that are negative or not finite, or none; {recipe}")
    return values[0] if values.ndim == 2 and len(values) == 1 else values


def _content(path: Path, recipe: str) -> bytes:
    try:
        if not path.is_file():
            raise InputError(f"there is no file '{path}'; {recipe}")
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"'{path}' is too large; {recipe}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror}); {recipe}") from None
    except ValueError:
        raise InputError(f"{str(path)!r} is not a file's name; {recipe}") from None


def _from_npz(content: bytes) -> Array:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(info.file_size for info in archive.infolist()) > _MAX_BYTES:
            raise InputError("the noise file's arrays are too large; give half-widths for one input")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        if len(arrays.files) != 1:
            raise InputError(f"the noise file holds {len(arrays.files)} arrays; give a .npz with one")
        values = arrays[arrays.files[0]]
    if values.dtype.kind not in "fiu" or values.ndim not in (1, 2):
        raise InputError(f"the noise file's array has dtype {values.dtype} and {values.ndim} dimensions; give 1 or 2")
    return np.asarray(values.astype(np.float64))


def _from_csv(content: bytes) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an empty file is told about by the caller
        return np.loadtxt(io.StringIO(content.decode()), delimiter=",", ndmin=2, dtype=np.float64)


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(SCHEMA)


def load_regions(path: Path) -> list[NamedRegion]:
    """Read a regions file (docs/regions.md). InputError, naming the place, for anything that is not one."""
    recipe = 'give a TOML file of [[region]] tables with a name and, for example, sample = 0 and radius = "1lsb"'
    content = _content(path, recipe)
    try:
        document = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"'{path}' is not TOML ({_short(error)}); {recipe}") from None
    try:
        problem = next(_validator().iter_errors(document), None)
    except RecursionError:
        raise InputError(f"'{path}' is nested too deeply; {recipe}") from None
    if problem is not None:
        place = "/".join(map(str, problem.absolute_path)) or "the top level"
        raise InputError(f"'{path}' is no regions file: {_short(problem.message)} at {place}; {recipe}")
    found = [_region(entry, path) for entry in document["region"]]
    names = [region.name for region in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"'{path}' has two regions named {name!r}; give each its own name")
    return found


def _short(what: object) -> str:
    return " ".join(str(what).split())[:160]


def _region(entry: dict[str, Any], path: Path) -> NamedRegion:
    where = f"region {entry['name']!r} in '{path}'"
    if ("sample" in entry) == ("center" in entry):
        raise InputError(f"{where} needs either a sample's index or a center")
    given = [key for key in ("radius", "noise", "grid") if key in entry]
    if len(given) > 1:
        raise InputError(f"{where} has both {given[0]} and {given[1]}; give one of radius, noise and grid")
    noise = entry.get("noise")
    if isinstance(noise, str):
        noise = load_noise(path.parent / noise)
    return NamedRegion(
        entry["name"],
        entry.get("sample"),
        _array(entry["center"], f"the center of {where}") if "center" in entry else None,
        entry.get("radius"),
        None if noise is None else _array(noise, f"the noise of {where}"),
        entry.get("grid"),
        entry.get("free_from", 0),
    )


def _array(values: object, what: str) -> Array:
    try:
        array = np.array(values, np.float64)
    except (ValueError, OverflowError):
        raise InputError(f"{what} is no table of numbers with rows of one length") from None
    if not np.isfinite(array).all():
        raise InputError(f"{what} holds values that are not finite")
    return array
