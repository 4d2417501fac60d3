"""Certificates over the whole input domain: what they say of all inputs, and what streams on the device showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codesign.signoff.evidence import Evidence, Reader, Region, is_kind
from codesign.text import percent, upward

STEPS = 10_000  # of a stream, below which it is said how short it was


def stated(certificate: Evidence | None) -> Mapping[str, Any] | None:
    """The certificate's 'all_inputs', None where it is about regions around samples."""
    found = certificate.get("all_inputs") if isinstance(certificate, Mapping) else None
    return found if isinstance(found, Mapping) else None


def statements(reader: Reader, certificate: Evidence | None, regions: Sequence[Region], domain: str) -> list[str]:
    """What users get from a certificate over all inputs, from its own numbers; empty where it is none or vacuous.

    A failure of `reader` where these contradict each other.
    """
    told = stated(certificate)
    if told is None:
        return []
    where = "the certificate's statement on all inputs"
    bounds = reader.take(told, where, "total_logit_bound", kind="numbers")
    any_length = reader.take(told, where, "any_length", kind="flag")
    margin = told.get("same_class_margin")
    if not bounds or any_length is None or [r.radius for r in regions] != [None]:
        reader.failures.append(f"{where} does not go with one region, the whole input domain")
        return []
    if margin is not None and not (is_kind(margin, "number") and margin >= 2 * max(bounds)):
        reader.contradicted = True
        reader.failures.append(f"{where} contradicts itself: its margin is below twice its bound")
        return []
    vacuous = reader.take(told, where, "vacuous", kind="flag")
    limits = reader.take(certificate, "the certificate", "ranges", "logits", "vacuous_from", kind="numbers") or []
    if not vacuous and (len(limits) != len(bounds) or any(b >= v for b, v in zip(bounds, limits, strict=True))):
        reader.contradicted = True
        reader.failures.append(f"{where} contradicts itself: whether its bound is vacuous")
    if vacuous is not False:
        return []
    inputs = "sequence of any number of float32 inputs" if any_length else "float32 input"
    text = (
        f"For every {inputs} of the domain {domain}, the integer model's dequantized logits are within "
        f"{upward(max(bounds))} of the float model's, float32 included"
    )
    if margin is not None:
        text += f"; wherever the float model's margin there exceeds {upward(margin)} the class is the same"
    covered, samples = told.get("covered_samples"), told.get("samples")
    if covered is not None and samples and is_kind(covered, "count") and is_kind(samples, "count"):
        text += f" (proved so for {covered} of the {samples} samples, {percent(covered / samples)})"
    return [f"{text}."]


def notes(certificate: Evidence | None, regions: Sequence[Region]) -> list[str]:
    """What a certificate over all inputs does not say."""
    told = stated(certificate)
    if told is None or not any(r.several for r in regions):
        return []
    if told.get("vacuous") is not False:
        return ["VACUOUS: over the whole domain nothing useful is proved of the logits or the class."]
    margin = told.get("same_class_margin")
    if margin is None or not is_kind(margin, "number"):
        return ["No margin of the float model is proved to keep the class."]
    known = " An input of the domain is known on which it differs." if any(r.top1 == "refuted" for r in regions) else ""
    return [f"Where the float model's margin is {upward(margin)} or less, the class may differ.{known}"]


def streams(reader: Reader, certificate: Evidence | None, hil: Evidence | None, regions: Sequence[Region]) -> list[str]:
    """Judge the streams that the device ran, and what they showed. A certificate for any length needs one.

    Failures go to `reader`: steps that differ from the reference, exceed the domain's bound (compared here), or are of
    another class than certified.
    """
    entries = hil.get("streams") if isinstance(hil, Mapping) else None
    told = stated(certificate)
    wanted = told is not None and told.get("any_length") is True
    if not entries:
        if wanted:
            reader.failures.append("the certificate is for any number of steps, but no stream was run on the device")
        return []
    if not isinstance(entries, list):
        reader.failures.append("the cross-check has no valid 'streams'")
        return []
    before, steps = len(reader.failures), 0
    whole = [r for r in regions if wanted and r.sample is None and r.radius is None]
    for number, entry in enumerate(entries):
        where = f"stream {number} of the cross-check"
        count = reader.take(entry, where, "steps", kind="count")
        exact = reader.take(entry, where, "bit_exact", kind="count")
        worst = reader.take(entry, where, "max_error", kind="numbers")
        if count is None or exact is None or worst is None:
            continue
        steps += count
        if not count or exact != count:
            _once(reader, f"{count - exact} of {count} steps of stream {number} are not bit-exact with the reference")
        for region in whole:
            if len(region.bound) != len(worst) or any(e > b for e, b in zip(worst, region.bound, strict=False)):
                _once(reader, f"stream {number} exceeds the certified bound")
        if entry.get("class_certified") != entry.get("class_equal"):
            _once(reader, f"stream {number} is of another top-1 class than certified")
    if len(reader.failures) > before:
        return []
    bound = " and lies within the certified bound" if whole else ""
    what = f"{len(entries)} stream{'s' if len(entries) > 1 else ''}"
    return [
        f"Checked on the device: {what} of {steps:,} steps in all, without a reset on the way; every step equals the "
        f"exact integer reference bit for bit{bound}.{_latency(hil, entries)}"
    ]


def _latency(hil: Evidence | None, entries: Sequence[Any]) -> str:
    """What a time step costs, by the device's counter over whole streams; '' where it counts nothing."""
    counter = hil.get("counter") if isinstance(hil, Mapping) else None
    unit = counter.get("unit") if isinstance(counter, Mapping) else None
    total = steps = 0
    for entry in entries:
        count, length = (entry.get(name) if isinstance(entry, Mapping) else None for name in ("count", "steps"))
        if unit not in ("cycles", "instructions") or not is_kind(count, "count") or not is_kind(length, "count"):
            return ""
        total, steps = total + int(count or 0), steps + int(length or 0)
    return f" A time step takes {total / steps:,.0f} {unit} on average." if total and steps else ""


def short(hil: Evidence | None) -> list[str]:
    """A note where no stream is as long as it should be."""
    entries = hil.get("streams") if isinstance(hil, Mapping) else None
    if not isinstance(entries, list):
        return []
    counts = [e["steps"] for e in entries if isinstance(e, Mapping) and is_kind(e.get("steps"), "count")]
    if not counts or max(counts) >= STEPS:
        return []
    longest = max(counts)
    return [f"The longest stream run on the device has {longest:,} steps; {STEPS:,} are usual."]


def _once(reader: Reader, text: str) -> None:
    """The cross-check's own failures say the same with more detail."""
    stream = text.split("stream ")[1].split(" ")[0]
    if not any(f"stream {stream} " in f for f in reader.failures):
        reader.failures.append(text)
