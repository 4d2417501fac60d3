"""A float and an integer model that are not the same function are refused, whatever the difference is."""

import importlib.util
import inspect
import re
import sys
from dataclasses import replace
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
import tflite

from codesign.errors import InputError
from codesign.flatfile import OPERATORS, TfliteFile, walk
from codesign.flatfile.schema import TABLES
from codesign.network import load_network
from codesign.network.model import Activation, Dense, FloatNetwork, Lstm, Reshape
from codesign.quantization import IntDense, IntReshape, parse_integer_network, read_integer_network
from codesign.quantization.align import ReshapeStage, align

TESTS = Path(__file__).parent.parent
FIXTURES = TESTS / "fixtures"


def _flatmodels():
    """The model builder lives beside the semantics tests."""
    if "flatmodels" not in sys.modules:
        spec = importlib.util.spec_from_file_location("flatmodels", TESTS / "semantics" / "flatmodels.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["flatmodels"] = module
        spec.loader.exec_module(module)
    return sys.modules["flatmodels"]


flat = _flatmodels()
RNG = np.random.default_rng(4)
W, R, D = (RNG.integers(-127, 128, shape).astype("i1") for shape in ((4, 6, 3), (4, 6, 6), (4, 6)))
SCALE = 0.01


def sequence():
    """An LSTM of 6 units over 5 steps of 3 features, as an int8 chain that can go on."""
    return flat.Chain((5, 3), SCALE, 0).lstm(W, R, np.zeros((4, 6)), [SCALE] * 4, [SCALE] * 4, 2.0**-7, 0)


def real(*layers, units=6):
    weights = [(v * SCALE).astype("f4") for v in (W, R)]
    lstm = Lstm("lstm", *weights, np.zeros((4, units), "f4"), True)
    return FloatNetwork("real", (5, 3), (lstm, *layers), "0" * 64, "keras2-h5")


def float_dense(activation="linear", columns=6):
    return Dense("dense", np.tile((D * SCALE).astype("f4"), (1, columns // 6)), np.zeros(4, "f4"), activation)


def read(chain):
    return parse_integer_network(chain.write(), "model")


def with_dense(**more):
    return sequence().dense(D, None, SCALE, 0.1, 0, **more)


def test_a_softmax_over_other_rows_is_refused():
    """A reshape moves no data, but a softmax of 20 classes is not five of 4."""
    network = real(float_dense("softmax"))
    assert align(network, read(with_dense(keep=True).softmax()))
    assert align(network, read(with_dense().softmax().reshape(1, 5, 4)))
    with pytest.raises(InputError, match=r"shape \(5, 4\) in the float model and \(20,\)"):
        align(network, read(with_dense().reshape(1, 20).softmax()))
    with pytest.raises(InputError, match=r"shape \(5, 4\) in the float model and \(20,\)"):
        align(network, read(with_dense().softmax().reshape(1, 20)))  # other rows of outputs
    flatly = real(float_dense(), Reshape("r", (20,)), Activation("s", "softmax"))
    assert align(flatly, read(with_dense().reshape(1, 20).softmax()))
    with pytest.raises(InputError, match=r"shape \(20,\) in the float model and \(5, 4\)"):
        align(flatly, read(with_dense().softmax()))


def test_a_dense_layer_on_other_rows_is_refused():
    """30 values through weights with 6 columns: five rows of 6, whichever way they were cut before."""
    V = RNG.integers(-127, 128, (2, 4)).astype("i1")
    network = real(float_dense(), Dense("last", (V * SCALE).astype("f4"), np.zeros(2, "f4"), "linear"))
    assert align(network, read(with_dense(keep=True).dense(V, None, SCALE, 0.1, 0, keep=True)))
    assert align(network, read(with_dense().dense(V, None, SCALE, 0.1, 0)))
    transposed = with_dense().reshape(1, 4, 5).reshape(1, 5, 4).dense(V, None, SCALE, 0.1, 0)
    assert align(network, read(transposed))  # row-major both times: nothing moved
    with pytest.raises(InputError):
        align(network, read(with_dense().reshape(1, 2, 10).dense(V, None, SCALE, 0.1, 0)))


def test_a_flattening_layer_is_paired_whichever_operator_flattens():
    columns = 30
    network = real(Reshape("flatten", (columns,)), float_dense(columns=columns))
    wide = np.tile(D, (1, 5))
    for chain in (
        sequence().dense(wide, None, SCALE, 0.1, 0),
        sequence().reshape(1, columns).dense(wide, None, SCALE, 0.1, 0),
    ):
        stages = align(network, read(chain))
        assert sum(isinstance(stage, ReshapeStage) for stage in stages) == 1


def test_an_activation_in_one_of_the_models_only_is_refused():
    linear, rectified = real(float_dense()), real(float_dense("relu"))
    fused = sequence().dense(D, None, SCALE, 0.1, -20, fused=1)
    assert align(rectified, read(fused))
    with pytest.raises(InputError, match="clamps its outputs"):
        align(linear, read(fused))
    with pytest.raises(InputError, match="has nothing"):
        align(rectified, read(sequence().dense(D, None, SCALE, 0.1, -20)))
    twice = sequence().dense(D, None, SCALE, 0.1, -20, fused=1).relu(0.1, -20)
    with pytest.raises(InputError, match="goes on"):
        align(rectified, read(twice))


def test_operators_made_by_hand_are_held_to_the_same(tmp_path):
    network, integer = load_network(FIXTURES / "stacked.h5"), read_integer_network(FIXTURES / "stacked.tflite")
    softmax, dense = integer.ops[-1], next(op for op in integer.ops if isinstance(op, IntDense))
    with pytest.raises(InputError, match="beta 4"):
        align(network, replace(integer, ops=(*integer.ops[:-1], replace(softmax, beta=4.0))))
    low = replace(dense, act_max=dense.output.q_max - 1)
    with pytest.raises(InputError, match="clamps"):
        align(network, replace(integer, ops=tuple(low if op is dense else op for op in integer.ops)))
    wrong = IntReshape("r", softmax.output, replace(softmax.output, shape=(1, 3)))
    ops = (*integer.ops[:-1], replace(wrong, input=softmax.input, output=softmax.input), softmax)
    assert align(network, replace(integer, ops=ops))
    with pytest.raises(InputError, match="shape"):
        align(network, replace(integer, ops=(*integer.ops, wrong, replace(softmax, input=softmax.output))))


def test_the_schema_is_the_published_one():
    """Every slot's name against the accessors that flatc generated, and no operator's options without its table."""
    for table, fields in TABLES.items():
        slots = {}
        for name, accessor in vars(getattr(tflite, table)).items():
            if name.endswith(("Length", "IsNone", "AsNumpy")) or not inspect.isfunction(accessor):
                continue
            found = re.search(r"_tab\.Offset\((\d+)\)", inspect.getsource(accessor))
            if found:
                slots[(int(found[1]) - 4) // 2] = name
        assert max(slots) == len(fields) - 1
        for slot, name in slots.items():
            assert fields[slot].name.replace("_", "") == name.lower(), (table, slot)
    assert {options for options in OPERATORS.values() if options} <= set(TABLES)


def _with_options(slots, fill):
    """The model of one SOFTMAX whose options table `fill` makes, of so many slots."""
    chain = flat.Chain((4, 3)).softmax()

    def options(builder):
        builder.StartObject(slots)
        fill(builder)
        return builder.EndObject()

    chain.b.ops[-1] = (*chain.b.ops[-1][:4], options)
    return chain


def test_a_field_that_no_schema_has_is_refused_by_its_slot():
    def fill(builder):
        builder.PrependFloat32Slot(0, 1.0, 0.0)
        builder.PrependInt32Slot(3, 7, 0)

    with pytest.raises(
        InputError, match=r"operator 0 \(SOFTMAX\) has a field that this version does not know \(slot 3"
    ):
        read(_with_options(4, fill))
    assert read(_with_options(4, lambda builder: builder.PrependFloat32Slot(0, 1.0, 0.0)))


def test_an_option_that_a_reader_does_not_read_is_refused():
    file = TfliteFile((FIXTURES / "stacked.tflite").read_bytes())
    with pytest.raises(InputError, match=r"UNIDIRECTIONAL_SEQUENCE_LSTM.* has cell_clip 10.0, which is not supported"):
        walk(file, dict.fromkeys(OPERATORS, lambda op: op.options["fused_activation_function"]))


def _metadata(name):
    """tiny.tflite with one metadata entry renamed."""
    content = (FIXTURES / "tiny.tflite").read_bytes()
    assert content.count(b"CONVERSION_METADATA") == 1
    return content.replace(b"CONVERSION_METADATA", name.ljust(19, b"\0"))


def test_metadata_that_interpreters_act_on_is_refused():
    """TFLM takes a plan of its memory from it: tensors could overlap."""
    assert parse_integer_network(_metadata(b"CONVERSION_METADATA"), "tiny")
    content = (FIXTURES / "tiny.tflite").read_bytes().replace(b"CONVERSION_METADATA", b"OfflineMemoryAlloca")
    with pytest.raises(InputError, match="metadata 'OfflineMemoryAlloca'"):
        parse_integer_network(content, "tiny")


def test_flatbuffers_default_values_are_the_schemas():
    """A field that is left out means what the generated accessors say."""
    for table, fields in TABLES.items():
        builder = flatbuffers.Builder(0)
        builder.StartObject(0)
        builder.Finish(builder.EndObject())
        made = getattr(tflite, table).GetRootAs(bytes(builder.Output()), 0)
        for field in fields:
            accessor = getattr(made, "".join(part.capitalize() for part in field.name.split("_")), None)
            if field.kind == "scalar" and accessor is not None:
                assert accessor() == field.default, (table, field.name)


def test_operators_have_names_of_their_own():
    """Variants of one operator are found by its name."""
    chain = flat.Chain((5, 3), SCALE, 0)
    for units, features in ((6, 3), (4, 6)):
        shapes = (4, units, features), (4, units, units)
        w, r = (RNG.integers(-127, 128, shape).astype("i1") for shape in shapes)
        chain.lstm(w, r, np.zeros((4, units)), [SCALE] * 4, [SCALE] * 4, 2.0**-7, 0)
    content = chain.write()
    first, second = (op.name for op in parse_integer_network(content, "model").ops)
    assert (len(first), len(second)) == (3, 3)
    same = content.replace(second.encode() + b"\0", first.encode() + b"\0")
    names = [op.name for op in parse_integer_network(same, "model").ops]
    assert names[0] == first
    assert names[1].startswith(f"{first}:")
