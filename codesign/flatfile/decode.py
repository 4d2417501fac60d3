"""Decodes a flatbuffer by a declared schema: every offset is checked, and every field is accounted for."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from codesign.errors import InputError
from codesign.flatfile.schema import TABLES, Field

Fields = dict[str, Any]


class Decoder:
    """Tables of the flatbuffer `data` as dicts of all their declared fields, defaults filled in.

    A table that is absent is None; a vector that is absent is empty (a numpy array, or a list of tables); a text is
    bytes. ValueError or struct.error where the bytes are no flatbuffer, the error that `refuse` makes of a sentence
    where a field has a value that is not supported.
    """

    def __init__(self, data: bytes, refuse: Callable[[str], InputError]) -> None:
        self._data, self._refuse = data, refuse

    def root(self, kind: str, where: str) -> Fields:
        return self.table(kind, self._offset(0), where)

    def left_out(self, kind: str, where: str) -> Fields:
        """What a table that is not there says."""
        return self._checked(defaults(kind), kind, where)

    def table(self, kind: str, at: int, where: str) -> Fields:
        """The table at byte `at`; `where` names it in refusals."""
        virtual = at - self._number("i", at)
        size, length = self._number("H", virtual), self._number("H", virtual + 2)
        if size < 4 or size % 2 or length < 4 or at + length > len(self._data) or virtual + size > len(self._data):
            raise ValueError("a table reaches beyond the file")
        slots = struct.unpack_from(f"<{size // 2 - 2}H", self._data, virtual + 4)
        declared = TABLES[kind]
        for slot, found in enumerate(slots[len(declared) :], len(declared)):
            if found:
                raise self._refuse(f"{where} has a field that this version does not know (slot {slot} of {kind}).")
        result = {}
        for slot, field in enumerate(declared):
            found = slots[slot] if slot < len(slots) else 0
            if not found:
                result[field.name] = _default(field)
                continue
            width = struct.calcsize("<" + field.code) if field.kind == "scalar" else 4
            if not 4 <= found <= length - width:
                raise ValueError("a field lies outside its table")
            result[field.name] = self._field(field, at + found, where)
        return self._checked(result, kind, where)

    def _checked(self, values: Fields, kind: str, where: str) -> Fields:
        for field in TABLES[kind]:
            if field.only is not None and values[field.name] not in field.only:
                raise self._refuse(
                    f"{where} has {field.name} {values[field.name]}, which is not supported; "
                    f"{' or '.join(str(value) for value in field.only)} is."
                )
        return values

    def _field(self, field: Field, at: int, where: str) -> Any:
        if field.kind == "scalar":
            return self._number(field.code, at)
        if field.kind == "absent":
            raise self._refuse(f"{where} has {field.name}, which is not supported.")
        start = self._offset(at)
        if field.kind == "union":
            return start  # of a table, whose kind another field tells
        if field.kind == "table":
            return self.table(field.code, start, f"the {field.name} of {where}")
        count = self._number("I", start)
        if field.kind == "tables":
            self._bounded(field, count, where)
            places = [self._offset(start + 4 + 4 * k) for k in range(count)]
            return [self.table(field.code, place, f"{field.code} {k}") for k, place in enumerate(places)]
        if field.kind == "text":
            text = self._bytes(start + 4, count + 1)
            if text[-1:] != b"\0":
                raise ValueError("a text does not end")
            return text[:-1]
        self._bounded(field, count, where)
        kind = np.dtype("<" + {"B": "u1", "i": "i4", "f": "f4", "q": "i8"}[field.code])
        return np.frombuffer(self._bytes(start + 4, count * kind.itemsize), kind)

    def _bounded(self, field: Field, count: int, where: str) -> None:
        if count > field.limit:
            most = f"more than the {field.limit} supported" if field.limit else "which are not supported"
            raise self._refuse(f"{where} has {count} {field.name}, {most}, or the file is damaged.")

    def _offset(self, at: int) -> int:
        return at + int(self._number("I", at))

    def _number(self, code: str, at: int) -> Any:
        if at < 0:
            raise ValueError("an offset before the file")
        value = struct.unpack_from("<" + code, self._data, at)[0]
        if code == "?" and self._data[at] > 1:
            raise ValueError("a truth value that is neither")
        return value

    def _bytes(self, at: int, count: int) -> bytes:
        if at < 0 or count < 0 or at + count > len(self._data):
            raise ValueError("a vector reaches beyond the file")
        return self._data[at : at + count]


def defaults(kind: str) -> Fields:
    """A table without any field set."""
    return {field.name: _default(field) for field in TABLES[kind]}


def _default(field: Field) -> Any:
    if field.kind == "scalar":
        return field.default
    if field.kind == "vector":
        return np.zeros(0, "<i4")
    return {"tables": [], "text": b""}.get(field.kind)
