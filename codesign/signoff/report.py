"""report.html: one self-contained page for a release engineer and a safety reviewer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from codesign.errors import MissingToolError
from codesign.files import write_atomically
from codesign.outcome import outcome, same_class
from codesign.signoff import plots
from codesign.signoff.comparison import Classified, Comparison
from codesign.signoff.evidence import Evidence, is_kind
from codesign.text import percent, upward
from codesign.tflm.runtime import describe_runtime

_MAX_CLASSES = 20  # of a confusion matrix that is printed
_PALETTE = (
    "#2f5d8c",
    "#6b8fb8",
    "#b8400e",
    "#d98b5f",
    "#3f7d4e",
    "#86b592",
    "#6d4c91",
    "#a58bc0",
    "#8a6d1b",
    "#c9b06a",
)


def write_report(
    path: Path,
    document: Mapping[str, Any],
    certificate: Evidence | None,
    hil: Evidence | None,
    build: Evidence | None,
    comparison: Comparison,
) -> None:
    """Write the page to `path`, never half-written. `document` is the content of signoff.json (without the report's own
    hash), `build` the `build_facts`. MissingToolError where matplotlib or jinja2 is missing."""
    html = render(document, certificate, hil, build, comparison)
    write_atomically(path, html.encode())


def render(
    document: Mapping[str, Any],
    certificate: Evidence | None,
    hil: Evidence | None,
    build: Evidence | None,
    comparison: Comparison,
) -> str:
    """The page as text. Everything from outside is escaped; nothing is loaded from elsewhere."""
    try:
        from jinja2 import Environment, FileSystemLoader
        from markupsafe import Markup
    except ImportError:
        raise MissingToolError("jinja2 is missing: pip install 'codesign[report]'") from None
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(g=_g, up=_up, n=_n, pct=_pct, part=_part, plain=lambda value: f"{value:g}")
    verdict, whole = document["verdict"], document["certificate"]["all_inputs"] is not None
    certificate, hil, build = certificate or {}, hil or {}, build or {}
    regions = [r for r in _list(certificate.get("regions")) if is_kind(r.get("total_bound"), "numbers")]
    figures = [
        plots.outputs_figure(comparison, _stacked(regions, "total_bound"), _stacked(regions, "observed")),
        plots.samples_figure(comparison),
    ]
    steps = [plots.steps_figure(s, k) for k, s in enumerate(comparison.per_step)]
    return environment.get_template("report.html.j2").render(
        s=document,
        outcome=outcome(verdict),
        tone=lambda status: outcome(status).tone,
        certificate=certificate,
        float_model=_table(certificate.get("float")),
        int8_model=_table(certificate.get("int8")),
        proof=_table(certificate.get("proof")),
        hil=hil,
        target=_table(hil.get("target")),
        counter=_table(hil.get("counter")),
        build=build,
        runtime=describe_runtime(str(build.get("runtime") or "–")),
        comparison=comparison,
        figures=[Markup(f) for f in figures if f],
        steps=[Markup(f) for f in steps],
        step_bound=any(s.bound is not None for s in comparison.per_step),
        models=[_model(m) for m in comparison.models],
        samples=_samples(hil, comparison, verdict, whole),
        regions=[_region(r, verdict, whole) for r in regions],
        memories=_memories(build, document),
        max_classes=_MAX_CLASSES,
    )


def _stacked(regions: list[Mapping[str, Any]], key: str) -> plots.Float64Array:
    """The regions' lists under `key` as (regions, O); empty where they are not of one length."""
    rows = [r[key] for r in regions if is_kind(r.get(key), "numbers")]
    if len(rows) != len(regions) or len({len(r) for r in rows}) != 1:
        return np.zeros((0, 0))
    return np.array(rows, np.float64)


def _model(model: Classified) -> dict[str, Any]:
    matrix = model.confusion
    rows = None
    if matrix is not None and len(matrix) <= _MAX_CLASSES:
        total = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        share = matrix / total
        rows = [
            [
                {"count": int(matrix[i, j]), "shade": round(float(share[i, j]), 3), "right": i == j}
                for j in range(len(matrix))
            ]
            for i in range(len(matrix))
        ]
    return {"name": model.name, "accuracy": model.accuracy, "rows": rows, "known": matrix is not None}


def _samples(hil: Evidence, comparison: Comparison, verdict: str, whole: bool) -> list[dict[str, Any]]:
    """Rows of the table. `whole`: the certificate is over a domain, where the float margin decides for a sample."""
    entries = [s for s in _list(hil.get("samples")) if is_kind(s.get("index"), "count")]
    by_name = {m.name: m.classes for m in comparison.models}
    integer = by_name.get("integer")
    rows = []
    for k, sample in enumerate(entries):
        top1 = _table(sample.get("top1"))
        bound = sample.get("bound")
        largest = max(bound) if is_kind(bound, "numbers") and bound else None
        usage = _usage(sample, bound)
        rows.append(
            {
                "index": sample["index"],
                "label": sample.get("label"),
                "float": _classes(top1.get("float")),
                "integer": str(int(integer[k])) if integer is not None and len(integer) == len(entries) else None,
                "device": _classes(top1.get("device")),
                "exact": sample.get("bit_exact") is True,
                "error": sample.get("max_error"),
                "bound": largest,
                "usage": usage,
                "within": sample.get("within_bound"),
                "top1": top1.get("certified"),
                "shown": _shown(top1.get("certified"), verdict, whole),
                "equal": top1.get("equal"),
                "count": sample.get("count"),
            }
        )
    return rows


def _shown(certified: object, verdict: str, whole: bool) -> tuple[str, str | None]:
    """Whether the class is proved the same at a sample: words and tone."""
    if whole and certified in ("refuted", "unknown"):
        return "margin too small", "warn"
    return same_class(certified if isinstance(certified, str) else None, verdict)


def _usage(sample: Mapping[str, Any], bound: object) -> float | None:
    """The largest share of its bound that an output's error takes; None without bounds."""
    lists = (sample.get("device"), sample.get("float"), bound)
    if not all(is_kind(v, "numbers") and v for v in lists) or len({len(v) for v in lists if isinstance(v, list)}) != 1:
        return None
    device, real, limit = (np.array(v, np.float64) for v in lists)
    error = np.abs(device - real)
    if np.any((limit <= 0) & (error > 0)):
        return float("inf")
    return float(np.max(np.divide(error, limit, out=np.zeros_like(error), where=limit > 0)))


def _classes(value: object) -> str | None:
    return " ".join(str(v) for v in value) if isinstance(value, list) and value else None


def _region(region: Mapping[str, Any], verdict: str, whole: bool) -> dict[str, Any]:
    """A row of the table. `whole`: over a domain, where a class is kept above a margin only."""
    bound, observed = max(region["total_bound"], default=None), region.get("observed_max")
    found = float(observed) if observed is not None and is_kind(observed, "number") else 0.0
    ratio = bound / found if bound is not None and found > 0 else None
    logit, abstract = region.get("logit_bound"), region.get("abstract_lower")
    known = is_kind(logit, "numbers") and logit and abstract is not None and is_kind(abstract, "number")
    tightness = max(logit or ()) / abstract if known and abstract is not None and abstract > 0 else None
    return {
        "id": region.get("id"),
        "radius": region.get("radius"),
        "counted": region.get("counted") is True,
        "bound": bound,
        "observed": observed,
        "ratio": ratio,
        "tightness": tightness,
        "shown": ("above the margin", None) if whole else same_class(region.get("top1"), verdict),
        "vacuous": region.get("vacuous") is not False,
        "reason": region.get("reason") or "",
    }


def _memories(build: Evidence, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    memory_map = _table(build.get("memory_map"))
    result = []
    for name, available in (("flash", build.get("flash_available")), ("ram", build.get("ram_available"))):
        sections = [dict(s) for s in _list(memory_map.get(name))]
        used = sum(int(s["size"]) for s in sections)
        if not sections or not is_kind(available, "count") or not available:
            continue
        for k, section in enumerate(sections):
            section["color"] = _PALETTE[k % len(_PALETTE)]
            section["share"] = 100.0 * int(section["size"]) / max(used, 1)
            section["note"] = ""
            if section["name"] == ".stack" and document["stack_bytes"] is not None:
                section["note"] = f"of these used at most: {document['stack_bytes']:,} (measured high-water mark)"
        result.append(
            {
                "name": {"flash": "Flash", "ram": "RAM"}[name],
                "sections": sections,
                "used": used,
                "available": available,
                "share": 100.0 * used / available,
            }
        )
    return result


def _list(value: object) -> list[Mapping[str, Any]]:
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _g(value: object, digits: int = 4) -> str:
    return f"{value:#.{digits}g}".rstrip(".") if isinstance(value, (int, float)) else "–"


def _up(value: object) -> str:
    """A bound: rounded up."""
    return _g(float(upward(float(value)))) if isinstance(value, (int, float)) else "–"


def _n(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, (int, float)) else "–"


def _pct(value: object) -> str:
    """A share that is proved: rounded down."""
    return percent(value) if isinstance(value, (int, float)) else "–"


def _part(value: object) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, (int, float)) else "–"
