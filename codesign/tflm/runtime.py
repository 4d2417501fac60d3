"""The choice of a runtime: codesign's own kernels, TFLM's reference kernels, or TFLM with CMSIS-NN."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from codesign.errors import InputError
from codesign.quantization.integer import IntegerNetwork, Profile
from codesign.tflm.tree import TflmTree, find_tree

RuntimeName = Literal["codesign", "tflm", "tflm-cmsis"]
RUNTIMES: tuple[RuntimeName, ...] = ("codesign", "tflm", "tflm-cmsis")
TREE_VARIABLE = "CODESIGN_TFLM_TREE"


@dataclass(frozen=True)
class TflmRuntime:
    """TFLM's interpreter from `tree`, with CMSIS-NN's kernels or the reference ones.

    `arena` is the tensor arena in bytes; None: as much as the interpreter uses, measured on an emulated core.
    """

    tree: TflmTree
    cmsis_nn: bool
    arena: int | None = None

    @property
    def name(self) -> RuntimeName:
        return "tflm-cmsis" if self.cmsis_nn else "tflm"

    def profile(self, network: IntegerNetwork) -> Profile:
        """The semantics profile of this runtime: by the sources that the tree has, for the operators of the network.

        InputError where they are not known.
        """
        double = self.tree.scale_products == "double"
        if self.tree.own_lstm(self.cmsis_nn):
            return "cmsis-nn-double" if double else "cmsis-nn-float"
        return "tflm-double" if double else "tflm-float"


def runtime_option(
    name: str, tree: Path | str | None = None, package: str | None = None, arena: int | None = None
) -> TflmRuntime | None:
    """The runtime that `name` asks for; None is codesign's own.

    TFLM's sources: the folder `tree`, else the PlatformIO library `package`, else the folder that the environment
    variable CODESIGN_TFLM_TREE names. InputError: an unknown name, no tree or a wrong one, options of another runtime.
    """
    if name not in RUNTIMES:
        raise InputError(f"there is no runtime {name!r}; the runtimes are {', '.join(RUNTIMES)}")
    if name == "codesign":
        if tree is not None or package is not None or arena is not None:
            raise InputError(
                "--tflm-tree, --tflm-package and --arena belong to TFLM: add --runtime tflm or --runtime tflm-cmsis"
            )
        return None
    if tree is not None and package is not None:
        raise InputError("--tflm-tree and --tflm-package both name TFLM's sources; give one of them")
    if arena is not None and not 1024 <= arena <= 1 << 26:
        raise InputError(f"an arena of {arena} bytes is not possible; give --arena BYTES from 1024 on, or leave it out")
    if package is not None:
        from codesign.tflm.fetch import install_package

        tree = install_package(package)
    tree = tree or os.environ.get(TREE_VARIABLE)
    if not tree:
        raise InputError(
            f"--runtime {name} needs TFLM's sources: name a tree with --tflm-tree FOLDER or the environment variable "
            f"{TREE_VARIABLE} (the output of TFLM's create_tflm_tree.py, or a checkout with its downloads), or a "
            "library for PlatformIO to fetch with --tflm-package SPEC"
        )
    cmsis_nn = name == "tflm-cmsis"
    return TflmRuntime(find_tree(tree, cmsis_nn), cmsis_nn, arena)


def describe_runtime(name: str) -> str:
    """For reports."""
    return {
        "codesign": "codesign's generated C",
        "tflm": "TensorFlow Lite Micro, reference kernels",
        "tflm-cmsis": "TensorFlow Lite Micro with CMSIS-NN",
    }.get(name, name)
