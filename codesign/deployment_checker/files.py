"""The folder's files: that they are there, are what signoff.json names, and follow their schemas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codesign.checker import Invalid
from codesign.checker.result import demand, same
from codesign.errors import CodesignError
from codesign.proof.statement import strict_json
from codesign.samples import SAMPLES

NEEDED = (
    "model.tflite", "certificate.json", "certificate.proof.npz", "firmware.elf", "hil.json", SAMPLES, "report.html",
    "signoff.json",
)  # fmt: skip
_SCHEMAS = {"hil.json": "hil/hil.schema.json", "signoff.json": "signoff/signoff.schema.json"}


@contextmanager
def about(name: str) -> Iterator[None]:
    """What goes wrong inside is wrong with that file."""
    try:
        yield
    except CodesignError as error:
        raise Invalid(f"{name}: {error}") from None


def require_files(folder: Path) -> None:
    """Invalid where one is missing, or a link to somewhere else."""
    for name in NEEDED:
        demand((folder / name).is_file() and not (folder / name).is_symlink(), f"{name}: missing from the folder")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The content of hil.json or signoff.json; Invalid where it is none, or its schema forbids it."""
    from jsonschema import Draft202012Validator

    with about(name):
        document = strict_json(folder / name)
        schema = strict_json(Path(__file__).parent.parent / _SCHEMAS[name])
    for wrong in Draft202012Validator(schema).iter_errors(document):
        place = "/".join(map(str, wrong.absolute_path)) or "the top level"
        raise Invalid(f"{name}: the schema forbids it: {wrong.message[:200]} at {place}")
    assert isinstance(document, dict)
    return document


def check_artifacts(folder: Path, signoff: dict[str, Any]) -> None:
    """Every file is signed, with its hash; nothing that was signed is missing."""
    from codesign.signoff import artifact_hashes

    with about("the folder"):
        found = artifact_hashes(folder)
    for name in sorted({*found, *signoff["artifacts"]}):
        demand(name in signoff["artifacts"], f"{name}: not signed (signoff.json/artifacts)")
        demand(name in found, f"{name}: signed, but missing from the folder")
        same(f"{name}: SHA-256 in signoff.json/artifacts", signoff["artifacts"][name], found[name])
