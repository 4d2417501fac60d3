"""A deployment under way: a hidden folder beside the one it will be, which an interrupted run leaves to be resumed.

    .NAME.partial/state.json      what was asked for, and the SHA-256 of what each finished stage made
    .NAME.partial/certify.jsonl   finished regions (codesign.verification.journal)
    .NAME.partial/hil.jsonl       answers of the device (codesign.hil.journal)
    .NAME.partial/output/         the deployment so far
    .NAME.partial/replaced/       the earlier deployment, for the moment of the exchange
    .NAME.partial/build.*/        the firmware project while it is built

A finished stage is taken over only where its files are still those that were recorded; otherwise it is done again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from codesign.errors import InputError, SoundnessAlarm
from codesign.files import write_atomically
from codesign.resources import resource_dir

FORMAT = "codesign-partial-1"
_STATE = "state.json"
_MAX_BYTES = 1 << 24


def partial_folder(target: Path) -> Path:
    """Where the deployment to `target` is while it is under way. InputError where it has no name of its own."""
    if target.name in ("", ".."):
        raise InputError(f"'{target}' does not name a folder to make; give one with --output")
    return target.with_name(f".{target.name}.partial")


class Partial:
    """An open, locked partial deployment."""

    def __init__(self, target: Path, state: dict[str, Any]) -> None:
        self.target = target
        self.folder = partial_folder(target)
        self.output = self.folder / "output"
        self.certify_journal = self.folder / "certify.jsonl"
        self.hil_journal = self.folder / "hil.jsonl"
        self.kept = False
        self._state = state

    def finished(self, stage: str) -> bool:
        """Whether the stage is recorded as finished and its files are as they were then."""
        files = self._state["done"].get(stage)
        return files is not None and all(_digest(self.output / name) == value for name, value in files.items())

    def record(self, stage: str, files: Sequence[str]) -> None:
        """The stage is finished: these files of the output are what it made."""
        self._state["done"][stage] = {name: _digest(self.output / name) for name in files}
        write_atomically(self.folder / _STATE, (json.dumps(self._state, indent=1) + "\n").encode())

    @property
    def worth_keeping(self) -> bool:
        """Whether more than a moment's work would be lost with the folder."""
        return self.certify_journal.is_file() and self.certify_journal.stat().st_size > 0

    def publish(self, keep: bool) -> None:
        """The output takes its place; an earlier deployment there is gone. With `keep` there is more to do: a copy of
        the output does, and this folder can be resumed."""
        ready, replaced = self.output, self.folder / "replaced"
        if keep:
            ready = self.folder / "copy"
            shutil.rmtree(ready, ignore_errors=True)
            shutil.copytree(self.output, ready, symlinks=True)
        if self.target.exists():
            self.target.rename(replaced)
        ready.rename(self.target)
        shutil.rmtree(replaced if keep else self.folder, ignore_errors=True)
        self.kept = keep


@contextmanager
def partial(target: Path, request: Mapping[str, str], resume: bool) -> Iterator[Partial]:
    """Begin the deployment to `target`, or, with `resume`, go on with the one that was interrupted, if there is one.

    `request` is everything that the result is a function of, as digests by name. The folder is kept where the block is
    left by an exception once something was certified (but by a SoundnessAlarm), and where `publish` is told to keep it.
    InputError: `target` is something else than a deployment, another run is at work on it, or, with `resume`, the
    interrupted one was asked for something else.
    """
    folder = partial_folder(target)
    _check_target(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"'{target}' cannot be made ({error.strerror}); name another folder with --output") from None
    with _locked(folder):
        if not target.exists() and (folder / "replaced").is_dir():  # stopped in the middle of the exchange
            (folder / "replaced").rename(target)
        state = _read(folder) if resume else None
        if state is not None:
            _compare(state["request"], request, folder)
        else:
            _empty(folder)
            state = {"format": FORMAT, "request": dict(request), "done": {}}
            write_atomically(folder / _STATE, (json.dumps(state, indent=1) + "\n").encode())
        work = Partial(target, state)
        work.output.mkdir(exist_ok=True)
        try:
            yield work
        except SoundnessAlarm:
            raise  # nothing is worth going on from
        except BaseException:
            work.kept = work.worth_keeping
            raise
        finally:
            if not work.kept:
                shutil.rmtree(folder, ignore_errors=True)


def _check_target(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise InputError(f"'{target}' is a file; name a folder with --output")
    if target.is_dir() and any(target.iterdir()) and not (target / "signoff.json").exists():
        raise InputError(f"'{target}' holds something else than a deployment; name another folder with --output")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"another run is at work on '{folder}'; wait for it, or name another folder with --output"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _read(folder: Path) -> dict[str, Any] | None:
    """The state that an interrupted run left; None where there is none. InputError where it is damaged."""
    path = folder / _STATE
    if not path.exists():
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= _MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        state = None
    if not (
        isinstance(state, dict)
        and state.get("format") == FORMAT
        and _is_texts(state.get("request"))
        and isinstance(state.get("done"), dict)
        and all(_is_texts(files) and all(map(_is_inside, files)) for files in state["done"].values())
    ):
        raise InputError(f"'{path}' is damaged; start again without --resume")
    return state


def _is_texts(entries: Any) -> bool:
    return isinstance(entries, dict) and all(isinstance(value, str) for value in entries.values())


def _is_inside(name: str) -> bool:
    """A plain relative path: nothing else of the machine is read."""
    parts = Path(name).parts
    return bool(parts) and "\0" not in name and not Path(name).is_absolute() and ".." not in parts


def _compare(found: Mapping[str, str], wanted: Mapping[str, str], folder: Path) -> None:
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            raise InputError(
                f"the deployment that was interrupted ('{folder}') was another one ({name} differs); "
                "ask for the same again, or start anew without --resume"
            )


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def fingerprint(value: Any) -> str:
    """SHA-256 of what a result depends on: a file (by its content), a data class, a container, an array or a number.

    '' for a file that is not there.
    """
    if isinstance(value, Path):
        return _digest(value)
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return _sha256(json.dumps({str(key): fingerprint(entry) for key, entry in value.items()}, sort_keys=True))
    if isinstance(value, (list, tuple)):
        return _sha256(json.dumps([fingerprint(entry) for entry in value]))
    if isinstance(value, np.ndarray):
        return _sha256(f"{value.dtype.str}{value.shape}{np.ascontiguousarray(value).tobytes().hex()}")
    return _sha256(repr(value))


@cache
def tool_fingerprint() -> str:
    """SHA-256 of this program: its Python files and the firmware's sources."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for folder, pattern in ((root, "*.py"), (resource_dir("firmware"), "*.*")):
        for path in sorted(folder.rglob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(folder)}\0{_digest(path)}\n".encode())
    return digest.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(path: Path) -> str:
    """SHA-256 of a file; '' where there is none."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except OSError:
        return ""
    return digest.hexdigest()
