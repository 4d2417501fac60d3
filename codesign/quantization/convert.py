"""Conversion of a float model to a full-integer .tflite: int8 by the TensorFlow Lite converter, int16 from that."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np

from codesign.errors import CodesignError, InputError, MissingToolError
from codesign.files import require_folder, write_atomically
from codesign.network import Activation, Dense, FloatNetwork, Lstm, load_network
from codesign.quantization.calibration import Calibration, default_calibration_path, load_calibration
from codesign.quantization.int16 import to_int16
from codesign.quantization.integer import Activations
from codesign.quantization.reader import parse_integer_network

EXIT_MISSING = 3  # the worker's exit code where TensorFlow cannot be imported
CONVERTER_CELL_CLIP = 10.0  # what the converter writes into every LSTM


def convert(
    model_path: str | Path,
    output_path: str | Path,
    calibration_path: str | Path | None = None,
    activations: Activations = "int8",
) -> Path:
    """Convert a float model (.h5, .keras or float .tflite) to an integer .tflite; returns the output's path.

    Full integer: int8 weights, int8 or int16 activations, in and out, fused UNIDIRECTIONAL_SEQUENCE_LSTM operators.
    TensorFlow makes the int8 file; the int16 one, which TFLM runs and TFLite does not, is made from it (int16.py).
    Ranges come from the calibration samples, each run from the zero state; the file defaults to NAME.calib.npz
    beside the model. The same input gives the same bytes. The output is written whole or not at all.

    Raises InputError for a bad model, calibration file or output path, MissingToolError where TensorFlow is not
    installed, CodesignError where the converter fails or does not give a full-integer model.
    """
    model_path, output_path = Path(model_path), Path(output_path)
    check_request(model_path, output_path, activations)
    network = load_network(model_path)
    for layer in network.layers:
        if isinstance(layer, Lstm) and layer.acting_clip(network.input_shape[0]) not in (0.0, CONVERTER_CELL_CLIP):
            raise InputError(
                f"{model_path.name}: LSTM {layer.name!r} clips its cell at {layer.cell_clip}, but the converter only "
                f"makes LSTMs that clip at {CONVERTER_CELL_CLIP}"
            )
    if calibration_path is None:
        calibration_path = default_calibration_path(model_path)
    calibration = load_calibration(calibration_path, network.input_shape)
    if not (calibration.x != 0).any():
        raise InputError(f"calibration file {calibration_path}: x is zero everywhere, so that it gives no range")
    content = _run_worker(network, calibration)
    _check_result(content, network)
    integer = parse_integer_network(content, network.name)  # whatever it refuses would not run
    if activations == "int16":
        content = to_int16(integer, network)
        parse_integer_network(content, network.name)
    write_atomically(output_path, content)
    return output_path


def check_request(model_path: Path, output_path: Path, activations: str) -> None:
    """InputError where `output_path` cannot become a .tflite file with such activations made from the model."""
    if activations not in get_args(Activations):
        raise InputError(f"unknown type of activations '{activations}'; use one of {', '.join(get_args(Activations))}")
    if output_path.suffix.lower() != ".tflite":
        raise InputError(f"the output {output_path} has to be a .tflite file")
    if output_path.is_dir() or not output_path.absolute().parent.is_dir():
        raise InputError(f"the output {output_path} cannot be written: give a file in a folder that exists")
    if output_path.exists() and model_path.exists() and output_path.samefile(model_path):
        raise InputError(f"the output {output_path} is the model itself; give another name")
    require_folder(output_path.absolute())


def _describe(network: FloatNetwork) -> tuple[dict[str, Any], dict[str, Any]]:
    """The network as JSON and arrays for the worker. Names that TensorFlow cannot take are replaced."""
    layers: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for index, layer in enumerate(network.layers):
        usable = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", layer.name)
        name = layer.name if usable and all(layer.name != other["name"] for other in layers) else f"layer_{index}"
        entry: dict[str, Any] = {"name": name}
        if isinstance(layer, Lstm):
            entry |= {"kind": "lstm", "return_sequences": layer.return_sequences}
            arrays |= {f"W{index}": layer.W, f"R{index}": layer.R, f"b{index}": layer.b}
        elif isinstance(layer, Dense):
            entry |= {"kind": "dense", "activation": layer.activation}
            arrays |= {f"W{index}": layer.W, f"b{index}": layer.b}
        elif isinstance(layer, Activation):
            entry |= {"kind": "activation", "activation": layer.kind}
        else:
            entry |= {"kind": "reshape", "shape": list(layer.shape)}
        layers.append(entry)
    return {"input_shape": list(network.input_shape), "layers": layers}, arrays


def _run_worker(network: FloatNetwork, calibration: Calibration) -> bytes:
    description, arrays = _describe(network)
    root = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    environment = {
        **os.environ,
        "PYTHONPATH": search,
        "PYTHONHASHSEED": "0",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    with tempfile.TemporaryDirectory(prefix="codesign-") as folder:
        Path(folder, "network.json").write_text(json.dumps(description))
        np.savez(Path(folder, "arrays.npz"), x=calibration.x, **arrays)
        command = [sys.executable, "-m", "codesign.quantization._tf_worker", folder]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, errors="replace")
        if done.returncode == EXIT_MISSING:
            raise MissingToolError(
                f"conversion needs TensorFlow and tf_keras ({_last_line(done.stderr)}): "
                "install them with pip install 'codesign[convert]'"
            )
        result = Path(folder, "model.tflite")
        if done.returncode != 0 or not result.is_file():
            raise CodesignError(
                f"the TensorFlow Lite converter failed on {network.name} "
                f"(exit code {done.returncode}): {_last_line(done.stderr)}"
            )
        return result.read_bytes()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


def _check_result(content: bytes, network: FloatNetwork) -> None:
    """The converter falls back silently: to unfused LSTMs, and to float operators between quantize and dequantize."""
    import tflite

    names = {value: key for key, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)}
    model = tflite.Model.GetRootAsModel(content, 0)
    graph = model.Subgraphs(0)
    operators = [graph.Operators(index) for index in range(graph.OperatorsLength())]
    kinds = []
    for operator in operators:
        code = model.OperatorCodes(operator.OpcodeIndex())
        kinds.append(names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())])
    wanted = sum(isinstance(layer, Lstm) for layer in network.layers)
    fused = kinds.count("UNIDIRECTIONAL_SEQUENCE_LSTM")
    if fused != wanted or model.SubgraphsLength() != 1:
        raise CodesignError(f"the converter gave {fused} fused LSTM operators for the {wanted} LSTMs of {network.name}")
    operands = {int(i) for operator in operators for i in (*operator.InputsAsNumpy(), *operator.OutputsAsNumpy())}
    if any(graph.Tensors(i).Type() == tflite.TensorType.FLOAT32 for i in operands if i >= 0):
        raise CodesignError(f"the converter left float operators in the model of {network.name}: {', '.join(kinds)}")
