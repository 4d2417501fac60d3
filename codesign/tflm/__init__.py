"""TensorFlow Lite Micro (TFLM) as a second runtime: the user's source tree, and the firmware around its interpreter.

Nothing of TFLM ships with codesign: its sources are read from a tree that the user names.
"""

from codesign.tflm.arena import measure_arena
from codesign.tflm.fetch import install_package
from codesign.tflm.runtime import (
    RUNTIMES,
    TREE_VARIABLE,
    RuntimeName,
    TflmRuntime,
    describe_runtime,
    runtime_option,
)
from codesign.tflm.sources import runtime_files
from codesign.tflm.tree import TflmTree, find_tree

__all__ = [
    "RUNTIMES",
    "TREE_VARIABLE",
    "RuntimeName",
    "TflmRuntime",
    "TflmTree",
    "describe_runtime",
    "find_tree",
    "install_package",
    "measure_arena",
    "runtime_files",
    "runtime_option",
]
