"""`size`: flash and RAM of a model by layer and section against a board's budget, before its firmware is built."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.bench.cores import find_core
from codesign.bench.program import Program, build_program
from codesign.bench.stack import stack_bound
from codesign.codegen import Weights, memory_estimate
from codesign.quantization.integer import IntegerNetwork

if TYPE_CHECKING:
    from codesign.toolchain import Board


def size_report(network: IntegerNetwork, board: Board, weights: Weights = "int8", level: str = "O2") -> dict[str, Any]:
    """What the model's own code and data take of `board`, without the application around it. Bytes everywhere.

    Constants and buffers are known from the generator; code, descriptors and stack come from compiling the model for
    the board's core, and are None where the compiler is not installed. {"board", "core", "weights", "level",
    "compiled", "fits", "flash": {"budget", "used", "sections": {"code", "tables", "weights", "descriptors"}}, "ram":
    {"budget", "used", "sections": {"io", "buffers", "state", "stack"}}, "layers": [{"name", "kind", "macs", "weights",
    "code", "state"}]}. Input and output buffers are the application's. Raises InputError, CodesignError.
    """
    estimate = memory_estimate(network, weights)
    program, stack = _compile(network, board, weights, level)
    layers = []
    for index, layer in enumerate(estimate["layers"]):
        code = None
        if program is not None:
            code = program.sizes.get(f"op{index}_step", 0) + program.sizes.get(f"op{index}_run", 0)
        state = sum(estimate["buffers"].get(f"op{index}_{part}", 0) for part in ("hidden", "cell"))
        kept = {key: layer[key] for key in ("name", "kind", "macs")}
        layers.append({**kept, "weights": layer["flash_bytes"], "code": code, "state": state})
    weight_bytes = sum(layer["weights"] for layer in layers)
    state_bytes = sum(layer["state"] for layer in layers)
    io = int(np.prod(network.input.shape) + np.prod(network.output.shape))
    flash_sections: dict[str, int | None] = {
        "code": program.code_bytes if program else None,
        "tables": int(estimate["tables_bytes"]),
        "weights": weight_bytes,
        "descriptors": program.constant_bytes - weight_bytes - int(estimate["tables_bytes"]) if program else None,
    }
    ram_sections: dict[str, int | None] = {
        "io": io,
        "buffers": int(estimate["ram_bytes"]) - state_bytes,
        "state": state_bytes,
        "stack": stack,
    }
    flash, ram = (sum(v or 0 for v in sections.values()) for sections in (flash_sections, ram_sections))
    return {
        "model": network.name,
        "model_sha256": network.sha256,
        "board": board.name,
        "core": board.core,
        "weights": weights,
        "level": level,
        "compiled": program is not None,
        "macs": int(estimate["macs"]),
        "fits": flash <= board.flash.size and ram <= board.ram.size,
        "flash": {"budget": board.flash.size, "used": flash, "sections": flash_sections},
        "ram": {"budget": board.ram.size, "used": ram, "sections": ram_sections},
        "layers": layers,
    }


def _compile(network: IntegerNetwork, board: Board, weights: Weights, level: str) -> tuple[Program | None, int | None]:
    if shutil.which("arm-none-eabi-gcc") is None:
        return None, None
    nothing = np.zeros(network.input.shape, network.activations)
    with tempfile.TemporaryDirectory(prefix="codesign-") as scratch:
        program = build_program(network, find_core(board.core), Path(scratch), nothing, weights, level, roomy=True)
        return program, stack_bound(program, "cs_model_invoke")
