"""Mutants of .tflite files: every field of every table that the schema's object API has, one change at a time.

Sites are found by reflection over the unpacked model, so that a field that a newer schema adds is mutated as well.
Besides single fields: operators inserted, removed and swapped with the chain rewired around them, and fields that the
schema has but the file leaves out.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Step = tuple[str, int | None]  # a field, and the element of it
INTEGERS = (0, 1, -1, 2, 3, 4, 5, 7, 10, 127, 255, 2**31 - 1)
FLOATS = (0.0, 1.0, -1.0, 0.0005, 0.3, 0.5, 2.0, 4.0, 8.0, math.nan, math.inf)
TEXTS = ("", "x", "OfflineMemoryAllocation", "COMPRESSION_METADATA", "another")
INSERTED = ("RELU", "TANH", "LOGISTIC", "SOFTMAX", "RESHAPE", "FULLY_CONNECTED", "RELU6", "QUANTIZE", "ABS")


@cache
def schema() -> Any:
    """The generated object API of tflite-micro's package, loaded by itself. ImportError without the package."""
    found = importlib.util.find_spec("tflite_micro")
    if found is None or not found.submodule_search_locations:
        raise ImportError("tflite-micro is not installed")
    path = next(Path(found.submodule_search_locations[0]).rglob("schema_py_generated.py"))
    spec = importlib.util.spec_from_file_location("tflm_schema", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unpack(content: bytes) -> Any:
    return schema().ModelT.InitFromObj(schema().Model.GetRootAs(bytearray(content), 0))


def pack(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1 << 14)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _is_table(value: Any) -> bool:
    return type(value).__module__ == "tflm_schema"


@cache
def _annotations(kind: type) -> dict[str, str]:
    """What the generated constructor says of each field: the type comments of flatc's Python."""
    source = inspect.getsource(kind.__init__)  # type: ignore[misc]
    return dict(re.findall(r"self\.(\w+) = .*# type: (.*)", source))


def sites(owner: Any, path: tuple[Step, ...] = ()) -> Iterator[tuple[tuple[Step, ...], Any, Any, str]]:
    """(path to the owner's field, owner, value, field) of everything in the model, vectors' elements included."""
    for name, value in vars(owner).items():
        yield (*path, (name, None)), owner, value, name
        if _is_table(value):
            yield from sites(value, (*path, (name, None)))
        elif isinstance(value, list) and value and _is_table(value[0]):
            for k, item in enumerate(value):
                yield from sites(item, (*path, (name, k)))
        elif isinstance(value, (list, np.ndarray)):
            for k in range(min(len(value), 24)):
                yield (*path, (name, k)), owner, value[k], name


def _numbers(value: Any) -> list[Any]:
    if isinstance(value, (bool, np.bool_)):
        return [not value]
    if isinstance(value, (int, np.integer)):
        return [int(value) + 1, int(value) - 1, *INTEGERS]
    return [float(value) * 2, float(value) / 2, float(value) + 0.1, *FLOATS]


def _absent(annotation: str) -> list[Any]:
    """Something for a field that the file leaves out."""
    tables = [getattr(schema(), name) for name in re.findall(r"(\w+T)\b", annotation) if hasattr(schema(), name)]
    if "List[" in annotation:
        return [[kind()] for kind in tables[:1]] or [[], [0], [1], [0, 1]]
    return [kind() for kind in tables] or list(TEXTS[1:])


def candidates(owner: Any, name: str, value: Any, element: bool, rng: np.random.Generator) -> list[Any]:
    """Other values for a site."""
    annotation = _annotations(type(owner)).get(name, "")
    if value is None:
        return _absent(annotation)
    if isinstance(value, (bytes, str)):
        return list(TEXTS)
    if _is_table(value):
        others = [kind() for kind in _absent_tables(annotation) if kind is not type(value)]
        return [None, *(others[int(k)] for k in rng.integers(0, max(len(others), 1), 3 if others else 0))]
    if not element and isinstance(value, (list, np.ndarray)):
        return _vectors(name, value, rng)
    return [v for v in _numbers(value) if v != value]


def _absent_tables(annotation: str) -> list[type]:
    return [getattr(schema(), name) for name in re.findall(r"(\w+T)\b", annotation) if hasattr(schema(), name)]


def _vectors(name: str, value: Any, rng: np.random.Generator) -> list[Any]:
    items = list(value)
    if name == "data":
        flipped = np.array(items, np.uint8)
        found: list[Any] = [None, flipped[:-1], np.append(flipped, np.uint8(0)), flipped[: len(flipped) // 2]]
        if len(flipped):
            for _ in range(4):
                changed = flipped.copy()
                changed[rng.integers(0, len(changed))] ^= np.uint8(1 << rng.integers(0, 8))
                found.append(changed)
        return found
    found = [None, [], items[:-1], [*items, *items[-1:]], items[::-1]]
    for k in range(len(items) - 1):
        found.append([*items[:k], items[k + 1], items[k], *items[k + 2 :]])
        found.append([*items[:k], *items[k + 1 :]])
    if name in ("shape", "shapeSignature", "newShape") and items:
        size = math.prod(int(v) for v in items)
        found += [[size], [1, size], [1, 1, size], [*items, 1], [1, *items], [size, 1]]
    if name in ("inputs", "outputs", "intermediates"):
        found += [[*items[:-1], int(v)] for v in rng.integers(0, 30, 3)]
    return [copy.deepcopy(v) for v in found]


def _change(model: Any, path: tuple[Step, ...], value: Any) -> None:
    owner = model
    for name, k in path[:-1]:
        owner = getattr(owner, name) if k is None else getattr(owner, name)[k]
    name, k = path[-1]
    if k is None:
        setattr(owner, name, value)
        return
    items = list(getattr(owner, name))
    items[k] = value
    setattr(owner, name, items)


def single(content: bytes, rng: np.random.Generator) -> list[tuple[str, Callable[[Any], None]]]:
    """Changes of one field each, the fields of every table in turn, in a random order within a field."""
    by_field: dict[str, list[tuple[str, Callable[[Any], None]]]] = defaultdict(list)
    for path, owner, value, name in sites(unpack(content)):
        element = path[-1][1] is not None
        for other in candidates(owner, name, value, element, rng):
            shown = "/".join(n if k is None else f"{n}[{k}]" for n, k in path)
            text = re.sub(r"\s+", " ", repr(other))[:40] if not _is_table(other) else type(other).__name__
            change = lambda model, path=path, other=other: _change(model, path, copy.deepcopy(other))  # noqa: E731
            by_field[f"{type(owner).__name__}.{name}{'[]' if element else ''}"].append((f"{shown} = {text}", change))
    for changes in by_field.values():
        rng.shuffle(changes)  # type: ignore[arg-type]
    rounds = max(map(len, by_field.values()))
    return [changes[k] for k in range(rounds) for changes in by_field.values() if k < len(changes)]


def structural(content: bytes) -> list[tuple[str, Callable[[Any], None]]]:
    """Operators inserted at every place, and removed and swapped, with the chain rewired."""
    graph = unpack(content).subgraphs[0]
    found: list[tuple[str, Callable[[Any], None]]] = []
    for at in range(len(graph.operators)):
        found.append((f"operator {at} removed", lambda m, at=at: _remove(m, at)))
        if at + 1 < len(graph.operators):
            found.append((f"operators {at}, {at + 1} swapped", lambda m, at=at: _swap(m, at)))
        for kind in INSERTED:
            for flat in (False, True) if kind in ("RESHAPE", "SOFTMAX") else (False,):
                what = f"{kind} inserted behind operator {at}{', flattening' if flat else ''}"
                found.append((what, lambda m, at=at, kind=kind, flat=flat: _insert(m, at, kind, flat)))
    return found


def _rewire(model: Any, at: int, before: int, after: int) -> None:
    """Whatever reads tensor `before` from operator `at` on, and the output, takes `after`."""
    graph = model.subgraphs[0]
    for op in graph.operators[at:]:
        op.inputs = [after if int(i) == before else int(i) for i in op.inputs]
    graph.outputs = [after if int(i) == before else int(i) for i in graph.outputs]
    for signature in model.signatureDefs or []:
        for entry in signature.outputs:
            entry.tensorIndex = after if entry.tensorIndex == before else entry.tensorIndex


def _remove(model: Any, at: int) -> None:
    removed = model.subgraphs[0].operators.pop(at)
    _rewire(model, at, int(removed.outputs[0]), int(removed.inputs[0]))


def _swap(model: Any, at: int) -> None:
    ops = model.subgraphs[0].operators
    first, second = ops[at], ops[at + 1]
    source, middle, end = int(first.inputs[0]), int(first.outputs[0]), int(second.outputs[0])
    second.inputs, first.inputs = [source, *list(second.inputs)[1:]], [middle, *list(first.inputs)[1:]]
    second.outputs, first.outputs = [middle], [end]
    ops[at], ops[at + 1] = second, first


def _insert(model: Any, at: int, kind: str, flat: bool) -> None:
    graph, names = model.subgraphs[0], schema()
    before = int(graph.operators[at].outputs[0])
    tensor = copy.deepcopy(graph.tensors[before])
    tensor.name = b"inserted"
    if flat:
        tensor.shape = [1, math.prod(int(d) for d in tensor.shape)]
    if kind in ("SOFTMAX", "LOGISTIC", "TANH") and tensor.quantization is not None and tensor.type in (7, 9):
        wide = tensor.type == 7
        tensor.quantization.scale = [2.0**-15 if wide else 1 / 128 if kind == "TANH" else 1 / 256]
        tensor.quantization.zeroPoint = [0 if wide or kind == "TANH" else -128]
    index = len(graph.tensors)
    graph.tensors.append(tensor)
    number = getattr(names.BuiltinOperator, kind)
    code = names.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
    model.operatorCodes.append(code)
    op = names.OperatorT()
    op.opcodeIndex, op.inputs, op.outputs = len(model.operatorCodes) - 1, [before], [index]
    if kind == "SOFTMAX":
        op.builtinOptionsType, op.builtinOptions = names.BuiltinOptions.SoftmaxOptions, names.SoftmaxOptionsT()
        op.builtinOptions.beta = 1.0
    elif kind == "RESHAPE":
        op.builtinOptionsType, op.builtinOptions = names.BuiltinOptions.ReshapeOptions, names.ReshapeOptionsT()
        op.builtinOptions.newShape = [int(d) for d in tensor.shape]
    elif kind == "FULLY_CONNECTED":
        given = next((o for o in graph.operators if isinstance(o.builtinOptions, names.FullyConnectedOptionsT)), None)
        if given is not None:
            op.inputs = [before, *list(given.inputs)[1:]]
            op.builtinOptionsType, op.builtinOptions = given.builtinOptionsType, copy.deepcopy(given.builtinOptions)
    _rewire(model, at + 1, before, index)
    graph.operators.insert(at + 1, op)
    for follower in graph.operators[at + 2 :] if flat else []:  # activations give the shape that they take
        if len(follower.inputs) > 1:
            break
        graph.tensors[int(follower.outputs[0])].shape = list(tensor.shape)


def mutants(content: bytes, count: int, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Up to `count` mutants of a file, with what was changed: structure, single fields, and then pairs of fields."""
    one, many = single(content, rng), structural(content)
    rng.shuffle(many)  # type: ignore[arg-type]
    planned = [[change] for change in (*many[: count // 3], *one)][:count]
    while len(planned) < count:
        planned.append([one[int(k)] for k in rng.integers(0, len(one), 2)])
    for changes in planned:
        model = unpack(content)
        try:
            for _, change in changes:
                change(model)
            yield " and ".join(text for text, _ in changes), pack(model)
        except (AttributeError, IndexError, TypeError, ValueError, KeyError, OverflowError, AssertionError):
            continue  # the writer cannot say this
        except Exception as error:  # struct.error and flatbuffers' own
            if type(error).__module__.split(".")[0] not in ("struct", "flatbuffers"):
                raise
