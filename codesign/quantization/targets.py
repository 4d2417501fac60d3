"""What the array 'y' of a calibration file means for a model: class labels, or real values that its outputs aim at.

It is decided by the shape of the model's output (rows of M values: one row, or one a time step), its last activation,
and the shape and values of y; docs/regions.md has the table.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Union

import numpy as np
import numpy.typing as npt

from codesign.errors import InputError
from codesign.network.evaluation import final_activation, layer_shapes
from codesign.network.model import FloatNetwork
from codesign.quantization.integer import IntActivation, IntegerNetwork, IntReshape

Network = Union[FloatNetwork, IntegerNetwork]
Labels = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


class Targets(NamedTuple):
    """Class labels (N,), or (N, rows) for a model with an output at every step; or real values (N, rows * M).

    Of one output, labels are 0 and 1: whether it is to be at least 0.5. One of the two is None.
    """

    labels: Labels | None
    values: Values | None


def read_targets(y: npt.NDArray[np.generic], count: int, network: Network | None, where: str) -> Targets:
    """The meaning of y for N = `count` samples; without a network, integers (N,) are labels, other numbers values.

    InputError, naming `where`, for what fits no model's output, or not this one's.
    """
    if y.dtype.kind not in "biuf" or y.ndim < 1 or len(y) != count:
        raise InputError(
            f"{where}: y has dtype {y.dtype} and shape {y.shape}, but it has to be numbers, one entry for each of the "
            f"{count} samples"
        )
    values = y.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{where}: y contains NaN or infinite values; remove those samples")
    if network is None:
        if y.dtype.kind in "biu" and y.ndim == 1 and (values >= 0).all() and (values < 2**53).all():
            return Targets(values.astype(np.int64), None)
        return Targets(None, values.reshape(count, -1))
    (*steps, width), final = _outputs(network)
    rows = math.prod(steps)
    return _of_one(y, values, rows, final, where) if width == 1 else _of_many(y, values, rows, width, final, where)


def _outputs(network: Network) -> tuple[tuple[int, ...], str]:
    """The output's shape, and its last activation."""
    if isinstance(network, FloatNetwork):
        return layer_shapes(network)[-1], final_activation(network)
    last = [op for op in network.ops if not isinstance(op, IntReshape)][-1]
    return network.output.shape, last.kind if isinstance(last, IntActivation) else "linear"


def _of_one(y: npt.NDArray[np.generic], values: Values, rows: int, final: str, where: str) -> Targets:
    shapes = [(rows,), (rows, 1)] if rows > 1 else [(), (1,)]
    if y.shape[1:] not in shapes:
        raise _shape_error(y, where, rows, 1)
    flat = values.reshape(len(values), rows)
    if final == "sigmoid":
        if np.isin(flat, (0.0, 1.0)).all():
            labels = flat.astype(np.int64)
            return Targets(labels if rows > 1 else labels[:, 0], None)
        if y.dtype.kind in "biu":
            raise InputError(
                f"{where}: y holds the label {_odd(flat, 1)}, but a model with one sigmoid output tells 0 from 1; give "
                "labels 0 and 1, or real values as floating point numbers"
            )
    return Targets(None, flat)


def _of_many(y: npt.NDArray[np.generic], values: Values, rows: int, width: int, final: str, where: str) -> Targets:
    shape = y.shape[1:]
    full = [(rows, width), (rows * width,)] if rows > 1 else [(width,)]
    if shape in full:
        rowwise = values.reshape(len(values), rows, width)
        if np.isin(rowwise, (0.0, 1.0)).all() and (rowwise.sum(2) == 1).all():
            labels = rowwise.argmax(2)
            return Targets(labels if rows > 1 else labels[:, 0], None)
        if y.dtype.kind in "biu" and final == "softmax":
            raise InputError(
                f"{where}: y has a row for each class of {width}, but not every row is one-hot; give one 1 and else 0, "
                f"or labels 0 to {width - 1}"
            )
        return Targets(None, values.reshape(len(values), -1))
    per_step = rows > 1 and shape in [(rows,), (rows, 1)]
    if not (per_step or shape in [(), (1,)]):
        raise _shape_error(y, where, rows, width)
    if (values != np.rint(values)).any():
        raise InputError(
            f"{where}: y has one real value a sample, but the model has {width} outputs; give class labels 0 to "
            f"{width - 1}, or a value for each output, of shape (N, {', '.join(map(str, full[0]))})"
        )
    if (values < 0).any() or (values >= width).any():
        raise InputError(
            f"{where}: y holds the label {_odd(values, width - 1)}, but the model has {width} outputs; labels are 0 to "
            f"{width - 1}"
        )
    return Targets(values.reshape((len(values), rows) if per_step else len(values)).astype(np.int64), None)


def _odd(values: Values, largest: int) -> str:
    """The first value that is no label."""
    flat = values.ravel()
    return f"{flat[np.argmax((flat < 0) | (flat > largest) | (flat != np.rint(flat)))]:g}"


def _shape_error(y: npt.NDArray[np.generic], where: str, rows: int, width: int) -> InputError:
    if rows > 1:
        wanted = f"(N, {rows}) for a label or value at each step" + (f", or (N, {rows}, {width})" if width > 1 else "")
    else:
        wanted = "(N,) for a label or value a sample" + (f", or (N, {width})" if width > 1 else "")
    return InputError(f"{where}: y has shape {y.shape}, which fits no output of this model; give {wanted}")
