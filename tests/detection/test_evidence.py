"""The finding that figures make, by its rules."""

from dataclasses import replace

import pytest

from rnp_jax.detection.evidence import EvidenceConfig, LabelEvidence, judge_evidence
from rnp_jax.errors import ConfigError


def label_of(label: int = 1, **figures) -> LabelEvidence:
    plain = {"before": 2.0, "cold": 40.0, "warm": 40.0, "old_trigger": (1.0, 0.02)}
    plain |= {"perturbation": (0.9, 0.3), "patch": (0.9, 0.1), "warp": (0.9, 0.1), "shift": (0.4, 0.99)}
    plain |= {"misled": (1.0, 0.1)}
    return LabelEvidence(label, **{**plain, **figures})


SUCCESS = {"old_trigger": (1.0, 0.3), "perturbation": (0.4, 0.2), "patch": (0.2, 0.2), "warp": (0.2, 0.2)}
CONTROL = label_of(5, before=28.0, cold=30.0, warm=34.0, **SUCCESS, shift=(1.02, 0.97), misled=(0.99, 0.4))


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
        ({"misled": (1.0, 0.25)}, True, "traces"),  # its mask is small: that of an ordinary label says nothing
        ({"misled": (1.0, 0.24)}, True, "none found"),
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
        ({"misled": (1.0, 0.64)}, False, "none found"),
        ({"misled": (1.0, 0.66)}, False, "traces"),
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
        ({"misled": (1.0, 0.64)}, "none found"),
        ({"misled": (1.0, 0.66)}, "traces"),
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


@pytest.mark.parametrize(
    "change", [{"controls": 0}, {"margin": 0.0}, {"works": 1.1}, {"small": 1.2}, {"helps": 0.6}, {"suspicious": 0.0}]
)
def test_impossible_limits(change: dict):
    with pytest.raises(ConfigError, match="expected"):
        EvidenceConfig(**change)
