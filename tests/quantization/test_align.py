"""Layers of a float and an integer model are paired, or the reason why they do not belong together is told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.network import load_network
from codesign.network.model import Activation, Dense
from codesign.quantization import IntActivation, IntReshape, read_integer_network
from codesign.quantization.align import ActivationStage, DenseStage, LstmStage, align

FIXTURES = Path(__file__).parent.parent / "fixtures"


def models(name, float_suffix=".h5"):
    return load_network(FIXTURES / f"{name}{float_suffix}"), read_integer_network(FIXTURES / f"{name}.tflite")


def test_stages_hold_what_belongs_together():
    network, integer = models("stacked")
    stages = align(network, integer)
    lstms = [stage for stage in stages if isinstance(stage, LstmStage)]
    assert [s.last_only for s in lstms] == [not layer.return_sequences for layer in network.layers[: len(lstms)]]
    assert all(s.float_layer.W.shape == s.int_op.W.shape for s in lstms)
    dense = [stage for stage in stages if isinstance(stage, DenseStage)]
    assert all(s.float_layer.W.shape == s.int_op.W.shape for s in dense)
    assert isinstance(stages[-1], ActivationStage)
    assert stages[-1].kind == "softmax"


def test_int16_multipliers_act_with_16_bits():
    network, integer = load_network(FIXTURES / "tiny.h5"), read_integer_network(FIXTURES / "tiny.int16.tflite")
    acting = align(network, integer)[0].int_op
    stored = integer.ops[0]
    for a, b in zip(acting.input_multipliers, stored.input_multipliers, strict=True):
        assert a.real == b.reduced_real


@pytest.mark.parametrize(("float_name", "int8_name"), [("tiny", "logits"), ("stacked", "tiny"), ("acts", "tiny")])
def test_other_architectures_are_refused(float_name, int8_name):
    network, _ = models(float_name)
    _, integer = models(int8_name)
    with pytest.raises(InputError):
        align(network, integer)


def test_one_layer_more_or_of_another_shape_is_refused():
    network, integer = models("tiny")
    with pytest.raises(InputError, match="goes on"):
        align(replace(network, layers=network.layers[:1]), integer)
    lstm = network.layers[0]
    wider = replace(lstm, W=np.concatenate([lstm.W, lstm.W], axis=2))
    with pytest.raises(InputError, match="weights of shape"):
        align(replace(network, layers=(wider, *network.layers[1:])), integer)


def test_an_operator_that_reads_other_units_is_refused():
    network, integer = models("tiny")
    at = next(k for k, op in enumerate(integer.ops) if k and not isinstance(op, IntReshape))
    op = integer.ops[at]
    moved = replace(op, input=replace(op.input, zero_point=op.input.zero_point + 1))
    ops = (*integer.ops[:at], moved, *integer.ops[at + 1 :])
    with pytest.raises(InputError, match="other units"):
        align(network, replace(integer, ops=ops))


def test_a_softmax_that_is_not_last_is_refused():
    network, integer = models("tiny")
    last = integer.ops[-1]
    assert isinstance(last, IntActivation)
    again = replace(last, name="again", kind="sigmoid", input=last.output)
    plain = tuple(
        replace(layer, activation="softmax") if isinstance(layer, Dense) and k == len(network.layers) - 1 else layer
        for k, layer in enumerate(network.layers)
    )
    with pytest.raises(InputError, match="last layer only"):
        align(
            replace(network, layers=(*plain, Activation("again", "sigmoid"))),
            replace(integer, ops=(*integer.ops, again)),
        )
