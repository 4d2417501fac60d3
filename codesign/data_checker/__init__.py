"""Checks what a certificate says of the samples its regions are around: that they are these, and which count.

On top of `codesign.checker`: bounds and statuses are about boxes of inputs, wherever they come from; which samples they
belong to, and which regions count for a share, follows from the data alone.
"""

from codesign.data_checker.check import check_data, other_data

__all__ = ["check_data", "other_data"]
