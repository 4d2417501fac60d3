"""signoff.json and report.html: made again from the verified evidence by what made them, and compared."""

from __future__ import annotations

import json
import math
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from codesign.checker import CheckResult
from codesign.checker.result import demand, same
from codesign.deployment_checker.run import sent_data
from codesign.network import FloatNetwork
from codesign.quantization import IntegerNetwork
from codesign.samples import Samples

NEAR = 1e-9
_FIGURE = re.compile(r"<svg.*?</svg>", re.DOTALL)


def check_record(
    folder: Path, signoff: dict[str, Any], hil: dict[str, Any], certificate: CheckResult, network: FloatNetwork,
    device: IntegerNetwork, samples: Samples, build: dict[str, Any],
) -> None:  # fmt: skip
    """Invalid, naming the item, where they are not what follows. Versions and the time of creation are as told."""
    from codesign.signoff import checker_facts, compare, decide, signoff_document
    from codesign.signoff.folder import REPORT
    from codesign.signoff.report import render

    document = certificate.document
    artifacts = {name: value for name, value in signoff["artifacts"].items() if name != REPORT}
    comparison = compare(document, hil, network, device, sent_data(samples, device))
    verdict = decide(document, hil, build, artifacts)
    made = signoff_document(verdict, document, hil, build, artifacts, comparison, checker_facts(certificate))
    made |= {"versions": signoff["versions"], "created": signoff["created"]}
    page = render(made, document, hil, build, comparison)
    made["artifacts"] = signoff["artifacts"]  # compared with the files before
    _compare("signoff.json", signoff, json.loads(json.dumps(made)))
    stated = (folder / REPORT).read_text(encoding="utf-8")
    same(f"{REPORT}: its text, figures left out", _FIGURE.sub("", stated), _FIGURE.sub("", page))
    ours = metadata.version("matplotlib")
    if signoff["versions"].get("matplotlib") == ours:
        demand(_FIGURE.findall(stated) == _FIGURE.findall(page), f"{REPORT}: its figures show something else")


def _compare(place: str, stated: Any, found: Any) -> None:
    """Equal, but for what float64 evaluations on two machines may be apart."""
    if isinstance(stated, dict) and isinstance(found, dict):
        same(f"{place}: keys", sorted(stated), sorted(found))
        for key in found:
            _compare(f"{place}/{key}", stated[key], found[key])
    elif isinstance(stated, list) and isinstance(found, list):
        same(f"{place}: length", len(stated), len(found))
        for k, (one, other) in enumerate(zip(stated, found, strict=True)):
            _compare(f"{place}/{k}", one, other)
    elif not (isinstance(stated, float) and isinstance(found, float) and math.isclose(stated, found, rel_tol=NEAR)):
        same(place, stated, found)
        same(f"{place}: type", type(stated).__name__, type(found).__name__)
