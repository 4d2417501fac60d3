"""The one call that ends a deployment: judge, report, record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.certificate import validate_certificate
from codesign.errors import InputError
from codesign.hil import validate_result
from codesign.signoff.comparison import compare
from codesign.signoff.folder import REPORT, SIGNOFF, artifact_hashes, build_facts, sha256_of, unlike_file
from codesign.signoff.record import UNCHECKED, signoff_document, write_signoff
from codesign.signoff.report import write_report
from codesign.signoff.verdict import decide

if TYPE_CHECKING:
    from codesign.network import FloatNetwork
    from codesign.quantization import Calibration, IntegerNetwork
    from codesign.toolchain import Build
    from codesign.verification import Criteria


def _valid(
    document: Mapping[str, Any] | None, validate: Callable[[Any], object], problems: list[str]
) -> Mapping[str, Any] | None:
    if document is None:
        return None
    try:
        validate(dict(document))
    except InputError as error:
        problems.append(str(error))
        return None
    return document


def sign_off(
    folder: Path | str,
    certificate: Mapping[str, Any] | None,
    hil: Mapping[str, Any] | None,
    build: Build | Mapping[str, Any] | None,
    float_network: FloatNetwork | None = None,
    integer_network: IntegerNetwork | None = None,
    data: Calibration | None = None,
    criteria: Criteria | None = None,
    bit_exact_only: bool = False,
    checked: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Judge a deployment, write report.html and signoff.json into `folder`, and return signoff.json's content.

    `folder` already holds model.tflite, certificate.json, firmware.elf and hil.json (and anything else, such as the
    firmware project): their SHA-256 goes into signoff.json, and what was judged has to be what lies there.
    `certificate` and `hil` are those files' contents, `build` the firmware's Build (or its `build_facts`); each may be
    None where there is none, which is a failure. The networks and `data` (x[k] is the input of sample k) add work per
    inference, the integer model's classes and the hidden states' errors to the report. `criteria` defaults to what the
    certificate was asked for. `bit_exact_only`: there is no certificate, and the verdict claims nothing of the float
    model.

    `checked`: what the independent checker said of certificate.json (`checker_facts`); nothing is signed off but what
    it found valid.

    A failed check is no exception: it makes the verdict FAIL. Raises InputError where the folder cannot be read or
    written, MissingToolError where matplotlib or jinja2 is missing.
    """
    folder = Path(folder)
    facts = build if build is None or isinstance(build, Mapping) else build_facts(build)
    (folder / SIGNOFF).unlink(missing_ok=True)
    (folder / REPORT).unlink(missing_ok=True)
    artifacts = artifact_hashes(folder)
    signoff = decide(certificate, hil, facts, artifacts, criteria, bit_exact_only)
    contents = (("certificate.json", certificate), ("hil.json", hil))
    problems = [p for name, content in contents if (p := unlike_file(folder / name, content)) is not None]
    # What does not follow its schema is judged (and fails), but not drawn.
    certificate = _valid(certificate, validate_certificate, problems)
    hil = _valid(hil, validate_result, problems)
    checked = None if bit_exact_only else checked or UNCHECKED
    if checked is not None and checked["verdict"] != "valid":
        problems.append(f"the independent checker does not find the certificate valid: {checked['item']}")
        signoff = replace(signoff, proved=())
    if problems:
        signoff = replace(signoff, verdict="FAIL", failures=(*signoff.failures, *problems))
    comparison = compare(certificate, hil, float_network, integer_network, data)
    document = signoff_document(signoff, certificate, hil, facts, artifacts, comparison, checked)
    write_report(folder / REPORT, document, certificate, hil, facts, comparison)
    document["artifacts"][REPORT] = sha256_of(folder / REPORT)
    write_signoff(document, folder / SIGNOFF)
    return document
