"""What a certificate states: its schema, its fixed sentences, and reading it without trusting it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codesign.errors import InputError

SCHEMA_ID = "codesign-certificate-1"
CLAIM = (
    "For every float32 input inside a region, the dequantized output of the integer network minus the output "
    "of the float network, taken over the reals, lies between difference_lo and difference_hi, elementwise."
)
GRID_CLAIM = (
    " In a region of kind 'grid' this holds for every integer input whose dequantized values lie in the box; the float "
    "network is taken at the dequantized values scale * (q - zero_point), or at these rounded to float32, so that no "
    "rounding of the input separates the networks. Such a region says nothing of other float inputs."
)
RULE = "|x - center| <= radius elementwise, clipped to the domain; a center outside stays inside"
BOX_RULE = "; where a region has a box, lo <= x <= hi elementwise instead"


def sentences(regions: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The claim and the rule for what a region means, as they belong to these regions of a certificate."""
    grid = any(region.get("kind") == "grid" for region in regions)
    boxes = any(region.get("box") is not None for region in regions)
    return {"claim": CLAIM + GRID_CLAIM * grid, "region_rule": RULE + BOX_RULE * boxes}


def read_document(path: Path) -> tuple[dict[str, Any], str]:
    """(the certificate's content, what its schema forbids: '' if nothing). InputError for what is no certificate."""
    from jsonschema import Draft202012Validator

    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError):
        raise InputError(f"'{path}' is not a certificate.json that 'codesign certify' wrote") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA_ID:
        raise InputError(f"'{path}' is not a certificate of schema {SCHEMA_ID}")
    schema = Path(__file__).parent.parent / "certificate" / "certificate.schema.json"
    for wrong in Draft202012Validator(json.loads(schema.read_text(encoding="utf-8"))).iter_errors(document):
        place = "/".join(map(str, wrong.absolute_path)) or "the top level"
        return document, f"{wrong.message[:200]} at {place}"
    return document, ""


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
