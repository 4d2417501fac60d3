"""A Keras model configuration (JSON) to a chain of layers, with refusals that say what is not supported.

Sequential models and functional graphs that are a chain, in the formats of Keras 2 and Keras 3.
Kernel columns hold the gates in the order i, f, c, o.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from codesign.errors import InputError
from codesign.network.model import (
    Activation,
    ActivationKind,
    Dense,
    Float32Array,
    Layer,
    Lstm,
    Reshape,
)

SUPPORTED = (
    "supported layers are Input, LSTM, Dense, TimeDistributed(Dense), Activation, ReLU, Softmax, Flatten, "
    "Reshape and Dropout"
)
ACTIVATIONS = ("linear", "relu", "tanh", "sigmoid", "softmax")
# Layers that do nothing at inference.
IGNORED = (
    "Dropout",
    "SpatialDropout1D",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
    "ActivityRegularization",
)
MAX_DIMENSION = 1 << 20
MAX_WEIGHTS = 1 << 26
Shape = tuple[int, ...]


@dataclass(frozen=True)
class WeightSpec:
    """Where a layer's weights are (see keras_file) and the shapes they must have, in Keras' storage order."""

    layer: str
    archive_key: str
    archive_path: tuple[str, ...]
    shapes: dict[str, Shape]


@dataclass(frozen=True)
class Entry:
    """One layer of the configuration. `archive_key` is its group name in a .keras archive."""

    name: str
    kind: str
    config: dict[str, Any]
    nodes: Any
    archive_key: str


WeightReader = Callable[[WeightSpec], dict[str, Float32Array]]


def layer_entries(model: Any) -> list[Entry]:
    """The layers of a Sequential or functional model in file order. Raises InputError on anything else."""
    kind = _dict(model, "the model").get("class_name")
    if kind not in ("Sequential", "Functional", "Model"):
        raise InputError(f"the model is a {_short(kind)}, but only Sequential and functional models are supported")
    config = model.get("config")
    # Keras before 2.2.3 stored a Sequential's layers as a bare list.
    layers = config if isinstance(config, list) else _dict(config, "the model's configuration").get("layers")
    if not isinstance(layers, list) or not layers:
        raise InputError("the model has no layers")
    entries: list[Entry] = []
    counts: dict[str, int] = {}
    for layer in layers:
        config = _dict(_dict(layer, "a layer").get("config"), "a layer's configuration")
        kind, name = str(layer.get("class_name")), config.get("name", layer.get("name"))
        if not isinstance(name, str) or not name:
            raise InputError(f"a {_short(kind)} layer has no name: the configuration is damaged")
        _refuse_custom(name, kind, layer)
        key = _snake_case(kind)
        counts[key] = counts.get(key, -1) + 1
        archive_key = f"{key}_{counts[key]}" if counts[key] else key
        entries.append(Entry(name, kind, config, layer.get("inbound_nodes"), archive_key))
    names = [entry.name for entry in entries]
    if len(set(names)) != len(names):
        raise InputError("two layers have the same name: the configuration is damaged")
    return entries


def chain(model: dict[str, Any], entries: list[Entry]) -> list[Entry]:
    """The entries from input to output. Raises InputError where the graph is not one chain."""
    if model["class_name"] == "Sequential":
        return entries
    inputs = list(_histories(model["config"].get("input_layers"), "the model's inputs"))
    outputs = list(_histories(model["config"].get("output_layers"), "the model's outputs"))
    for what, found in (("input", inputs), ("output", outputs)):
        if len(found) != 1:
            raise InputError(f"the model has {len(found)} {what}s, but exactly one {what} is supported")
    by_name = {entry.name: entry for entry in entries}
    ordered: list[Entry] = []
    name = outputs[0]
    while True:
        if name not in by_name:
            raise InputError(f"the graph refers to a layer {_short(name)} that does not exist: the file is damaged")
        entry = by_name.pop(name)
        ordered.insert(0, entry)
        if name == inputs[0]:
            break
        name = _predecessor(entry)
        if any(name == seen.name for seen in ordered):
            raise InputError(f"layer {name!r} is used more than once, but only chains of layers are supported")
    if by_name:
        raise InputError(
            f"layer {next(iter(by_name))!r} is not on the one path from input to output; "
            "only chains of layers are supported"
        )
    return ordered


def build_layers(
    model: dict[str, Any], entries: list[Entry], weights: WeightReader
) -> tuple[tuple[int, int], tuple[Layer, ...]]:
    """The input shape (T, D) and the layers, their weights read by `weights`.

    Raises InputError on what is not supported.
    """
    for entry in entries:
        if entry.kind not in (*BUILDERS, *IGNORED, "InputLayer"):
            raise InputError(f"layer {entry.name!r} is a {_short(entry.kind)}, which is not supported; {SUPPORTED}")
    input_shape = _input_shape(model, entries)
    shape: Shape = input_shape
    layers: list[Layer] = []
    for index, entry in enumerate(entries):
        _check_dtype(entry.name, entry.config)
        if entry.kind == "InputLayer":
            if index:
                raise InputError(f"layer {entry.name!r} is a second input, but exactly one input is supported")
        elif entry.kind in BUILDERS:
            layer, shape = BUILDERS[entry.kind](entry, shape, weights)
            layers += [layer] if layer is not None else []
    if not any(isinstance(layer, Lstm) for layer in layers):
        raise InputError("the model has no LSTM layer; only recurrent models are supported")
    return input_shape, tuple(layers)


def _input_shape(model: dict[str, Any], entries: list[Entry]) -> tuple[int, int]:
    first = entries[0]
    if model["class_name"] != "Sequential" and first.kind != "InputLayer":
        raise InputError(f"the graph starts at layer {first.name!r}, which is not an Input")
    if first.config.get("sparse") or first.config.get("ragged"):
        raise InputError(f"input {first.name!r} is sparse or ragged; only dense inputs of shape (T, D) are supported")
    stored = first.config.get("batch_shape", first.config.get("batch_input_shape"))
    if stored is None and isinstance(model["config"], dict):
        stored = model["config"].get("build_input_shape")
    if not isinstance(stored, list) or len(stored) != 3:
        raise InputError(
            f"input {first.name!r} has the shape {_short(stored)}, but (batch, T, D) is needed: T steps of D features"
        )
    steps, features = stored[1:]
    for value, what in ((steps, "T, the number of steps"), (features, "D, the number of features")):
        if value is None:
            raise InputError(f"input {first.name!r} leaves {what}, open; give it in the model's Input((T, D))")
        _integer(first.name, what, value)
    return steps, features


def _predecessor(entry: Entry) -> str:
    nodes = entry.nodes
    if not isinstance(nodes, list) or len(nodes) != 1:
        count = len(nodes) if isinstance(nodes, list) else 0
        raise InputError(f"layer {entry.name!r} is called {count} times, but only chains of layers are supported")
    found = list(_histories(nodes, f"layer {entry.name!r}"))
    if len(found) != 1:
        raise InputError(f"layer {entry.name!r} has {len(found)} inputs, but only chains of layers are supported")
    return found[0]


def _histories(value: Any, where: str) -> Iterator[str]:
    """Names of the layers that `value` refers to.

    Keras 2 writes [name, node, tensor, kwargs], Keras 3 a __keras_tensor__ with a keras_history.
    """
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            yield from _histories(_dict(value.get("config"), where).get("keras_history"), where)
            return
        if set(value) == {"args", "kwargs"}:
            _check_call(value["kwargs"], where)
            yield from _histories(value["args"], where)
            return
        for item in value.values():
            yield from _histories(item, where)
    elif isinstance(value, list):
        if len(value) >= 3 and isinstance(value[0], str):
            if value[1:3] != [0, 0]:
                raise InputError(f"{where} uses a layer's second call or second output, which is not supported")
            if len(value) > 3:
                _check_call(value[3], where)
            yield value[0]
            return
        for item in value:
            yield from _histories(item, where)


def _check_call(kwargs: Any, where: str) -> None:
    for key, value in _dict(kwargs, where).items():
        if value is not None and value is not False:
            raise InputError(f"{where} is called with {_short(key)}={_short(value)}, which is not supported")


def _lstm(entry: Entry, shape: Shape, weights: WeightReader) -> tuple[Layer, Shape]:
    name, config = entry.name, entry.config
    if len(shape) != 2:
        raise InputError(f"LSTM {name!r} gets an input of shape {shape}, but needs (T, D)")
    for key, wanted in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
        if config.get(key) != wanted:
            raise InputError(f"LSTM {name!r} has {key}={_short(config.get(key))}, but only {wanted!r} is supported")
    for key in ("stateful", "go_backwards", "time_major", "return_state"):
        if config.get(key, False) is not False:
            raise InputError(f"LSTM {name!r} has {key}={_short(config[key])}, but only {key}=False is supported")
    units = _integer(name, "units", config.get("units"))
    shapes: dict[str, Shape] = {"kernel": (shape[1], 4 * units), "recurrent_kernel": (units, 4 * units)}
    values = _weights(entry, ("cell",), shapes, (4 * units,), config, weights)
    W = np.ascontiguousarray(values["kernel"].reshape(shape[1], 4, units).transpose(1, 2, 0))
    R = np.ascontiguousarray(values["recurrent_kernel"].reshape(units, 4, units).transpose(1, 2, 0))
    sequences = _boolean(name, "return_sequences", config.get("return_sequences", False))
    layer = Lstm(name, W, R, values["bias"].reshape(4, units), sequences)
    return layer, ((shape[0], units) if sequences else (units,))


def _dense(entry: Entry, shape: Shape, weights: WeightReader) -> tuple[Layer, Shape]:
    return _dense_layer(entry, entry.config, (), shape, weights)


def _time_distributed(entry: Entry, shape: Shape, weights: WeightReader) -> tuple[Layer, Shape]:
    inner = _dict(entry.config.get("layer"), f"layer {entry.name!r}")
    config = _dict(inner.get("config"), f"layer {entry.name!r}")
    _refuse_custom(entry.name, str(inner.get("class_name")), inner)
    if inner.get("class_name") != "Dense":
        raise InputError(
            f"layer {entry.name!r} is TimeDistributed({_short(inner.get('class_name'))}), "
            f"which is not supported; {SUPPORTED}"
        )
    if len(shape) != 2:
        raise InputError(f"layer {entry.name!r} gets an input of shape {shape}, but TimeDistributed needs (T, N)")
    _check_dtype(entry.name, config)
    return _dense_layer(entry, config, ("layer",), shape, weights)


def _dense_layer(
    entry: Entry, config: dict[str, Any], path: tuple[str, ...], shape: Shape, weights: WeightReader
) -> tuple[Layer, Shape]:
    kind = _activation(entry.name, config.get("activation"))
    if config.get("quantization_config") is not None:
        raise InputError(f"layer {entry.name!r} is quantized by Keras; give the float model")
    units = _integer(entry.name, "units", config.get("units"))
    values = _weights(entry, path, {"kernel": (shape[-1], units)}, (units,), config, weights)
    layer = Dense(entry.name, np.ascontiguousarray(values["kernel"].T), values["bias"], kind)
    return layer, (*shape[:-1], units)


def _activation_layer(entry: Entry, shape: Shape, weights: WeightReader) -> tuple[Layer | None, Shape]:
    kind = _activation(entry.name, entry.config.get("activation"))
    return (Activation(entry.name, kind) if kind != "linear" else None), shape


def _relu(entry: Entry, shape: Shape, weights: WeightReader) -> tuple[Layer, Shape]:
    for key in ("max_value", "negative_slope", "threshold"):
        value = entry.config.get(key)
        if value is not None and (key == "max_value" or value != 0):
            raise InputError(f"ReLU {entry.name!r} has {key}={_short(value)}, but only the plain ReLU is supported")
    return Activation(entry.name, "relu"), shape


def _softmax(entry: Entry, shape: Shape, weights: WeightReader) -> tuple[Layer, Shape]:
    if entry.config.get("axis", -1) not in (-1, [-1], len(shape)):
        raise InputError(
            f"Softmax {entry.name!r} has axis={_short(entry.config['axis'])}, but only the last axis is supported"
        )
    return Activation(entry.name, "softmax"), shape


def _flatten(entry: Entry, shape: Shape, weights: WeightReader) -> tuple[Layer | None, Shape]:
    if entry.config.get("data_format", "channels_last") not in (None, "channels_last"):
        raise InputError(
            f"Flatten {entry.name!r} has data_format='channels_first', but only 'channels_last' is supported"
        )
    flat = (math.prod(shape),)
    return (Reshape(entry.name, flat) if flat != shape else None), flat


def _reshape(entry: Entry, shape: Shape, weights: WeightReader) -> tuple[Layer | None, Shape]:
    stored = entry.config.get("target_shape")
    if not isinstance(stored, list) or not 1 <= len(stored) <= 2:
        raise InputError(
            f"Reshape {entry.name!r} has target_shape={_short(stored)}, but only (N,) and (T, N) are supported"
        )
    size = math.prod(shape)
    known = [_integer(entry.name, "target_shape", value) for value in stored if value != -1]
    if len(known) == len(stored) - 1 and size % math.prod(known) == 0:
        stored = [size // math.prod(known) if value == -1 else value for value in stored]
    if len(known) < len(stored) - 1 or math.prod(stored) != size:
        raise InputError(
            f"Reshape {entry.name!r}: target_shape={_short(stored)} does not fit its input of shape {shape}"
        )
    target = tuple(stored)
    return (Reshape(entry.name, target) if target != shape else None), target


BUILDERS: dict[str, Callable[[Entry, Shape, WeightReader], tuple[Layer | None, Shape]]] = {
    "LSTM": _lstm,
    "Dense": _dense,
    "TimeDistributed": _time_distributed,
    "Activation": _activation_layer,
    "ReLU": _relu,
    "Softmax": _softmax,
    "Flatten": _flatten,
    "Reshape": _reshape,
}


def _weights(
    entry: Entry,
    path: tuple[str, ...],
    shapes: dict[str, Shape],
    bias: Shape,
    config: dict[str, Any],
    weights: WeightReader,
) -> dict[str, Float32Array]:
    """The layer's weights; a zero bias where it uses none."""
    if sum(math.prod(shape) for shape in shapes.values()) > MAX_WEIGHTS:
        raise InputError(f"layer {entry.name!r} has more than {MAX_WEIGHTS} weights, which is refused")
    use_bias = _boolean(entry.name, "use_bias", config.get("use_bias", True))
    values = weights(
        WeightSpec(entry.name, entry.archive_key, path, {**shapes, **({"bias": bias} if use_bias else {})})
    )
    return values if use_bias else {**values, "bias": np.zeros(bias, np.float32)}


def _activation(name: str, value: Any) -> ActivationKind:
    if value is None:
        return "linear"
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise InputError(
            f"layer {name!r} has activation={_short(value)}, which is not supported; "
            f"supported activations are {', '.join(ACTIVATIONS)}"
        )
    return cast(ActivationKind, value)


def _check_dtype(name: str, config: dict[str, Any]) -> None:
    dtype = config.get("dtype")
    if isinstance(dtype, dict):
        dtype = dtype["config"].get("name") if isinstance(dtype.get("config"), dict) else dtype
    if dtype not in (None, "float32"):
        raise InputError(f"layer {name!r} has dtype {_short(dtype)}, but only float32 is supported")


def _refuse_custom(name: str, kind: str, layer: dict[str, Any]) -> None:
    registered, module = layer.get("registered_name"), layer.get("module")
    known_module = module is None or (isinstance(module, str) and module.split(".")[0] in ("keras", "tf_keras"))
    if registered not in (None, kind) or not known_module:
        raise InputError(
            f"layer {name!r} is a custom layer ({_short(registered or module)}), which is not supported; {SUPPORTED}"
        )


def _integer(name: str, what: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_DIMENSION:
        raise InputError(
            f"layer {name!r}: {what} is {_short(value)}, but has to be a whole number from 1 to {MAX_DIMENSION}"
        )
    return value


def _boolean(name: str, what: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"layer {name!r}: {what} is {_short(value)}, but has to be true or false")
    return value


def _dict(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where} is {_short(value)} where a configuration is expected: the file is damaged")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _snake_case(kind: str) -> str:
    """Keras' group names in .keras archives, for the layers that have weights."""
    return {"LSTM": "lstm", "Dense": "dense", "TimeDistributed": "time_distributed"}.get(kind, kind)
