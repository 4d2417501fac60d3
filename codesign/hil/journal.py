"""Results as they arrive: an append-only file of JSON lines, forced to disk one by one, from which a run goes on.

The first line says what the run is about; every further line is one answer of the device. A process that is killed
leaves at most one incomplete line at the end, which the next run drops. Everything in hil.json that is not an answer
is computed again from these answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codesign.errors import InputError

FORMAT = "codesign-hil-journal-1"
_MAX_BYTES = 1 << 30
_MAX_LINE_BYTES = 1 << 24


class Journal:
    """An open journal. `entries` are what an earlier run left, by (kind, sample); InputError where the file is another
    run's, not a journal, or in use.

    Without `resume` an earlier journal is replaced.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], resume: bool = False) -> None:
        self.path = path
        self.entries: dict[tuple[str, int], dict[str, Any]] = {}
        header = {"format": FORMAT, "run": dict(run)}
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        try:
            self._descriptor = os.open(path, flags, 0o644)
        except OSError as error:
            raise InputError(f"'{path}' cannot be written ({error.strerror}); choose another place") from None
        try:
            self._lock()
            good = self._read(header) if resume else 0
            os.ftruncate(self._descriptor, good)
            if not good:
                self._append(header)
                _sync_folder(path.parent)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; harmless when repeated."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def add(self, kind: str, sample: int, content: Mapping[str, Any]) -> dict[str, Any]:
        """Write one answer and wait until it is on the disk; returns it as a later run will read it."""
        entry = {"kind": kind, "sample": sample, **content}
        self._append(entry)
        stored: dict[str, Any] = json.loads(json.dumps(entry))
        self.entries[kind, sample] = stored
        return stored

    def _append(self, entry: Mapping[str, Any]) -> None:
        line = (json.dumps(entry, allow_nan=False) + "\n").encode()
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
            os.fsync(self._descriptor)
        except OSError as error:
            raise InputError(f"'{self.path}' cannot be written ({error.strerror}); results would be lost") from None

    def _lock(self) -> None:
        import fcntl

        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"'{self.path}' is being written by another run; wait for it or name another") from None

    def _read(self, header: Mapping[str, Any]) -> int:
        """Fill `entries`; the number of bytes that are whole lines."""
        size = os.fstat(self._descriptor).st_size
        if size > _MAX_BYTES:
            raise InputError(f"'{self.path}' is too large for a journal of results")
        good = 0
        with os.fdopen(os.dup(self._descriptor), "rb") as stream:
            stream.seek(0)
            for number, line in enumerate(_lines(stream)):
                if not line.endswith(b"\n"):
                    break
                entry = self._parsed(line, number)
                if number == 0:
                    self._check_header(entry, header)
                else:
                    self.entries[entry["kind"], entry["sample"]] = entry
                good += len(line)
        return good

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            entry = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            raise InputError(f"line {number + 1} of '{self.path}' is damaged; start again without --resume")
        if number and not (isinstance(entry.get("kind"), str) and type(entry.get("sample")) is int):
            raise InputError(f"line {number + 1} of '{self.path}' is no result; start again without --resume")
        return entry

    def _check_header(self, found: Mapping[str, Any], header: Mapping[str, Any]) -> None:
        if found.get("format") != FORMAT or not isinstance(found.get("run"), dict):
            raise InputError(f"'{self.path}' is not a journal of results; name another file")
        wanted = json.loads(json.dumps(header["run"]))
        for key in sorted({*wanted, *found["run"]}):
            if wanted.get(key) != found["run"].get(key):
                raise InputError(
                    f"'{self.path}' is the journal of another run ({key.replace('_', ' ')} differs); "
                    "start again without --resume"
                )


def _lines(stream: Any) -> Iterator[bytes]:
    while line := stream.readline(_MAX_LINE_BYTES):
        yield line


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def optional_journal(path: Path | None, run: Mapping[str, Any], resume: bool) -> Iterator[Journal | None]:
    """The journal at `path`, or None without a path."""
    if path is None:
        if resume:
            raise InputError("there is nothing to resume from: no journal is named")
        yield None
        return
    with Journal(path, run, resume) as journal:
        yield journal
