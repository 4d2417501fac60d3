"""Instruction counts, sizes and stack of the generated C on emulated Cortex-M cores, and sizes before a build."""

from codesign.bench.cores import CORES, Core, find_core
from codesign.bench.measure import bench, bench_board, load_model
from codesign.bench.sizes import size_report

__all__ = ["CORES", "Core", "bench", "bench_board", "find_core", "load_model", "size_report"]
