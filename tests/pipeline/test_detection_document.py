"""The document of a detection, for rulings that a fast run does not reach."""

from dataclasses import replace

import numpy as np
import pytest

from rnp_jax.detection.calibration import find_bundled
from rnp_jax.detection.ruling import Ruling
from rnp_jax.detection.verdict import BLIND, Sign, grade_signs
from rnp_jax.inversion import NEXT
from rnp_jax.pipeline.detecting import DetectionOptions
from rnp_jax.pipeline.detection_document import describe_detection
from rnp_jax.pipeline.examination import Judged, ScoredSet
from rnp_jax.report.detection_page import render_detection
from rnp_jax.types import Batch

OPTIONS = DetectionOptions(seed=5)
RULING = Ruling("undecided", 0.82, 4, 0.7, "")
SIGN = Sign("labels", "none", (4,), "nothing much", "Because.")


def describe(examination, findings, sign=SIGN, scored=None, calibration=None, doubt=None):
    judged = [Judged("labels", RULING, calibration)]
    verdict = grade_signs([sign], examination.test.class_names)
    return describe_detection(examination, OPTIONS, findings, {}, judged, verdict, doubt, scored)


@pytest.mark.parametrize(
    ("strength", "grade", "headline", "level"),
    [
        ("strong", "likely backdoored", "Likely backdoored, label 4: nothing much (in-sample)", "bad"),
        ("weak", "suspicious", "Suspicious, label 4: nothing much (in-sample)", "warning"),
        ("clears", "likely clean", "Likely clean: nothing much (in-sample)", "ok"),
        ("none", "no evidence", "No evidence of a backdoor (no proof", "unknown"),
    ],
)
def test_the_headline_is_the_verdict_s(examination, findings, strength, grade, headline, level):
    detection = describe(examination, findings, replace(SIGN, strength=strength, own=True))
    assert detection.verdict.headline.startswith(headline)
    assert (detection.verdict.level, detection.outcome) == (level, grade)
    assert detection.label == (4 if strength in ("strong", "weak") else None)
    first, second = detection.warnings
    assert (first, "is in-sample" in second) == ("Mind this.", True)
    assert (detection.config, detection.seed) == ({"checkpoint": "a.pt"}, 5)
    (sign,) = detection.signs
    assert (sign.look, sign.strength, sign.labels, sign.own) == ("labels", strength, (4,), True)
    page = render_detection(detection, {})
    assert headline in page
    assert "Because." in page
    assert BLIND["labels"] in page


def test_an_all_to_all_sign_names_no_label(examination, findings):
    detection = describe(examination, findings, Sign("search", "strong", (NEXT,), "a small mask", "Because."))
    assert (detection.signs[0].labels, detection.signs[0].all_to_all) == ((), True)
    assert detection.label is None
    assert "all to all" in render_detection(detection, {})


def test_the_calibration_is_told_with_its_figures(examination, findings):
    calibration = find_bundled(examination.model.network.architecture)
    assert calibration is not None
    detection = describe(examination, findings, calibration=calibration)
    held_out = calibration.held_out
    assert f"AUROC {held_out.auroc:.2f}" in detection.statistics[0].calibration
    assert f"{held_out.detected.count} of {held_out.detected.total} backdoored" in detection.statistics[0].calibration


def test_no_bundled_calibration_is_of_other_models(examination):
    architecture = examination.model.network.architecture
    assert find_bundled(replace(architecture, width=9)) is None
    assert find_bundled(replace(architecture, num_classes=7)) is None


def test_samples_without_a_truth_are_listed_and_not_judged(examination, findings):
    data = Batch(np.zeros((40, 32, 32, 3), np.uint8), np.zeros(40, np.int32))
    scores = np.arange(40.0)
    detection = describe(examination, findings, scored=ScoredSet("mine", data, None, {"loss": scores}))
    (part,) = detection.samples
    assert (part.suspicious, part.threshold, part.truth) == ((39, 38), 38.0, None)
