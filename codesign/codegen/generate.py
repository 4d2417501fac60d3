"""Writes the C sources of a model, and estimates the memory they take."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from codesign.codegen.emit import emit_float_source, emit_header, emit_source
from codesign.codegen.packing import Weights
from codesign.codegen.plan import make_plan
from codesign.errors import InputError
from codesign.quantization.integer import IntegerNetwork, IntLstm
from codesign.resources import resource_dir

INT16_KERNELS = (
    "cs_fixed.h",
    "cs_int16.c",
    "cs_int16.h",
    "cs_kernels.h",
    "cs_lstm.h",
    "cs_quantize16.c",
    "cs_quantize16.h",
    "cs_tables.c",
)
KERNELS = (
    "cs_dense.h",
    "cs_fixed.h",
    "cs_kernels.h",
    "cs_layers.c",
    "cs_lstm.h",
    "cs_quantize.c",
    "cs_quantize.h",
    "cs_softmax.c",
    "cs_softmax.h",
    "cs_tables.c",
)


def generate(network: IntegerNetwork, folder: str | Path, weights: Weights = "int8") -> list[Path]:
    """Writes the model's C99 sources and the kernels into `folder`; other files there are left alone.

    Returns the paths written: codesign_model.h (the API), codesign_model.c, codesign_model_float.c (besides
    cs_quantize.c or cs_quantize16.c the only file with floating point) and the kernels. Compiling every .c of the list,
    with `folder` on the include path, gives the whole model. `weights`: 'int8' packs them at one byte each, 'int16' at
    two, which takes fewer instructions; the outputs are the same. Raises InputError where the network cannot run
    exactly in 32-bit integers (int16 activations: 64-bit) or the folder cannot be written.
    """
    plan = make_plan(network, weights)
    if not network.profile.startswith("tflm-"):
        raise InputError(f"the generated C computes as TFLM's reference kernels, not as '{network.profile}'")
    names = KERNELS if plan.value_bytes == 1 else INT16_KERNELS
    kernels = resource_dir("firmware") / "kernels"
    texts = {
        "codesign_model.h": emit_header(plan),
        "codesign_model.c": emit_source(plan),
        "codesign_model_float.c": emit_float_source(plan),
        **{name: (kernels / name).read_text(encoding="ascii") for name in names},
    }
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_replace(folder / name, text) for name, text in texts.items()]
    except OSError as error:
        raise InputError(f"cannot write the C sources into {folder}: {error.strerror or error}") from error


def _replace(path: Path, text: str) -> Path:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="ascii", newline="\n") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


# Present whatever the model: the sigmoid's 512 segments where a layer needs them, and its 32-byte hash.
_SEGMENTS_BYTES = 2048
_HASH_BYTES = 32


def memory_estimate(network: IntegerNetwork, weights: Weights = "int8") -> dict[str, Any]:
    """Bytes of constant data (flash) by layer and of static RAM by buffer, and multiply-accumulates.

    {"flash_bytes", "ram_bytes", "macs", "layers": [{"name", "kind", "macs", "flash_bytes", "arrays": {role: bytes}}],
    "buffers": {name: bytes}, "tables_bytes"}. Exact for the
    generated arrays; code, layer descriptors and stack come on top. Raises what `generate` raises.
    """
    plan = make_plan(network, weights)
    layers: list[dict[str, Any]] = []
    buffers = {f"buffer_{name}": size * plan.value_bytes for name, size in plan.buffers.items() if size}
    for index, step in enumerate(plan.steps):
        arrays = {constant.role: int(constant.values.nbytes) for constant in step.constants}
        if step.scales:
            arrays["scale"] = 12 * len(step.scales)
        elif step.kind == "dense":
            arrays["scale"] = 8 * len(step.scales64)
        if isinstance(step.op, IntLstm):
            buffers |= {f"op{index}_hidden": step.op.units * plan.value_bytes, f"op{index}_cell": 2 * step.op.units}
        layers.append(
            {
                "name": step.op.name,
                "kind": step.kind,
                "macs": step.macs,
                "flash_bytes": sum(arrays.values()),
                "arrays": arrays,
            }
        )
    if plan.wide_words:
        buffers["wide"] = 8 * plan.wide_words
    shared = _HASH_BYTES + (_SEGMENTS_BYTES if plan.segments else 0)
    return {
        "flash_bytes": shared + sum(layer["flash_bytes"] for layer in layers),
        "ram_bytes": sum(buffers.values()),
        "macs": sum(step.macs for step in plan.steps),
        "layers": layers,
        "buffers": buffers,
        "tables_bytes": shared,
    }
