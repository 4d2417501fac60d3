"""The firmware sources of a model that TFLM's interpreter runs: the model as data, the glue, and TFLM's own files."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from codesign.errors import InputError
from codesign.quantization.integer import IntDense, IntegerNetwork
from codesign.resources import resource_dir
from codesign.tflm.runtime import TflmRuntime

FOLDER = "tflm"  # of TFLM's files in the project's src/

# Operator of the file -> (method of TFLM's resolver, its kernel's source).
_OPERATORS = {
    "UNIDIRECTIONAL_SEQUENCE_LSTM": ("AddUnidirectionalSequenceLSTM", "unidirectional_sequence_lstm"),
    "FULLY_CONNECTED": ("AddFullyConnected", "fully_connected"),
    "SOFTMAX": ("AddSoftmax", "softmax"),
    "LOGISTIC": ("AddLogistic", "logistic"),
    "TANH": ("AddTanh", "tanh"),
    "RELU": ("AddRelu", "activations"),
    "STRIDED_SLICE": ("AddStridedSlice", "strided_slice"),
    "RESHAPE": ("AddReshape", "reshape"),
}
DEFINES = (
    "TF_LITE_STATIC_MEMORY",
    "TF_LITE_DISABLE_X86_NEON",
    "TF_LITE_STRIP_ERROR_STRINGS",
    "NDEBUG",
    "KERNELS_OPTIMIZED_FOR_SPEED",
)
# In CMSIS-NN's FULLY_CONNECTED, white space left out: what it takes of weights with a scale a channel.
_INT8_ONLY = re.compile(r"is_per_channel&&input->type==kTfLiteInt8")
CMSIS_DEFINES = ("CMSIS_NN", "ARM_NN_ENABLE_F16=0", "ARM_NN_ENABLE_F32=0")


@dataclass(frozen=True)
class RuntimeFiles:
    """`files` by their path below the project's src/; `includes` folders below src/; `defines` of the preprocessor."""

    files: dict[str, bytes]
    includes: tuple[str, ...]
    defines: tuple[str, ...]
    operators: tuple[str, ...]


def operators_of(network: IntegerNetwork) -> tuple[str, ...]:
    """The kinds of operators in the model's file, each once. InputError for one that the glue does not register."""
    from codesign.flatfile import TfliteFile

    kinds = tuple(sorted({op.kind for op in TfliteFile(network.content, f"{network.name}.tflite").operators}))
    missing = [kind for kind in kinds if kind not in _OPERATORS]
    if missing:
        raise InputError(
            f"the model {network.name} has the operator {missing[0]}, which the TFLM runtime does not register; it has "
            + ", ".join(sorted(_OPERATORS))
        )
    return kinds


def kernel_files(network: IntegerNetwork, runtime: TflmRuntime) -> dict[str, Path]:
    """TFLM's own files for the model, by name. InputError as for `runtime_files`."""
    wide = network.activations == "int16"
    if wide and runtime.cmsis_nn and any(isinstance(op, IntDense) and len(op.W_scale) > 1 for op in network.ops):
        dense = runtime.tree.kernel("fully_connected", True)
        if _INT8_ONLY.search(re.sub(r"\s+", "", runtime.tree.text(dense))):
            raise InputError(
                f"this TFLM's FULLY_CONNECTED with CMSIS-NN ({dense.name}) does not take int16 activations with "
                "weights that have a scale a channel, as this model's: take --runtime tflm, or int8 activations"
            )
    return runtime.tree.files([_OPERATORS[kind][1] for kind in operators_of(network)], runtime.cmsis_nn)


def runtime_files(network: IntegerNetwork, runtime: TflmRuntime, arena: int) -> RuntimeFiles:
    """All sources of the model under TFLM but for the application and the board's; `arena` in bytes.

    InputError: the tree lacks a file, or the model cannot run under it.
    """
    tree, cmsis_nn = runtime.tree, runtime.cmsis_nn
    kinds = operators_of(network)
    found = kernel_files(network, runtime)
    files = {f"{FOLDER}/{name}": path.read_bytes() for name, path in found.items()}
    files |= {f"model/{name}": text.encode() for name, text in model_sources(network, runtime, kinds, arena).items()}
    firmware = resource_dir("firmware")
    files["model/cs_tflm.cc"] = (firmware / "tflm" / "cs_tflm.cc").read_bytes()
    quantize = "cs_quantize" if network.activations == "int8" else "cs_quantize16"
    for name in (f"{quantize}.c", f"{quantize}.h"):
        files[f"model/{name}"] = (firmware / "kernels" / name).read_bytes()
    includes = tuple(
        FOLDER if folder == tree.root else f"{FOLDER}/{tree.name(folder)}"
        for folder in tree.include_folders(cmsis_nn)
        if any(path.is_relative_to(folder) for path in found.values())
    )
    return RuntimeFiles(files, includes, (*DEFINES, *(CMSIS_DEFINES if cmsis_nn else ())), kinds)


def model_sources(network: IntegerNetwork, runtime: TflmRuntime, kinds: tuple[str, ...], arena: int) -> dict[str, str]:
    """codesign_model.h (the API), its conversions, the .tflite as an array, and the glue's configuration."""
    from codesign.codegen.emit import byte_array, emit_float_source, emit_header
    from codesign.codegen.plan import make_plan

    plan = replace(
        make_plan(network),
        stream=None,
        stream_obstacle="TensorFlow Lite Micro's interpreter",
    )
    digest = hashlib.sha256(network.content).digest()
    traces = runtime.tree.traces
    adds = [f"    resolver.{_OPERATORS[kind][0]}()" for kind in kinds]
    if traces:
        plain = "    resolver.AddUnidirectionalSequenceLSTM()"
        adds = [f"{plain[:-1]}traced_lstm())" if add == plain else add for add in adds]
    added = " == kTfLiteOk && \\\n".join(adds)
    return {
        "codesign_model.h": emit_header(plan),
        "codesign_model_float.c": emit_float_source(plan),
        "codesign_model_data.c": (
            '#include "codesign_model.h"\n#include "cs_tflm_config.h"\n\n'
            f"_Alignas(16) const unsigned char cs_tflm_model[{len(network.content)}] = {{\n"
            f"{byte_array(network.content)}\n}};\n\n"
            f"static const uint8_t model_hash[32] = {{\n{byte_array(digest)}\n}};\n\n"
            "const uint8_t *cs_model_hash(void)\n{\n    return model_hash;\n}\n"
        ),
        "cs_tflm_config.h": f"""/* Written by codesign: do not edit. */
#ifndef CS_TFLM_CONFIG_H
#define CS_TFLM_CONFIG_H

#define CS_TFLM_ARENA_BYTES {arena}u
#define CS_TFLM_RUNTIME "{runtime.name} {runtime.profile(network)}"
#define CS_TFLM_TRACE {int(traces)}
#define CS_TFLM_VALUE_TYPE {"kTfLiteInt8" if network.activations == "int8" else "kTfLiteInt16"}
#define CS_TFLM_OPERATORS {len(kinds)}
/* True where all of them could be registered. */
#define CS_TFLM_REGISTER(resolver) ( \\
{added} == kTfLiteOk)

#ifdef __cplusplus
extern "C" {{
#endif
extern const unsigned char cs_tflm_model[{len(network.content)}];
#ifdef __cplusplus
}}
#endif

#endif
""",
    }
