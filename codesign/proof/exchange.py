"""Folders of obligations for a solver that runs elsewhere: one SMT-LIB 2 file each, and its answers read back."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from codesign.errors import InputError
from codesign.proof.closed_form import gap
from codesign.proof.obligation import Obligation
from codesign.proof.smtlib import read_answer, to_smt2

INDEX = "obligations.json"


def write_folder(obligations: Sequence[Obligation], folder: Path) -> None:
    """NAME.smt2 for every obligation and an index with all of them, exactly. InputError if `folder` exists."""
    if folder.exists() or not folder.parent.is_dir():
        raise InputError(f"'{folder}' cannot be made; name a folder that does not exist, in one that does")
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        staged.chmod(0o755)
        index = {}
        for k, obligation in enumerate(obligations):
            name = f"{k:06d}"
            (staged / f"{name}.smt2").write_text(to_smt2(obligation, gap(obligation)), encoding="ascii")
            index[name] = obligation.to_json()
        (staged / INDEX).write_text(json.dumps(index, indent=0), encoding="utf-8")
        os.replace(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def read_answers(folder: Path) -> dict[str, list[str]]:
    """Names by status: 'proved' (unsat), 'delta-sat', 'unreadable', 'missing'. The answer to NAME.smt2 is NAME.out.

    A .smt2 file that is not the one of its obligation in the index makes its answer 'unreadable'. InputError where the
    folder holds no index.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        wanted = {str(name): Obligation.from_json(data) for name, data in index.items()}
    except (OSError, ValueError, AttributeError, InputError):
        raise InputError(f"'{folder}' holds no {INDEX} that 'codesign obligations export' wrote") from None
    result: dict[str, list[str]] = {"proved": [], "delta-sat": [], "unreadable": [], "missing": []}
    for name, obligation in wanted.items():
        result[_status(folder, name, obligation)].append(name)
    return result


def _status(folder: Path, name: str, obligation: Obligation) -> str:
    answer = folder / f"{name}.out"
    if not answer.is_file():
        return "missing"
    try:
        if (folder / f"{name}.smt2").read_text(encoding="ascii") != to_smt2(obligation, gap(obligation)):
            return "unreadable"
        verdict = read_answer(answer.read_text(encoding="utf-8")).verdict
    except (OSError, ValueError, InputError):
        return "unreadable"
    return "proved" if verdict == "unsat" else "delta-sat"
