"""One model or two: whether the int8 weights are the float ones, rounded."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from codesign import api
from codesign.cli.main import main
from codesign.errors import InputError
from codesign.network import Dense, Lstm, load_network
from codesign.quantization import read_integer_network, require_one_model
from codesign.quantization.align import align
from codesign.quantization.roundings import not_rounded, pair_facts

FIXTURES = Path(__file__).parent.parent / "fixtures"
MODELS = Path(__file__).parents[2] / "models"
NAMES = sorted(path.name.removesuffix(".float.tflite") for path in FIXTURES.glob("*.float.tflite"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("real", "integer"), [(".h5", ".tflite"), (".float.tflite", ".tflite"), (".h5", ".int16.tflite")]
)
def test_what_the_converter_makes_is_one_model(name, real, integer):
    pair = load_network(FIXTURES / f"{name}{real}"), read_integer_network(FIXTURES / f"{name}{integer}")
    assert require_one_model(*pair) is False
    assert pair_facts(align(*pair)) == {"different_models": False}


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "hil" / "sample_models").glob("*.tflite")))
def test_the_sample_models_are_one_model(path):
    assert require_one_model(load_network(MODELS / f"{path.stem}.h5"), read_integer_network(path)) is False


def changed(network, kind, field, change):
    """The float network with one field of its first layer of a kind changed."""
    at = next(k for k, layer in enumerate(network.layers) if isinstance(layer, kind))
    values = np.array(getattr(network.layers[at], field))
    change(values)
    return replace(
        network,
        layers=(*network.layers[:at], replace(network.layers[at], **{field: values}), *network.layers[at + 1 :]),
    )


@pytest.mark.parametrize(("kind", "field"), [(Lstm, "W"), (Lstm, "R"), (Lstm, "b"), (Dense, "W"), (Dense, "b")])
@pytest.mark.parametrize("suffix", [".tflite", ".int16.tflite"])
def test_one_weight_a_step_off_is_another_model(kind, field, suffix):
    network, integer = load_network(FIXTURES / "stacked.h5"), read_integer_network(FIXTURES / f"stacked{suffix}")
    layer = next(layer for layer in network.layers if isinstance(layer, kind))
    op = next(op for op in integer.ops if type(op).__name__ == f"Int{kind.__name__}")
    step = float(op.R_scale[0] if field == "R" else op.W_scale[0]) * (op.input.scale if field == "b" else 1.0)
    first = (0,) * getattr(layer, field).ndim

    def move(values):
        values[first] += np.float32(1.1 * step)

    found = not_rounded(align(changed(network, kind, field, move), integer))
    assert found is not None
    assert found.count == 1
    assert 0.5 < found.steps < 1.7
    assert layer.name in found.where


def test_the_refusal_is_one_sentence_and_names_the_flag():
    network, integer = load_network(FIXTURES / "tiny.h5"), read_integer_network(FIXTURES / "tiny.tflite")
    other = changed(network, Lstm, "W", lambda values: np.negative(values, out=values))
    with pytest.raises(
        InputError, match=r"these look like two different models, tiny and tiny: .* --different-models"
    ) as caught:
        require_one_model(other, integer)
    assert "\n" not in str(caught.value)
    assert require_one_model(other, integer, different=True) is True
    data = api.calibration(FIXTURES / "tiny.h5")
    with pytest.raises(InputError, match="two different models"):
        api.certify(other, integer, data, samples=1)


def test_a_certificate_of_two_models_says_so_and_is_checked(tmp_path):
    """The same architecture with other weights: refused, or certified as what it is."""
    from codesign.recheck import check

    content = bytearray((FIXTURES / "tiny.float.tflite").read_bytes())
    weights = load_network(FIXTURES / "tiny.float.tflite").layers[0].W[2].astype("<f4").tobytes()
    assert content.count(weights) == 1
    at = content.find(weights)
    content[at : at + len(weights)] = (np.frombuffer(weights, "<f4") * np.float32(0.8)).tobytes()
    real, integer = tmp_path / "other.tflite", FIXTURES / "tiny.tflite"
    real.write_bytes(bytes(content))
    (tmp_path / "other.calib.npz").write_bytes((FIXTURES / "tiny.calib.npz").read_bytes())
    output = tmp_path / "certificate.json"
    arguments = ["certify", str(real), str(integer), "--samples", "1", "--evaluations", "20", "-o", str(output)]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    assert not output.exists()
    told = CliRunner().invoke(main, [*arguments, "--different-models"])
    assert output.exists(), told.output
    assert "TWO DIFFERENT MODELS" in told.output
    document = json.loads(output.read_text())
    assert document["pair"] == {"different_models": True}
    assert check(output, real, integer).verdict == "valid"

    from codesign.proof.proof_file import digest

    document["pair"]["different_models"] = False
    del document["digest"]
    output.write_text(json.dumps({**document, "digest": digest(document)}))
    result = check(output, real, integer)
    assert (result.verdict, "pair/different_models" in result.item) == ("invalid", True)
