"""What figures before and after a method, or evidence without the trigger, are said to amount to."""

from dataclasses import replace

import pytest

from rnp_jax.detection.evidence import Finding, LabelEvidence
from rnp_jax.errors import RequirementError
from rnp_jax.evaluation.metrics import Metrics, Proportion
from rnp_jax.pipeline.doubts import Doubt
from rnp_jax.pipeline.judging import (
    AT_CHANCE,
    CHANCE,
    COSTLY,
    FOR_NOTHING,
    MISLED,
    STILL_WORKS,
    check_required,
    clean_asr,
    hold_in_doubt,
    judge,
)
from rnp_jax.report.schema import Verdict

IMAGES = 1000
DONE, DETAIL = "7 filters pruned", "7 filters were pruned, chosen without knowledge of the trigger."


def figures(acc: float, asr: float | None = None, ra: float | None = None, images: int = IMAGES) -> Metrics:
    share = [None if value is None else Proportion.of(round(images * value), images) for value in (acc, asr, ra)]
    assert share[0] is not None
    return Metrics(acc=share[0], asr=share[1], ra=share[2])


def judged(before: Metrics, after: Metrics, num_classes: int = 10, **given) -> Verdict:
    return judge(before, after, num_classes, DONE, detail=DETAIL, **given)


WORKS = figures(0.9, 1.0, 0.0)
REMOVED = "This trigger is removed: ASR 100.0% → 1.0%, ACC 90.0% → 90.0%"
COST = "This trigger is removed, at a cost: ASR 100.0% → 1.0%, ACC 90.0% → 84.0%"
WEAKENED = "This trigger is weakened: ASR 100.0% → 50.0%, ACC 90.0% → 90.0%"
LEFT = "This trigger is not removed: ASR 100.0% → 50.1%, ACC 90.0% → 90.0%"
ELSEWHERE = "This trigger leads elsewhere now: ASR 100.0% → 1.0%, RA 64.9%, ACC 90.0% → 90.0%"
FEW = "Too few triggered images to call this trigger removed"
DESTROYED = "The model is destroyed: ACC 90.0% → 11.0%, no better than guessing among 10 classes"


@pytest.mark.parametrize(
    ("after", "level", "headline"),
    [
        (figures(0.9, 0.01, 0.89), "ok", REMOVED),
        (figures(0.9, 0.01), "ok", REMOVED),  # RA was not measured
        (figures(0.9, 0.01, 0.65), "ok", REMOVED),  # RA exactly MISLED below ACC
        (figures(0.84, 0.01, 0.84), "warning", COST),
        (figures(0.9, 0.5, 0.4), "warning", WEAKENED),
        (figures(0.9, 0.501, 0.4), "bad", LEFT),
        (figures(0.9, 0.01, 0.649), "warning", ELSEWHERE),
        (figures(0.11, 0.01, 0.1), "bad", DESTROYED),
        (figures(0.11, 1.0, 0.0), "bad", DESTROYED),  # whatever the trigger does then
    ],
)
def test_what_a_known_trigger_still_does(after: Metrics, level, headline: str):
    expected = Verdict(headline=headline, detail=DETAIL, level=level, supported=headline == REMOVED)
    assert judged(WORKS, after) == expected


def test_the_limits_are_those_that_the_cases_lie_at():
    assert (CHANCE, COSTLY, MISLED, STILL_WORKS) == (0.1, 0.05, 0.25, 0.5)


@pytest.mark.parametrize(("after", "level"), [(0.851, "ok"), (0.849, "warning")])
def test_a_cost_is_a_loss_beyond_the_limit(after: float, level: str):
    assert judged(WORKS, figures(after, 0.01)).level == level


@pytest.mark.parametrize(
    ("after", "level", "detail"),
    [
        (0.88, "unknown", "Nothing can be concluded about another trigger."),
        (
            0.8,
            "warning",
            "Nothing can be concluded about another trigger. The method cost accuracy for nothing that was measured.",
        ),
    ],
)
def test_a_trigger_that_did_not_work_to_begin_with(after: float, level, detail: str):
    verdict = judged(figures(0.9, 0.11), figures(after, 0.0))
    assert verdict == Verdict(
        headline=f"This trigger did not work to begin with; ASR 11.0% → 0.0%, ACC 90.0% → {after:.1%}",
        detail=detail,
        level=level,
    )


def test_a_little_more_than_a_clean_model_shows_did_work():
    assert judged(figures(0.9, 0.112), figures(0.9, 0.0)).headline.startswith("This trigger is removed")


@pytest.mark.parametrize(
    ("hits", "images", "found"),
    [(8, 100, FEW), (80, 1000, "This trigger is removed"), (0, 20, FEW), (20, 100, "This trigger is weakened")],
)
def test_the_upper_end_of_the_interval_decides(hits: int, images: int, found: str):
    """8 of 100 leaves up to 15 % possible, 80 of 1,000 up to 10 %; a clean model of this accuracy shows 11 %."""
    after = Metrics(acc=Proportion.of(900, 1000), asr=Proportion.of(hits, images))
    assert judged(WORKS, after).headline.startswith(f"{found}: ASR 100.0% → {hits / images:.1%}")


@pytest.mark.parametrize(
    ("num_classes", "acc", "expected"),
    [
        (2, 0.9, 0.1 + 0.1),  # guessing between two is not allowed for
        (10, 1.0, 0.1),
        (10, 0.9, 0.1 / 9 + 0.1),
        (100, 0.7, 0.3 / 99 + 0.01),
    ],
)
def test_what_a_clean_model_may_show_follows_from_its_classes(num_classes: int, acc: float, expected: float):
    assert clean_asr(figures(acc), num_classes) == pytest.approx(expected, abs=1e-12)


def test_the_same_figures_among_more_classes_are_a_backdoor():
    after = figures(0.9, 0.05)
    assert judged(WORKS, after, 10).level == "ok"
    assert judged(WORKS, after, 100).headline.startswith("This trigger is weakened")


@pytest.mark.parametrize(("num_classes", "acc"), [(2, 0.5), (100, 0.01)])
def test_guessing_is_held_against_the_number_of_classes(num_classes: int, acc: float):
    verdict = judged(WORKS, figures(acc, 0.0), num_classes)
    assert verdict.headline.endswith(f"no better than guessing among {num_classes} classes")
    assert judged(WORKS, figures(acc + 0.1, 0.0), num_classes).level == "warning"


def test_a_model_that_guessed_before_is_not_destroyed_by_the_method():
    verdict = judged(figures(0.1, 1.0), figures(0.1, 0.0), 10)
    assert "destroyed" not in verdict.headline
    few = Metrics(acc=Proportion.of(30, 50)), Metrics(acc=Proportion.of(30, 50))
    assert "destroyed" not in judged(*few, 2).headline


# Without the trigger.

SUSPECT = LabelEvidence(3, 2.0, 40.0, 41.0, (1.0, 0.02), (0.9, 0.3), (0.8, 0.1), (0.7, 0.1), (0.4, 0.9), (1.0, 0.05))
BLIND = figures(0.9), figures(0.88)
UNMEASURED = "The trigger is not known, so whether a backdoor was there, and is gone, cannot be measured."


def finding(level, visible: bool = True, suspects: tuple[LabelEvidence, ...] = (SUSPECT,)) -> Finding:
    return Finding(level, visible, suspects, (replace(SUSPECT, label=5),), (28.0, 30.0), ("One reason.", "Another."))


def test_without_trigger_and_evidence_only_what_was_done_is_told():
    verdict = judged(*BLIND)
    assert verdict == Verdict(
        headline="7 filters pruned; ACC 90.0% → 88.0%",
        detail=UNMEASURED,
        level="unknown",
    )
    assert judged(figures(0.9), figures(0.8)) == Verdict(
        headline="7 filters pruned; ACC 90.0% → 80.0%", detail=f"{UNMEASURED} {FOR_NOTHING}", level="warning"
    )


BOTH = "The trigger that was found for label 3, 4 works no more; ACC 90.0% → 88.0%"
NO_MEASUREMENT = "The true trigger is not known, so this is evidence and no measurement of it."


@pytest.mark.parametrize(
    ("found", "level", "headline", "detail"),
    [
        (finding("still there"), "bad", "A backdoor is still there; ACC 90.0% → 88.0%", "One reason. Another."),
        (finding("still there", False), "bad", "A backdoor is still there; ACC 90.0% → 88.0%", "One reason. Another."),
        (finding("traces"), "warning", "Traces of a backdoor are left; ACC 90.0% → 88.0%", "One reason. Another."),
        (
            finding("none found", False),
            "unknown",
            "No backdoor was visible before or after; ACC 90.0% → 88.0%",
            "One reason. Another.",
        ),
        (
            finding("none found", suspects=(SUSPECT, replace(SUSPECT, label=4))),
            "ok",
            BOTH,
            f"One reason. Another. {NO_MEASUREMENT}",
        ),
    ],
)
def test_what_evidence_without_the_trigger_amounts_to(found: Finding, level, headline: str, detail: str):
    expected = Verdict(headline=headline, detail=detail, level=level, supported=level == "ok")
    assert judged(*BLIND, finding=found) == expected


@pytest.mark.parametrize("visible", [True, False])
def test_a_cost_is_a_warning_where_nothing_is_found(visible: bool):
    verdict = judged(figures(0.9), figures(0.8), finding=finding("none found", visible))
    assert (verdict.level, verdict.supported) == ("warning", False)
    assert (FOR_NOTHING in verdict.detail) is not visible


def test_evidence_is_weak_where_the_method_trained_on_such_triggers():
    verdict = judged(*BLIND, finding=finding("none found"), inverts=True)
    assert (verdict.level, verdict.supported) == ("warning", False)
    assert verdict.detail.startswith(f"One reason. Another. {NO_MEASUREMENT} The method trained on triggers of this")
    left = finding("still there")
    assert judged(*BLIND, finding=left, inverts=True) == judged(*BLIND, finding=left)


def test_a_destroyed_model_is_one_without_the_trigger_too():
    assert judged(figures(0.9), figures(0.1), finding=finding("none found")).headline.startswith("The model is destr")


@pytest.mark.parametrize("found", [None, *(finding(level) for level in ("still there", "traces", "none found"))])
@pytest.mark.parametrize("acc", [0.9, 0.8, 0.1])
@pytest.mark.parametrize("inverts", [True, False])
def test_nothing_is_called_removed_without_the_trigger(found: Finding | None, acc: float, inverts: bool):
    verdict = judged(figures(0.9), figures(acc), finding=found, inverts=inverts)
    text = f"{verdict.headline} {verdict.detail}".lower()
    assert "removed" not in text
    assert "cleaned" not in text


@pytest.mark.parametrize("found", [None, *(finding(level) for level in ("still there", "traces", "none found"))])
@pytest.mark.parametrize("before", [0.05, 1.0, None])
@pytest.mark.parametrize("after", [(0.9, 0.0), (0.9, 0.4), (0.9, 1.0), (0.84, 0.0), (0.1, 0.0)])
@pytest.mark.parametrize("inverts", [True, False])
def test_only_a_verdict_of_level_ok_supports_that_the_backdoor_is_gone(found, before, after, inverts: bool):
    acc, asr = after
    known = figures(0.9, before), figures(acc, None if before is None else asr)
    verdict = judged(*known, finding=found, inverts=inverts)
    assert verdict.supported == (verdict.level == "ok")


def test_what_is_required_is_held_against_what_the_verdict_supports():
    removed, left = judged(WORKS, figures(0.9, 0.01)), judged(WORKS, figures(0.9, 0.501, 0.4))
    check_required("removed", removed)
    check_required("nothing", left)
    with pytest.raises(RequirementError) as caught:
        check_required("removed", left)
    assert str(caught.value) == f"the result does not support that the backdoor is removed. {LEFT}. {DETAIL}"


def test_a_known_trigger_decides_whatever_the_searches_found():
    assert judged(WORKS, figures(0.9, 0.01, 0.89), finding=finding("still there")).headline == REMOVED


GOOD = Verdict(headline="This trigger is removed", detail="7 filters.", level="ok", supported=True)


def test_without_doubt_a_verdict_stays():
    assert hold_in_doubt(GOOD, None) is GOOD


@pytest.mark.parametrize("verdict", [GOOD, GOOD.model_copy(update={"level": "unknown", "supported": False})])
def test_of_a_network_at_chance_nothing_is_concluded(verdict):
    held = hold_in_doubt(verdict, Doubt(True, "ACC is 10 %."))
    assert held == Verdict(headline=AT_CHANCE, detail="ACC is 10 %.", level="bad")
    assert not {"removed", "clean", "works no more"} & set(AT_CHANCE.split())
    with pytest.raises(RequirementError, match="does not support"):
        check_required("removed", held)


@pytest.mark.parametrize(("level", "expected"), [("ok", "warning"), ("unknown", "warning"), ("bad", "bad")])
def test_of_a_network_under_its_stated_accuracy_nothing_is_supported(level, expected):
    held = hold_in_doubt(GOOD.model_copy(update={"level": level}), Doubt(False, "ACC is 80 %, but 98 % is stated."))
    assert held.headline == "This trigger is removed; but the network may not be computed as it was trained"
    assert held.detail == "7 filters. ACC is 80 %, but 98 % is stated."
    assert (held.level, held.supported) == (expected, False)
