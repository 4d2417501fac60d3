"""The verdict: a pure function of the certificate, the cross-check, the build's figures and the criteria asked for.

Nothing here trusts a summary: bounds, classes and shares are recomputed from the entries, and a field that is missing
or of the wrong type is a failure, never a pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from codesign.signoff import domain, proofs
from codesign.signoff.criterion import CriterionResult
from codesign.signoff.evidence import ORDERS, Evidence, Reader, Region, Status, is_kind, limit_name
from codesign.signoff.useful import shortfalls
from codesign.signoff.wording import bound_statements, conditions, region_notes
from codesign.text import domain_words, some

if TYPE_CHECKING:
    from codesign.verification import Criteria

Verdict = Literal["PASS", "UNPROVED", "FAIL", "BIT-EXACT-ONLY"]

_KINDS = {
    "epsilon": "number", "top1_share": "number", "top1_above": "number", "topk": "count", "ranking": "pair",
    "thresholds": "limits",
}  # fmt: skip


@dataclass(frozen=True)
class SignOff:
    """The verdict (`codesign.outcome`). `failures` says why it is FAIL, `unproved` why it is, or would be, UNPROVED;
    `notes` what is NOT proved, to be said first; `proved` what is."""

    verdict: Verdict
    failures: tuple[str, ...]
    unproved: tuple[str, ...]
    notes: tuple[str, ...]
    proved: tuple[str, ...]
    criteria: tuple[CriterionResult, ...]


def decide(
    certificate: Evidence | None,
    hil: Evidence | None,
    build: Evidence | None,
    artifacts: Mapping[str, str] | None,
    criteria: Criteria | None = None,
    bit_exact_only: bool = False,
) -> SignOff:
    """Judge the evidence: contents of certificate.json and hil.json, the build's figures (see `build_facts`), and the
    SHA-256 of each file that is signed off. `criteria` defaults to those that the certificate was asked for.

    FAIL unless all of: all samples run, each bit-exact and within every bound that the certificate states for it
    (recomputed here from both files), with the certified top-1 class where one is certified; the model's hash, the
    build id and the board the same in firmware, build, certificate and files; no device error; a certificate that does
    not contradict itself or its own counterexample search; no proof obligation that could not be proved; a firmware
    that fits; and no criterion asked for refuted. UNPROVED where not all obligations were proved, a criterion is not,
    or nothing useful is (`codesign.signoff.useful`). Samples that no certified region covers have to be bit-exact too,
    and are counted in a note. With `bit_exact_only` there is no certificate, and nothing is claimed of the float model.
    Never raises on bad evidence: it fails.
    """
    judge = _Judge(bit_exact_only=bit_exact_only)
    if bit_exact_only:
        judge.without_certificate(certificate, artifacts)
    regions = [] if bit_exact_only else judge.regions(certificate)
    proof_ok = not bit_exact_only and proofs.proof(judge, certificate)
    relied = judge.samples(hil, regions)
    judge.statements += domain.streams(judge, certificate, hil, regions)
    judge.notes += domain.short(hil)
    where = judge.domain(certificate)
    overall = domain.statements(judge, certificate, regions, where)
    judge.identity(certificate, hil, build, artifacts)
    judge.sizes(build)
    judge.files(certificate, build, artifacts)
    results = () if bit_exact_only else judge.criteria(certificate, regions, proof_ok, criteria)
    sound = proof_ok and not judge.contradicted
    judge.limits(certificate, hil, regions, results, sound, where)
    judge.statements[:0] = overall if sound else []
    unproved = (
        [] if bit_exact_only else [*proofs.missing(certificate), *shortfalls(certificate, regions, relied, results)]
    )
    passed: Verdict = "BIT-EXACT-ONLY" if bit_exact_only else "UNPROVED" if unproved else "PASS"
    return SignOff(
        "FAIL" if judge.failures else passed,
        tuple(dict.fromkeys(judge.failures)),
        tuple(unproved),
        tuple(judge.notes),
        tuple(judge.statements),
        results,
    )


@dataclass
class _Judge(Reader):
    bit_exact_only: bool = False

    def without_certificate(self, certificate: Evidence | None, artifacts: Mapping[str, str] | None) -> None:
        """Where only the cross-check was asked for, nothing else is there to be believed."""
        if certificate is not None or "certificate.json" in (artifacts or {}):
            self.failures.append("only the cross-check was asked for, but there is a certificate")

    def domain(self, certificate: Evidence | None) -> str:
        """The input domain in words."""
        if not isinstance(certificate, Mapping):
            return ""
        lo, hi = (self.take(certificate, "the certificate", "domain", end, kind="numbers") for end in ("lo", "hi"))
        if not lo or not hi or len(lo) != len(hi):
            self.failures.append("the certificate has no valid 'domain'")
            return ""
        return domain_words({"lo": lo, "hi": hi})

    def samples(self, hil: Evidence | None, regions: Sequence[Region]) -> list[Region]:
        """The regions that hold for a sample that was run."""
        if not isinstance(hil, Mapping):
            self.failures.append("no sample was run: there is no cross-check")
            return []
        where = "the cross-check"
        reported = self.take(hil, where, "failures", kind="list")
        self.failures.extend(str(f) for f in reported or [])
        verdict = self.take(hil, where, "verdict", kind="text")
        if verdict != "PASS" and not reported:
            self.failures.append(f"the cross-check's own verdict is {verdict}")
        requested = self.take(hil, where, "summary", "requested", kind="count")
        entries = self.take(hil, where, "samples", kind="list")
        if entries is None:
            return []
        if not entries:
            self.failures.append("no sample was run on the device")
        if requested is not None and len(entries) != requested:
            self.failures.append(f"only {len(entries)} of {requested} samples were run")
        self._quantisation(hil)
        self._link(hil)
        self._stack(hil)
        before = len(self.failures)
        outcomes = [self._sample(entry, k, regions) for k, entry in enumerate(entries)]
        indices = [o["index"] for o in outcomes]
        if len(set(indices)) != len(indices):
            self.failures.append("the cross-check lists a sample twice")
        bounded = [o for o in outcomes if not o["unbounded"]]
        if len(bounded) < len(outcomes) and not self.bit_exact_only:
            self.notes.append(
                f"{len(outcomes) - len(bounded)} of {len(outcomes)} samples run lie in no certified region: they were "
                "checked for equality with the exact reference only."
            )
        for key, problem in (
            ("inexact", "not bit-exact with the reference"),
            ("outside", "outside the certified bound"),
            ("flipped", "of another top-1 class than certified"),
        ):
            named = [o["index"] for o in outcomes if o[key]]
            if named and not any(problem in str(f) for f in reported or []):
                self.failures.append(f"{some(named, 'sample')} {'is' if len(named) == 1 else 'are'} {problem}")
        if entries and len(self.failures) == before:
            bound = f", and all {len(bounded)} that have a certified bound lie within it" if bounded else ""
            self.statements.append(
                f"Checked on the device: all {len(entries)} samples equal the exact integer reference bit for "
                f"bit{bound}."
            )
        return [r for r in regions if any(r.holds_at(index) for index in indices)]

    def _sample(self, entry: object, number: int, regions: Sequence[Region]) -> dict[str, Any]:
        where = f"sample {number} of the cross-check"
        outcome = {"index": number, "inexact": True, "unbounded": False, "outside": False, "flipped": False}
        index = self.take(entry, where, "index", kind="count")
        exact = self.take(entry, where, "bit_exact", kind="flag")
        device = self.take(entry, where, "device", kind="numbers")
        real = self.take(entry, where, "float", kind="numbers")
        if index is None or exact is None or device is None or real is None or not isinstance(entry, Mapping):
            return outcome
        outcome.update(index=index, inexact=not exact)
        # A grid's bound is against the float model at the quantised input; it is checked here only if the run did so.
        holding = [r for r in regions if r.holds_at(index) and (r.kind != "grid" or entry.get("bound") is not None)]
        within = entry.get("within_bound", "missing")
        if not holding and entry.get("bound", "missing") is None and within is None:
            outcome["unbounded"] = True
            return outcome
        errors = [abs(d - f) for d, f in zip(device, real, strict=False)]
        good = len(device) == len(real) > 0 and all(
            len(r.bound) == len(errors) and all(e <= b for e, b in zip(errors, r.bound, strict=True)) for r in holding
        )
        outcome["outside"] = not (holding and good and within is True)
        certified = [r for r in holding if r.top1 == "proved"]
        if certified and len(device) > 1:
            outcome["flipped"] = not _same_class(entry.get("top1"), certified)
        return outcome

    def _quantisation(self, hil: Evidence) -> None:
        checked, equal = (
            self.take(hil, "the cross-check", "summary", key, kind="count")
            for key in ("quantize_checked", "quantize_equal")
        )
        if checked is None or equal is None:
            return
        if checked != equal:
            self.failures.append(f"the device quantises {checked - equal} of {checked} inputs against the rule")
        elif not checked:
            self.notes.append("The device's own input quantisation was not checked: it was given quantised ones.")

    def _link(self, hil: Evidence) -> None:
        """What happened on the line is told, and is no failure: every answer that counts has come with a good CRC."""
        told = [f"bad frames seen by the device: {hil['bad_frames']}"] if _positive(hil.get("bad_frames")) else []
        link = hil.get("link")
        if isinstance(link, Mapping):
            told += [
                f"{what}: {link[key]}"
                for key, what in (
                    ("recovered", "recoveries of a lost device"),
                    ("resent", "requests sent again"),
                    ("bad_crc", "replies with a bad CRC"),
                    ("reopened", "times the port was opened again"),
                )
                if _positive(link.get(key))
            ]
        if told:
            self.notes.append(f"The serial link was disturbed: {', '.join(told)}.")

    def _stack(self, hil: Evidence) -> None:
        used, size = (
            self.take(hil, "the cross-check", "stack", key, kind="count") for key in ("high_water_bytes", "size_bytes")
        )
        if used is not None and size is not None and used >= size:
            self.failures.append(f"the firmware used all of its stack ({size} bytes): it may have overflowed")

    def identity(
        self,
        certificate: Evidence | None,
        hil: Evidence | None,
        build: Evidence | None,
        artifacts: Mapping[str, str] | None,
    ) -> None:
        if self.bit_exact_only:
            certified = self.take(artifacts, "the output folder", "model.tflite", kind="text")
        else:
            certified = self.take(certificate, "the certificate", "int8", "sha256", kind="text")
        built = self.take(build, "the build", "model_sha256", kind="text")
        if certified is not None and built is not None and certified != built:
            self.failures.append(
                f"the firmware holds model {built[:16]}..., the "
                f"{'folder holds' if self.bit_exact_only else 'certificate is for'} {certified[:16]}..."
            )
        pair = ("pair", "different_models")
        if not self.bit_exact_only and self.take(certificate, "the certificate", *pair, kind="flag"):
            self.notes.append("Two different models are compared: the int8 weights are not the float ones, rounded.")
        profile = self.take(build, "the build", "profile", kind="text")
        runtime = self.take(build, "the build", "runtime", kind="text")
        covered = [profile]
        if not self.bit_exact_only:
            covered = self.take(certificate, "the certificate", "int8", "profiles", kind="list")
        if None not in (profile, runtime, covered) and profile not in covered:
            self.failures.append(
                f"the runtime '{runtime}' computes by the semantics profile '{profile}', which the certificate does "
                f"not cover (it holds for {', '.join(map(str, covered))})"
            )
        build_id = self.take(build, "the build", "build_id", kind="text")
        board = self.take(build, "the build", "board", kind="text")
        if not isinstance(hil, Mapping):
            return
        for key, expected, what in (
            ("model_sha256", certified, "model"),
            ("build_id", build_id, "build"),
            ("board", board, "board"),
        ):
            told = self.take(hil, "the cross-check", "target", key, kind="text")
            if told is not None and expected is not None and told != expected:
                self.failures.append(f"the device reports {what} {told}, expected is {expected}")

    def sizes(self, build: Evidence | None) -> None:
        values = {
            key: self.take(build, "the build", key, kind="count")
            for key in ("flash_bytes", "flash_available", "ram_bytes", "stack_size", "ram_available")
        }
        if None in values.values():
            return
        if values["flash_bytes"] > values["flash_available"]:
            self.failures.append(
                f"the firmware needs {values['flash_bytes']} of {values['flash_available']} flash bytes"
            )
        if values["ram_bytes"] + values["stack_size"] > values["ram_available"]:
            needed = values["ram_bytes"] + values["stack_size"]
            self.failures.append(f"the firmware needs {needed} of {values['ram_available']} RAM bytes")

    def files(self, certificate: Evidence | None, build: Evidence | None, artifacts: Mapping[str, str] | None) -> None:
        own: list[tuple[str, Evidence | None, tuple[str, ...]]] = [
            ("model.tflite", certificate, ("int8", "sha256")),
            ("certificate.json", None, ()),
        ]
        if self.bit_exact_only:
            own = [("model.tflite", build, ("model_sha256",))]
        for name, data, path in (*own, ("firmware.elf", build, ("elf_sha256",)), ("hil.json", None, ())):
            found = self.take(artifacts, "the output folder", name, kind="text")
            expected = self.take(data, f"the evidence for {name}", *path, kind="text") if path else found
            if found is not None and expected is not None and found != expected:
                self.failures.append(f"{name} in the output folder is not the file that was checked")

    def _asked(self, certificate: Evidence | None, criteria: Criteria | None) -> dict[str, Any]:
        """The criteria asked for, by name, without those that are None."""
        if criteria is not None:
            wanted: dict[str, Any] = {"epsilon": criteria.epsilon, "top1_share": criteria.top1_share}
            wanted |= {k: list(v) if isinstance(v, tuple) else v for k, v in criteria.orders().items()}
            wanted["thresholds"] = [t.to_json() for t in criteria.limits().values()] or None
            return {k: v for k, v in wanted.items() if v is not None}
        asked = self.take(certificate, "the certificate", "criteria", kind="table")
        if asked is None:
            return {}
        for key in _KINDS:
            if key not in asked:
                self.failures.append(f"the certificate lacks 'criteria/{key}'")
        found = {}
        for key, value in asked.items():
            if value is None or str(key).endswith("_verdict"):
                continue
            if key not in _KINDS:
                self.failures.append(f"the criterion '{key}' that the certificate was asked for is not known here")
            elif not is_kind(value, _KINDS[key]):
                self.failures.append(f"the certificate has no valid 'criteria/{key}'")
            else:
                found[key] = value
        return found

    def criteria(
        self, certificate: Evidence | None, regions: Sequence[Region], proof_ok: bool, criteria: Criteria | None
    ) -> tuple[CriterionResult, ...]:
        asked = self._asked(certificate, criteria)
        results: list[CriterionResult] = []
        if "epsilon" in asked:
            epsilon = asked["epsilon"]
            reached = max((max(r.bound) for r in regions), default=None)
            status: Status = "unknown"
            if any(max(r.observed) > epsilon for r in regions):
                status = "refuted"
            elif proof_ok and reached is not None and reached <= epsilon:
                status = "proved"
            results.append(CriterionResult("epsilon", epsilon, reached, status))
        if "top1_share" in asked:
            wanted = asked["top1_share"]
            share, possible = _shares([r.top1 for r in regions if r.counted and r.top1 is not None])
            status = "refuted" if possible < wanted else "unknown"
            if proof_ok and share is not None and share >= wanted:
                status = "proved"
            results.append(CriterionResult("top1_share", wanted, share, status))
        for name in ORDERS:
            if name in asked:
                share, possible = _shares([r.orders[name] for r in regions])
                status = "proved" if proof_ok and share == 1.0 else "refuted" if possible < 1.0 else "unknown"
                results.append(CriterionResult(name, asked[name], share, status))
        for limit in asked.get("thresholds") or []:
            share, possible = _shares([r.orders.get(limit_name(limit)) for r in regions])
            status = "proved" if proof_ok and share == 1.0 else "refuted" if possible < 1.0 else "unknown"
            bands = [r.bands.get(limit_name(limit)) for r in regions]
            known = [float(b) for b in bands if b is not None] if is_kind(bands, "numbers") else []
            band = max(known) if proof_ok and known else None
            results.append(CriterionResult("thresholds", {**limit}, share, status, band))
        for result in results:
            if result.status == "proved":
                self.statements.append(f"Criterion: {result.sentence}.")
            elif result.status == "refuted":
                self.failures.append(f"criterion not met: {result.sentence}")
        return tuple(results)

    def limits(
        self,
        certificate: Evidence | None,
        hil: Evidence | None,
        regions: Sequence[Region],
        results: tuple[CriterionResult, ...],
        sound: bool,
        where: str,
    ) -> None:
        """What is proved, and first what is not."""
        notes: list[str] = []
        target = hil.get("target") if isinstance(hil, Mapping) else None
        emulated = target.get("emulated") if isinstance(target, Mapping) else None
        if isinstance(hil, Mapping) and not is_kind(emulated, "flag"):
            self.failures.append("the cross-check does not say whether the board was emulated")
        if emulated is not False:
            notes.append(
                "EMULATED: no hardware took part. The ELF ran on an emulated core; timing, clock, flash, peripherals "
                "and electrical behaviour of the real board are not tested."
                if emulated
                else "No hardware took part."
            )
        if regions and not sound:
            notes.append("The certified bounds are not proved: their proof obligations, or the bounds, do not hold up.")
        if self.bit_exact_only:
            notes.append(
                "BIT-EXACT ONLY: no certificate was made. Nothing is proved of how far the integer model is from the "
                "float model, on these samples or on any other input."
            )
        notes += domain.notes(certificate, regions) + region_notes(regions, where)
        if not results and regions:
            notes.append(
                "No criterion was asked for: the bounds are stated as found, and whether they are small enough for the "
                "application is not judged."
            )
        notes.append(
            "Run time and stack use are the largest and median seen on the samples, not proved limits; accuracy on the "
            "samples says nothing about other data."
        )
        self.notes[:0] = notes
        if sound and isinstance(certificate, Mapping):
            profiles = self.take(certificate, "the certificate", "int8", "profiles", kind="list")
            self.statements[:0] = [*bound_statements(regions, where), conditions(profiles or [])]


def _positive(value: object) -> bool:
    return is_kind(value, "count") and value != 0


def _shares(statuses: Sequence[object]) -> tuple[float | None, float]:
    """Shares of 'proved' (None where there is no status) and of what is not 'refuted'."""
    if not statuses:
        return None, 1.0
    total = len(statuses)
    return sum(s == "proved" for s in statuses) / total, sum(s != "refuted" for s in statuses) / total


def _same_class(top1: object, certified: Sequence[Region]) -> bool:
    if not isinstance(top1, Mapping):
        return False
    device, real = top1.get("device"), top1.get("float")
    if not isinstance(device, list) or not device or device != real:
        return False
    return all(r.top1_class is None or device == [r.top1_class] for r in certified)
