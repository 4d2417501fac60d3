"""hil.json: its schema, and writing it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from codesign.errors import InputError
from codesign.files import write_atomically

HilResult = dict[str, Any]  # what hil.schema.json describes


@cache
def load_schema() -> dict[str, Any]:
    """The JSON Schema of hil.json."""
    text = (Path(__file__).parent / "hil.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def validate_result(result: HilResult) -> None:
    """InputError, naming the place, where `result` is not the content of a hil.json."""
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(load_schema()).iter_errors(result):
        place = "/".join(str(part) for part in error.absolute_path) or "the top level"
        raise InputError(f"this is no valid hil.json: {error.message} at {place}")


def write_result(result: HilResult, path: Path) -> None:
    """Validate and write hil.json; never half-written."""
    validate_result(result)
    write_atomically(path, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
