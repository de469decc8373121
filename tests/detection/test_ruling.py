"""What a score says when it is held against a calibration whose truth is planted."""

from dataclasses import replace

import pytest

from rnp_jax.detection.calibration import Calibration, HeldOut
from rnp_jax.detection.ruling import Identity, Ruling, as_sign, rule_on
from rnp_jax.evaluation.metrics import Proportion
from rnp_jax.models import Architecture
from tests.detection.test_calibration import RESNET, SETTINGS, fit, models


def ruling(score: float, architecture=RESNET, options=SETTINGS, calibration=None):
    return rule_on("labels", score, 7, calibration or fit(models()), architecture, options)


def test_rulings():
    threshold = fit(models()).threshold
    assert ruling(threshold + 0.01).outcome == "backdoored"
    assert ruling(threshold).outcome == ruling(0.34).outcome == "undecided"
    assert ruling(0.33).outcome == "clean"
    above = ruling(0.9)
    assert (above.score, above.threshold) == (0.9, threshold)
    assert above.sentence == (
        "0.90 of the predictions went to label 7 while the model unlearned, a score above all 2 clean models "
        f"(0.90, threshold {threshold:.2f})"
    )
    assert "a score below all 2 backdoored models (0.20, limit 0.34); other backdoors may hide" in ruling(0.2).sentence


def test_kinds_that_overlap_leave_all_between_undecided():
    mixed = fit(models(clean=(0.499, 0.3, 0.5, 0.5), backdoored=(0.2, 0.2, 0.9, 0.9)))
    assert mixed.clean_below == 0.2
    assert 0.51 < mixed.threshold < 0.99
    assert [ruling(each, calibration=mixed).outcome for each in (0.19, 0.25, 0.51, 0.99)] == [
        "clean", "undecided", "undecided", "backdoored",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"architecture": Architecture("resnet18", 10, 64)},
            "it is for resnet18, width 8, 10 classes, but this model",
        ),
        ({"architecture": Architecture("resnet18", 43, 8)}, "is resnet18, width 8, 43 classes"),
        ({"options": SETTINGS | {"images": 50}}, "made with other settings (images)"),
        ({"options": {"modes": ["train"]}}, "made with other settings (images)"),
    ],
)
def test_a_calibration_of_other_models_or_settings_decides_nothing(changed, words):
    found = ruling(0.99, **changed)
    assert found.outcome == "undecided"
    assert words in found.sentence
    assert "rnp-jax calibrate" in found.sentence


def test_without_a_calibration():
    found = rule_on("triggers", 0.9, 7, None, RESNET, SETTINGS)
    assert (found.outcome, found.threshold) == ("undecided", None)
    assert "the smallest trigger found, for label 7, has 10% of the median's size" in found.sentence


def clearing(total: int) -> Calibration:
    """A calibration whose other half has so many backdoored models, none of which scores low."""
    found = fit(models())
    held_out = HeldOut(**{**vars(found.held_out), "missed": Proportion.of(0, total)})
    return replace(found, held_out=held_out)


@pytest.mark.parametrize(
    ("outcome", "total", "strength"),
    [
        ("backdoored", 19, "strong"),
        ("undecided", 19, "none"),
        ("clean", 19, "clears"),
        ("clean", 15, "none"),  # up to 20.4 % of such models may score as low
    ],
)
def test_only_measured_rates_clear_a_model(outcome, total, strength):
    sign = as_sign("labels", Ruling(outcome, 0.3, 7, 0.7, "what it says"), clearing(total))
    assert (sign.look, sign.strength, sign.labels) == ("labels", strength, (7,))
    assert sign.sentence.startswith("What it says.")
    assert ("Of 19 backdoored models" in sign.sentence) == (strength == "clears")
    assert (sign.evidence == "of backdoored models, 17% at most score so low") == (strength == "clears")


@pytest.mark.parametrize(
    ("identity", "digest", "own"),
    [
        (Identity("c0", "ab"), "ab", True),
        (Identity("renamed", "ab"), "ab", True),
        (Identity("c0", "cd"), "ab", False),  # another file of the same name
        (Identity("c0", "cd"), None, True),  # of the same name and score
        (Identity("c1", "cd"), None, False),
        (None, "ab", False),
    ],
)
def test_a_model_of_the_calibration_is_named_so(identity, digest, own):
    first, *others = fit(models()).models
    assert first.name == "c0"
    calibration = replace(fit(models()), models=(replace(first, sha256=digest), *others))
    found = rule_on("labels", first.score, 7, calibration, RESNET, SETTINGS, identity)
    assert (found.own, "this model took part in the calibration" in found.sentence) == (own, own)
    assert as_sign("labels", found, calibration).own == own


def test_a_calibration_of_another_statistic_decides_nothing():
    found = rule_on("triggers", 0.99, 7, fit(models()), RESNET, SETTINGS)
    assert found.outcome == "undecided"
    assert "it is for the statistic labels, not triggers" in found.sentence
