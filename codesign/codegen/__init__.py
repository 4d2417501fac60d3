"""C99 sources from an integer network: constants, static buffers and the operator sequence, beside the kernels."""

from codesign.codegen.export import export_library
from codesign.codegen.generate import generate, memory_estimate
from codesign.codegen.packing import Weights
from codesign.codegen.plan import make_plan

__all__ = ["Weights", "export_library", "generate", "make_plan", "memory_estimate"]
