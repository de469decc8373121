"""The grade that planted signs add up to, and the line that says so."""

from typing import get_args

import pytest

from rnp_jax.detection.verdict import BLIND, TITLES, Look, Sign, grade_signs
from rnp_jax.inversion import NEXT

NAMES = ("cat", "1", "dog")


def sign(look, strength, *labels, own=False) -> Sign:
    return Sign(look, strength, labels, f"evidence of {look}", f"Sentence of {look}.", own)


@pytest.mark.parametrize(
    ("strengths", "grade"),
    [
        (("strong", "weak", "clears"), "likely backdoored"),
        (("weak", "clears", "none"), "suspicious"),
        (("clears", "none", "none"), "likely clean"),
        (("none", "none", "none"), "no evidence"),
    ],
)
def test_the_strongest_sign_decides(strengths, grade):
    looks = ("labels", "search", "shift")
    found = grade_signs([sign(*each, 2) for each in zip(looks, strengths, strict=True)], NAMES)
    assert found.grade == grade
    assert found.label == (2 if grade in ("likely backdoored", "suspicious") else None)
    assert len(found.sentences) == 3
    assert found.signs[0].strength == strengths[0]


def test_the_headline_has_the_label_by_name_and_the_evidence_for_it():
    signs = [sign("labels", "strong", 2, own=True), sign("search", "strong", 2, 0), sign("shift", "weak", 1)]
    found = grade_signs(signs, NAMES)
    assert found.headline == "Likely backdoored, label 2 (dog): evidence of search"
    assert found.sentences == ("Sentence of search.", "Sentence of labels.", "Sentence of shift.")
    in_sample = grade_signs([signs[0], signs[2]], NAMES)
    assert in_sample.headline == "Likely backdoored, label 2 (dog): evidence of labels (in-sample)"


def test_a_label_that_most_strong_signs_name_is_suspected():
    found = grade_signs(
        [sign("search", "strong", 0), sign("triggers", "strong", 1), sign("labels", "strong", 1)], NAMES
    )
    assert found.label == 1
    assert found.headline == "Likely backdoored, label 1: evidence of triggers"
    tied = grade_signs([sign("labels", "strong", 1), sign("search", "strong", 0)], NAMES)
    assert tied.label == 0, "the searches name a label more reliably"


def test_a_sign_without_a_label():
    found = grade_signs([sign("shift", "weak")], NAMES)
    assert (found.grade, found.label) == ("suspicious", None)
    assert found.headline == "Suspicious: evidence of shift"


def test_all_to_all_has_no_label():
    found = grade_signs([sign("search", "strong", NEXT)], NAMES)
    assert (found.grade, found.label) == ("likely backdoored", None)
    assert "every class to the next one (all-to-all)" in found.headline


def test_nothing_found_is_no_proof():
    found = grade_signs([sign("labels", "none", 1), sign("search", "none")], NAMES)
    assert found.headline == "No evidence of a backdoor (no proof that there is none)"
    assert found.label is None


def test_every_look_says_what_it_misses():
    assert set(TITLES) == set(BLIND) == set(get_args(Look))
