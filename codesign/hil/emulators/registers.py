"""Registers that an emulated peripheral only has to remember."""

from __future__ import annotations

from collections.abc import Callable

from codesign.hil.emulators.cortexm import BoardFaultError


class Registers:
    """Plain storage for the registers that the model only has to remember. `is_clocked` is the RCC's word."""

    def __init__(self, name: str, reset: dict[int, int], size: int, is_clocked: Callable[[], bool]) -> None:
        self.name = name
        self.words = dict(reset)
        self.size = size
        self.is_clocked = is_clocked

    def read(self, offset: int) -> int:
        self._check(offset)
        return self.words.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        self._check(offset)
        self.words[offset] = value

    def _check(self, offset: int) -> None:
        if not self.is_clocked():
            raise BoardFaultError(f"{self.name} is used while its clock is off in the RCC")
        if offset >= self.size:
            raise BoardFaultError(f"{self.name} has no register at offset 0x{offset:x}")
