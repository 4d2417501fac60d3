"""The lemmas of docs/soundness.md, machine-checked; and altered ones, which must fail."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from codesign.proof.identities import IDENTITIES, Identity, holds, sigmoid
from codesign.proof.lemmas import LEMMAS, check


@pytest.mark.parametrize("lemma", LEMMAS, ids=lambda lemma: lemma.name)
def test_lemma_is_proved_on_its_box(lemma):
    outcome = check(lemma, timeout_s=20)
    assert outcome.status == "proved", outcome


@pytest.mark.parametrize("lemma", LEMMAS, ids=lambda lemma: lemma.name)
def test_negated_or_strengthened_lemma_is_refuted(lemma):
    if lemma.limit < 0:
        negated = dataclasses.replace(lemma, formula=lambda v, w: -lemma.formula(v, w))
        assert check(negated, timeout_s=20).status == "refuted"
    beyond = dataclasses.replace(lemma, limit=lemma.limit - 0.2)
    assert check(beyond, timeout_s=20).status == "refuted"


@pytest.mark.parametrize("identity", IDENTITIES, ids=lambda identity: identity.name)
def test_identity_holds_exactly(identity):
    assert holds(identity)


def test_a_wrong_identity_fails():
    wrong = Identity("even", 3, "D(-z, -d) = D(z, d)", lambda a, b, c, d: sigmoid(1 / a) - sigmoid(a))
    assert not holds(wrong)
    nearly = Identity("nearly", 1, "", lambda a, b, c, d: sigmoid(a) * 1_000_000_001 - sigmoid(a) * 1_000_000_000)
    assert not holds(nearly)


def test_every_lemma_number_is_in_the_document():
    text = (Path(__file__).parents[2] / "docs" / "soundness.md").read_text(encoding="utf-8")
    numbers = {int(n) for n in re.findall(r"^### Lemma (\d+)", text, flags=re.MULTILINE)}
    assert {lemma.number for lemma in LEMMAS} | {identity.number for identity in IDENTITIES} <= numbers
