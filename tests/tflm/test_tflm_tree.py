"""Which folders are TFLM trees, which of their files an application takes, and what is said of the others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tflm_support import FIXTURES, stub_tree

from codesign.errors import InputError
from codesign.quantization import read_integer_network, with_profile
from codesign.tflm import find_tree, runtime_files, runtime_option
from codesign.tflm.sources import kernel_files, operators_of

MICRO = "tensorflow/lite/micro"
KERNELS = f"{MICRO}/kernels"


@pytest.mark.parametrize("downloads", [False, True])
@pytest.mark.parametrize("suffix", [".cc", ".cpp"])
def test_layouts(tmp_path: Path, downloads: bool, suffix: str) -> None:
    root = stub_tree(tmp_path / "tree", suffix=suffix, downloads=downloads)
    tree = find_tree(root)
    assert (tree.root, tree.suffix, tree.has_cmsis_nn, tree.traces) == (root, suffix, False, True)
    assert set(tree.parts) == {"flatbuffers", "gemmlowp", "ruy"}
    assert not find_tree(stub_tree(tmp_path / "old", traces=False)).traces


@pytest.mark.parametrize("place", ["src", "library/src"])
def test_library_layout(tmp_path: Path, place: str) -> None:
    root = stub_tree(tmp_path / "lib" / place)
    assert find_tree(tmp_path / "lib").root == root


def test_files_are_those_that_are_needed(tmp_path: Path) -> None:
    tree = find_tree(stub_tree(tmp_path))
    found = tree.files(["unidirectional_sequence_lstm", "fully_connected"], cmsis_nn=False)
    assert {name for name in found if name.endswith(".cc")} == {
        f"{MICRO}/micro_interpreter.cc", f"{KERNELS}/unidirectional_sequence_lstm.cc", f"{KERNELS}/fully_connected.cc",
    }  # fmt: skip
    assert "third_party/flatbuffers/include/flatbuffers/flatbuffers.h" in found
    assert f"{KERNELS}/kernel_util.h" in found
    assert not [name for name in found if "unused" in name or "softmax" in name or "gemmlowp" in name]


def test_cmsis_nn_takes_the_place_of_reference_kernels(tmp_path: Path) -> None:
    tree = find_tree(stub_tree(tmp_path, cmsis=True), cmsis_nn=True)
    found = tree.files(["unidirectional_sequence_lstm", "softmax"], cmsis_nn=True)
    sources = {name for name in found if name.endswith((".c", ".cc"))}
    assert sources == {
        f"{MICRO}/micro_interpreter.cc", f"{KERNELS}/cmsis_nn/unidirectional_sequence_lstm.cc", f"{KERNELS}/softmax.cc",
        "third_party/cmsis_nn/Source/LSTMFunctions/arm_lstm_other_name.c",
        "third_party/cmsis_nn/Source/Support/arm_helper.c",
    }  # fmt: skip
    assert "third_party/cmsis/CMSIS/Core/Include/cmsis_compiler.h" in found
    with pytest.raises(
        InputError, match=r"CMSIS-NN's kernel unidirectional_sequence_lstm.cc and not the reference one"
    ):
        tree.files(["unidirectional_sequence_lstm"], cmsis_nn=False)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (f"{MICRO}/micro_interpreter.h", "is no TFLM source tree: it lacks .*micro_interpreter.h"),
        (f"{MICRO}/micro_mutable_op_resolver.h", "lacks .*micro_mutable_op_resolver.h"),
        (f"{KERNELS}/lstm_shared.h", "lacks .*lstm_shared.h"),
        (f"{MICRO}/micro_interpreter.cc", r"lacks .*micro_interpreter.cc \(or .cpp\)"),
        ("third_party/flatbuffers", "lacks third_party/flatbuffers/.*third_party_downloads"),
        ("third_party/gemmlowp", "lacks third_party/gemmlowp"),
        ("third_party/ruy", "lacks third_party/ruy"),
    ],
)
def test_says_which_file_is_missing(tmp_path: Path, missing: str, said: str) -> None:
    path = stub_tree(tmp_path) / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=said):
        find_tree(tmp_path)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("third_party/cmsis_nn", "is without CMSIS-NN: it lacks third_party/cmsis_nn/.*OPTIMIZED_KERNEL_DIR=cmsis_nn"),
        ("third_party/cmsis", "is without CMSIS-NN: it lacks third_party/cmsis/"),
        (f"{KERNELS}/cmsis_nn", "is without CMSIS-NN's kernels"),
    ],
)
def test_cmsis_nn_is_asked_for_and_missing(tmp_path: Path, missing: str, said: str) -> None:
    shutil.rmtree(stub_tree(tmp_path, cmsis=True) / missing)
    with pytest.raises(InputError, match=said):
        find_tree(tmp_path, cmsis_nn=True)


def test_missing_kernel(tmp_path: Path) -> None:
    (stub_tree(tmp_path) / KERNELS / "softmax.cc").unlink()
    with pytest.raises(InputError, match=r"lacks tensorflow/lite/micro/kernels/softmax\.cc"):
        find_tree(tmp_path).files(["softmax"], cmsis_nn=False)


def test_inclusions_that_leave_the_tree_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.h").write_text("outside\n")
    root = stub_tree(tmp_path / "tree")
    kernel = root / KERNELS / "softmax.cc"
    kernel.write_text(f'#include "../../../../../../secret.h"\n#include "{tmp_path}/secret.h"\n')
    (root / KERNELS / "link.h").symlink_to(tmp_path / "secret.h")
    kernel.write_text(kernel.read_text() + '#include "tensorflow/lite/micro/kernels/link.h"\n')
    found = find_tree(root).files(["softmax"], cmsis_nn=False)
    assert all(path.is_relative_to(root) for path in found.values())


@pytest.mark.parametrize("scales", ["float32", "double"])
@pytest.mark.parametrize("cmsis", [False, True])
def test_profile_is_read_from_the_sources(tmp_path: Path, scales: str, cmsis: bool) -> None:
    root = stub_tree(tmp_path, scales, cmsis)
    runtime = runtime_option("tflm-cmsis" if cmsis else "tflm", root)
    assert runtime is not None
    network = read_integer_network(FIXTURES / "tiny.tflite")
    kernels, product = "cmsis-nn" if cmsis else "tflm", "float" if scales == "float32" else "double"
    assert runtime.profile(network) == f"{kernels}-{product}"


def test_cmsis_nn_without_an_lstm_of_its_own_computes_as_the_reference(tmp_path: Path) -> None:
    root = stub_tree(tmp_path, cmsis=True)
    own = root / KERNELS / "cmsis_nn" / "unidirectional_sequence_lstm.cc"
    own.rename(root / KERNELS / own.name)
    runtime = runtime_option("tflm-cmsis", root)
    assert runtime is not None
    assert runtime.profile(read_integer_network(FIXTURES / "tiny.tflite")) == "tflm-float"


def test_unknown_scale_product(tmp_path: Path) -> None:
    root = stub_tree(tmp_path)
    (root / "tensorflow/lite/kernels/kernel_util.cc").write_text("double product = 1;\n")
    with pytest.raises(InputError, match="does not say how it multiplies scales"):
        _ = find_tree(root).scale_products


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tflite",), "there is no runtime 'tflite'"),
        (("tflm",), "needs TFLM's sources: name a tree with --tflm-tree"),
        (("tflm", "/nowhere"), "there is no folder /nowhere"),
        (("tflm", "/", "owner/name"), "give one of them"),
        (("codesign", "/"), "belong to TFLM"),
        (("codesign", None, None, 4096), "belong to TFLM"),
        (("tflm", "/", None, 100), "arena of 100 bytes"),
    ],
)
def test_contradicting_options(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str) -> None:
    monkeypatch.delenv("CODESIGN_TFLM_TREE", raising=False)
    with pytest.raises(InputError, match=said):
        runtime_option(*arguments)  # type: ignore[arg-type]


def test_tree_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODESIGN_TFLM_TREE", str(stub_tree(tmp_path)))
    runtime = runtime_option("tflm")
    assert runtime is not None
    assert runtime.tree.root == tmp_path
    assert runtime_option("codesign") is None


def test_generated_sources(tmp_path: Path) -> None:
    runtime = runtime_option("tflm", stub_tree(tmp_path))
    assert runtime is not None
    network = with_profile(read_integer_network(FIXTURES / "stacked.tflite"), "tflm-float")
    made = runtime_files(network, runtime, 4096)
    config = made.files["model/cs_tflm_config.h"].decode()
    assert "#define CS_TFLM_ARENA_BYTES 4096u" in config
    assert '#define CS_TFLM_RUNTIME "tflm tflm-float"' in config
    kinds = operators_of(network)
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" in kinds
    assert f"#define CS_TFLM_OPERATORS {len(kinds)}" in config
    assert config.count("resolver.Add") == len(kinds)
    assert "AddUnidirectionalSequenceLSTM(traced_lstm())" in config
    data = made.files["model/codesign_model_data.c"].decode()
    values = data[data.index("{") + 1 : data.index("}")].replace("\n", " ").strip(" ,").split(",")
    assert bytes(int(v) for v in values) == network.content
    assert "#define CS_MODEL_STREAMING 0" in made.files["model/codesign_model.h"].decode()
    assert made.includes[0] == "tflm"
    assert "NDEBUG" in made.defines


@pytest.mark.parametrize("cmsis", [False, True])
def test_int16_dense_layers_that_cmsis_nn_refuses(tmp_path: Path, cmsis: bool) -> None:
    root = stub_tree(tmp_path, cmsis=True)
    lstm = root / KERNELS / "cmsis_nn" / "unidirectional_sequence_lstm.cc"
    (root / KERNELS / lstm.name).write_text("\n")
    (root / KERNELS / "cmsis_nn" / "fully_connected.cc").write_text(
        "TF_LITE_ENSURE(context, !data.is_per_channel ||\n (data.is_per_channel &&\n  input->type == kTfLiteInt8));\n"
    )
    runtime = runtime_option("tflm-cmsis" if cmsis else "tflm", root)
    assert runtime is not None
    kernel_files(read_integer_network(FIXTURES / "tiny.tflite"), runtime)
    wide = read_integer_network(FIXTURES / "tiny.int16.tflite")
    if not cmsis:
        (root / KERNELS / "fully_connected.cc").write_text("\n")
        kernel_files(wide, runtime)
        return
    with pytest.raises(InputError, match="does not take int16 activations with weights that have a scale a channel"):
        kernel_files(wide, runtime)


def test_operator_that_is_not_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    from codesign.tflm import sources

    monkeypatch.delitem(sources._OPERATORS, "SOFTMAX")
    with pytest.raises(InputError, match="has the operator SOFTMAX, which the TFLM runtime does not register"):
        operators_of(read_integer_network(FIXTURES / "tiny.tflite"))
