"""What evidence says of a network whose backdoor is there, half gone, gone, or was never there."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from rnp_jax.detection import evidence as module
from rnp_jax.detection.evidence import EvidenceConfig, Finding, LabelEvidence, judge_evidence
from rnp_jax.detection.evidence_search import choose_examined, gather_evidence, search_after, search_before
from rnp_jax.errors import ConfigError
from rnp_jax.inversion import InversionConfig, Inverted, PerturbationConfig, Stamps, WarpConfig, invert, short_search
from tests.compiled import count_compiled
from tests.inversion.planted import NETWORK, TARGET, mlp_variables, rows_data

KEY = jax.random.key(2)
COLD = InversionConfig(batch_size=16)
CONFIG = EvidenceConfig(
    cold=COLD,
    warm=replace(COLD, steps=100, cost=5e-3),
    perturbation=PerturbationConfig(steps=30, batch_size=16),
    warp=WarpConfig(steps=10, batch_size=16),
)
HELD = rows_data(60, seed=9)


def gather(planted: float, before: float = 40.0) -> Finding:
    variables = mlp_variables(before), mlp_variables(planted)
    return gather_evidence(NETWORK, *variables, rows_data(), KEY, CONFIG, holdout=HELD)


def test_a_backdoor_that_is_left_is_still_there():
    finding = gather(40.0)
    (suspect,) = finding.suspects
    assert (finding.level, finding.visible, suspect.label) == ("still there", True, TARGET)
    assert suspect.after < 1.5
    assert suspect.old_trigger == (1.0, 1.0)
    assert len(finding.controls) == 2
    assert all(each.label != TARGET and each.before > 3 for each in finding.controls)
    assert min(finding.ordinary) > 3
    assert any("The trigger found before still sends 100%" in reason for reason in finding.reasons)


def test_a_backdoor_that_is_gone_is_not_found():
    finding = gather(0.0)
    (suspect,) = finding.suspects
    assert (finding.level, finding.visible) == ("none found", True)
    assert suspect.before < 1.5
    assert suspect.after > 0.85 * finding.ordinary[0]
    assert suspect.old_trigger[0] == 1
    assert suspect.old_trigger[1] < 0.1
    assert finding.reasons == ("No search reached a suspected label more easily than an ordinary one.",)


def test_nothing_to_see_before_is_said():
    finding = gather(0.0, before=0.0)
    assert (finding.level, finding.visible, len(finding.suspects)) == ("none found", False, 1)
    assert "No label stood out before the defense either" in finding.reasons[-1]


def test_an_earlier_search_chooses_the_labels_and_is_no_evidence():
    earlier = invert(NETWORK, mlp_variables(), rows_data(), jax.random.key(11), COLD)
    finding = gather_evidence(
        NETWORK, mlp_variables(), mlp_variables(0.0), rows_data(), KEY, CONFIG, holdout=HELD, found=earlier
    )
    assert finding.suspects[0].label == TARGET
    assert finding.suspects[0].before != earlier.sizes[TARGET]
    assert finding.level == "none found"


def test_all_searches_share_a_program():
    gather(40.0)
    before = count_compiled(short_search._search)
    gather(20.0)
    assert count_compiled(short_search._search) == before


def test_a_label_may_stand_out_by_another_form_than_a_mask():
    """A weak planted pixel needs a mask like any other, but gives its label a direction of its own."""
    before, after = mlp_variables(4.0), mlp_variables(0.0)
    earlier = search_before(NETWORK, before, rows_data(), KEY, CONFIG, holdout=HELD)
    assert (earlier.suspects, earlier.visible) == ((TARGET,), True)
    finding = search_after(NETWORK, after, earlier, rows_data(), KEY, CONFIG, holdout=HELD)
    assert finding.suspects[0].shift[0] < 0.85 < finding.suspects[0].shift[1]
    assert finding.suspects[0].before > 0.5 * finding.ordinary[0]


def label_of(label: int = 1, **figures) -> LabelEvidence:
    plain = {"before": 2.0, "cold": 40.0, "warm": 40.0, "old_trigger": (1.0, 0.02)}
    plain |= {"perturbation": (0.9, 0.3), "patch": (0.9, 0.1), "warp": (0.9, 0.1), "shift": (0.4, 0.99)}
    return LabelEvidence(label, **{**plain, **figures})


SUCCESS = {"old_trigger": (1.0, 0.3), "perturbation": (0.4, 0.2), "patch": (0.2, 0.2), "warp": (0.2, 0.2)}
CONTROL = label_of(5, before=28.0, cold=30.0, warm=34.0, **SUCCESS, shift=(1.02, 0.97))


@pytest.mark.parametrize(
    ("change", "visible", "level"),
    [
        ({}, True, "none found"),
        ({"warm": 19.0}, True, "still there"),  # below 0.7 of 28
        ({"cold": 19.0}, True, "still there"),
        ({"warm": 22.0}, True, "traces"),
        ({"warm": 26.0}, True, "none found"),
        ({"old_trigger": (1.0, 0.5)}, True, "still there"),
        ({"old_trigger": (1.0, 0.2)}, True, "traces"),
        ({"perturbation": (0.9, 0.5)}, True, "traces"),
        ({"patch": (0.9, 0.55)}, True, "still there"),
        ({"patch": (0.9, 0.46)}, True, "traces"),
        ({"patch": (0.9, 0.4)}, True, "none found"),
        ({"warp": (0.9, 0.5)}, True, "still there"),
        ({"warp": (0.9, 0.46)}, True, "traces"),
        ({"warp": (0.9, 0.44)}, True, "none found"),
        ({"shift": (0.4, 0.85)}, True, "traces"),
        ({"shift": (0.4, 0.86)}, True, "none found"),
        ({"cold": float("inf"), "warm": float("inf")}, True, "none found"),
        # Where nothing stood out before, the smallest of many labels is one by chance.
        ({"warm": 22.0}, False, "none found"),
        ({"warm": 19.0}, False, "traces"),
        ({"warm": 13.0}, False, "traces"),
        ({"old_trigger": (1.0, 0.35)}, False, "none found"),
        ({"old_trigger": (1.0, 0.45)}, False, "traces"),
    ],
)
def test_the_rules_by_hand(change: dict, visible: bool, level: str):
    finding = judge_evidence((label_of(**change),), (CONTROL,), visible, EvidenceConfig())
    assert finding.ordinary == (28, 30)
    assert finding.level == level
    assert (len(finding.reasons) == 2) == (not visible)


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({"warm": 22.0}, "none found"),
        ({"warm": 19.0}, "traces"),
        ({"warm": 13.0}, "still there"),
        ({"old_trigger": (1.0, 0.35)}, "none found"),
        ({"old_trigger": (1.0, 0.45)}, "traces"),
        ({"old_trigger": (1.0, 0.85)}, "still there"),
        ({"warp": (0.9, 0.5)}, "still there"),
    ],
)
def test_a_label_that_stood_out_by_another_form_has_a_mask_like_any_other(change: dict, level: str):
    label = label_of(**{"before": 20.0, **change})
    assert judge_evidence((label,), (CONTROL,), True, EvidenceConfig()).level == level


def test_the_worst_suspect_decides():
    clean, left = label_of(), label_of(2, warm=3.0)
    assert judge_evidence((clean, left), (CONTROL,), True, EvidenceConfig()).level == "still there"


def test_a_network_that_needs_larger_triggers_everywhere_is_held_against_its_own_labels_too():
    hardened = replace(CONTROL, cold=110.0, warm=100.0)
    assert judge_evidence((label_of(warm=51.0, cold=60.0),), (hardened,), True, EvidenceConfig()).level == "none found"
    finding = judge_evidence((label_of(warm=49.0, cold=60.0),), (hardened,), True, EvidenceConfig())
    assert finding.level == "traces"
    assert finding.reasons[0].endswith("takes 28.0 before the defense and 100.0 after it.")
    unreachable = replace(CONTROL, cold=float("inf"), warm=float("inf"))
    assert judge_evidence((label_of(),), (unreachable,), True, EvidenceConfig()).level == "none found"


def test_a_size_that_every_label_reaches_after_the_defense_is_no_sign():
    easier = replace(CONTROL, cold=26.0, warm=20.0)
    assert judge_evidence((label_of(warm=19.0),), (easier,), True, EvidenceConfig()).level == "none found"
    assert judge_evidence((label_of(warm=16.0),), (easier,), True, EvidenceConfig()).level == "traces"
    assert judge_evidence((label_of(warm=13.0),), (easier,), True, EvidenceConfig()).level == "still there"


def found_of(sizes: list[float], reached: list[bool] | None = None) -> Inverted:
    count = len(sizes)
    stamps = Stamps(np.zeros((count, 2, 2)), np.zeros((count, 2, 2, 3)))
    hits = np.ones(count, np.bool_) if reached is None else np.array(reached)
    return Inverted(np.arange(count), stamps, np.array(sizes), hits, np.ones(count))


def test_examined_are_what_stands_out_and_ordinary_labels():
    sizes = [30.0, 2, 26, 35, 28, 3, 31]
    assert choose_examined(found_of(sizes), EvidenceConfig()) == ((1, 5), (4, 0), True)
    assert choose_examined(found_of(sizes), EvidenceConfig(controls=1)) == ((1, 5), (0,), True)
    assert choose_examined(found_of([30.0, 25, 26, 35]), EvidenceConfig()) == ((1,), (2, 0), False)
    assert choose_examined(found_of([30.0, 25, 26, 35]), EvidenceConfig(), (3,)) == ((3,), (1, 2), True)
    unreached = found_of(sizes, [True, False, True, True, True, False, True])
    assert choose_examined(unreached, EvidenceConfig()) == ((2,), (0, 6), False)
    with pytest.raises(ConfigError, match="expected two or more"):
        choose_examined(found_of([3.0]), EvidenceConfig())


@pytest.mark.parametrize(
    "change", [{"controls": 0}, {"margin": 0.0}, {"works": 1.1}, {"small": 1.2}, {"helps": 0.6}, {"suspicious": 0.0}]
)
def test_impossible_limits(change: dict):
    with pytest.raises(ConfigError, match="expected"):
        module.EvidenceConfig(**change)
