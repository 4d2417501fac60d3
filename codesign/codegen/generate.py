"""Writes the C sources of a model, and estimates the memory they take."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from codesign.codegen.emit import emit_float_source, emit_header, emit_source
from codesign.codegen.plan import make_plan
from codesign.errors import InputError
from codesign.quantization.integer import IntegerNetwork
from codesign.resources import resource_dir

KERNELS = (
    "cs_dot.c",
    "cs_fixed.h",
    "cs_kernels.h",
    "cs_layers.c",
    "cs_lstm.c",
    "cs_quantize.c",
    "cs_quantize.h",
    "cs_softmax.c",
)


def generate(network: IntegerNetwork, folder: str | Path) -> list[Path]:
    """Writes the model's C99 sources and the kernels into `folder`; other files there are left alone.

    Returns the paths written: codesign_model.h (the API), codesign_model.c, codesign_model_float.c (besides
    cs_quantize.c the only file with floating point) and the kernels. Compiling every .c of the list, with `folder`
    on the include path, gives the whole model. Raises InputError where the network cannot run exactly in 32-bit
    integers or the folder cannot be written.
    """
    plan = make_plan(network)
    kernels = resource_dir("firmware") / "kernels"
    texts = {
        "codesign_model.h": emit_header(plan),
        "codesign_model.c": emit_source(plan),
        "codesign_model_float.c": emit_float_source(plan),
        **{name: (kernels / name).read_text(encoding="ascii") for name in KERNELS},
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


# Present whatever the model: 256 uint16 knots of the sigmoid where it has an LSTM, and its 32-byte hash.
_KNOTS_BYTES = 512
_HASH_BYTES = 32


def memory_estimate(network: IntegerNetwork) -> dict[str, Any]:
    """Bytes of constant data (flash) by layer and of static RAM by buffer, and multiply-accumulates.

    {"flash_bytes", "ram_bytes", "macs", "layers": [{"name", "kind", "macs", "flash_bytes", "arrays": {role: bytes}}],
    "buffers": {name: bytes}}. Exact for the generated arrays; code, layer descriptors (about 150 bytes each) and stack
    come on top. Raises what `generate` raises.
    """
    plan = make_plan(network)
    layers: list[dict[str, Any]] = []
    for step in plan.steps:
        arrays = {constant.role: int(constant.values.nbytes) for constant in step.constants}
        if step.scales:
            arrays["scale"] = 8 * len(step.scales)
        layers.append(
            {
                "name": step.op.name,
                "kind": step.kind,
                "macs": step.macs,
                "flash_bytes": sum(arrays.values()),
                "arrays": arrays,
            }
        )
    buffers = {f"buffer_{name}": size for name, size in plan.buffers.items() if size}
    if plan.cell_units:
        buffers["cell"] = 2 * plan.cell_units
    shared = _HASH_BYTES + (_KNOTS_BYTES if plan.lstm_layers else 0)
    return {
        "flash_bytes": shared + sum(layer["flash_bytes"] for layer in layers),
        "ram_bytes": sum(buffers.values()),
        "macs": sum(step.macs for step in plan.steps),
        "layers": layers,
        "buffers": buffers,
    }
