"""What a check concludes: from what detection says, what was done, and what was measured."""

from types import SimpleNamespace

import pytest

from rnp_jax.evaluation.metrics import Metrics, Proportion
from rnp_jax.pipeline.concluding import (
    BLIND,
    DROPPED,
    NO_PROOF,
    OTHER_TRIGGERS,
    SAME_KIND,
    STATUS,
    UNMEASURED,
    conclude,
    find_signs,
    tell_known,
    tell_unknown,
)
from rnp_jax.report.schema import Verdict

ACC = Proportion.of(90, 100)
CLEAN = "No evidence of a backdoor"
GONE = Verdict(headline="This trigger is removed", detail="How.", level="ok", supported=True)
LEFT = Verdict(headline="A backdoor is still there", detail="How.", level="bad")


NAMES = tuple(f"name {label}" for label in range(10))


def detected(outcome="no evidence", headline=CLEAN):
    verdict = Verdict(headline=headline, detail="Why.", level="ok" if outcome == "no evidence" else "bad")
    return SimpleNamespace(outcome=outcome, verdict=verdict)


def figures(asr=None):
    return Metrics(acc=ACC, asr=None if asr is None else Proportion.of(asr, 100))


def defended(asr=None, after=None, level=None, verdict=LEFT):
    evidence = None if level is None else SimpleNamespace(level=level, reasons=("A reason.",))
    return SimpleNamespace(before=figures(asr), after=figures(after), evidence=evidence, verdict=verdict)


SEEN = SimpleNamespace(visible=True, suspects=(SimpleNamespace(label=3),))
UNSEEN = SimpleNamespace(visible=False, suspects=(SimpleNamespace(label=3),))


@pytest.mark.parametrize(
    ("detection", "before", "finding", "strength", "word"),
    [
        (detected(), figures(), None, "none", None),
        (detected("likely clean"), figures(), UNSEEN, "none", None),
        (detected("likely backdoored", "Label 3!"), figures(), None, "strong", "Label 3!"),
        (detected("suspicious", "Hm."), figures(), UNSEEN, "weak", "Hm."),
        (
            detected("suspicious", "Hm."), figures(), SEEN, "strong",
            "The searches made as evidence find a trigger for label 3 (name 3)",
        ),
        (detected(), figures(95), None, "strong", "The known trigger works on 95.0% of the images"),
        (detected(), figures(10), None, "none", None),  # a clean model may show as much
    ],
)  # fmt: skip
def test_signs_are_weighed_and_the_strongest_are_told(detection, before, finding, strength, word):
    signs = find_signs(detection, before, finding, NAMES)
    assert signs.strength == strength
    assert signs.words == (() if word is None else (word,))


@pytest.mark.parametrize(
    ("detection", "defense", "written", "conclusion", "headline", "level"),
    [
        (detected(), defended(), None, "no evidence", CLEAN, "ok"),
        (detected("suspicious", "Hm"), defended(), None, "not supported", "Hm. Nothing was removed", "warning"),
        (detected("likely backdoored", "Oh"), defended(), None, "not supported", "Oh. Nothing was removed", "bad"),
        (
            detected("likely backdoored", "Oh: a reason"), defended(), "c.pt", "not supported",
            "Oh. In c.pt: A backdoor is still there", "bad",
        ),
        (
            detected("likely backdoored", "Oh"), defended(verdict=GONE), "c.pt", "supported",
            "Oh. In c.pt: This trigger is removed", "warning",
        ),
    ],
)  # fmt: skip
def test_the_conclusion_and_its_headline(detection, defense, written, conclusion, headline, level):
    signs = find_signs(detection, defense.before, None, NAMES)
    found, verdict = conclude(detection, signs, defense, written)
    assert (found, verdict.headline, verdict.level) == (conclusion, headline, level)
    assert verdict.supported == (found == "supported")
    assert ("A reason. " in verdict.detail) == ("a reason" in detection.verdict.headline)


def test_a_change_that_was_dropped_is_told():
    signs = find_signs(detected(), figures(), UNSEEN, NAMES)
    _, verdict = conclude(detected(), signs, defended(), None, dropped=True)
    assert verdict.detail == DROPPED


def test_every_conclusion_has_a_status_of_its_own_and_only_no_evidence_is_success():
    assert STATUS == {"no evidence": 0, "not supported": 3, "supported": 4, "unchecked": 5}


def test_what_is_known_is_what_was_measured():
    assert tell_known(defended(asr=95, after=2), None) == ()
    acc, asr = tell_known(defended(asr=95, after=2), "c.pt")
    assert acc.startswith(
        "It classifies 90.0% (82.6–94.5%) of 100 clean images correctly, and the file as it came 90.0%"
    )
    assert asr.startswith("The known trigger works on 2.0% (")
    assert asr.endswith("and on 95.0% in the file as it came.")
    *_, evidence = tell_known(defended(level="traces"), "c.pt")
    assert evidence == "There are traces of a backdoor. A reason."


def test_what_is_not_known_depends_on_what_was_done_and_on_the_trigger():
    def tell(defense, written, inverts=True):
        return tell_unknown(defense, written, inverts=inverts)

    alone = tell(defended(), None)
    assert alone[0] == NO_PROOF
    assert alone[-1] == BLIND
    assert UNMEASURED not in alone
    assert {UNMEASURED, SAME_KIND} < set(tell(defended(), "c.pt"))
    assert SAME_KIND not in tell(defended(), "c.pt", inverts=False)
    known = tell(defended(asr=95, after=2), "c.pt")
    assert OTHER_TRIGGERS in known
    assert not {UNMEASURED, SAME_KIND, NO_PROOF} & set(known)
