"""The figures of a detection: which there are for what was looked at."""

import numpy as np
import pytest

from rnp_jax.detection.calibration import find_bundled
from rnp_jax.detection.ruling import Ruling
from rnp_jax.detection.suspicion import SuspicionRule
from rnp_jax.detection.triggers import QUICK
from rnp_jax.pipeline.detection_figures import plot_detection
from rnp_jax.pipeline.examination import Judged, ScoredSet
from rnp_jax.types import Batch

RULING = Ruling("undecided", 0.82, 4, 0.7, "")


def test_a_statistic_with_a_calibration_has_a_figure(examination, findings):
    calibration = find_bundled(examination.model.network.architecture)
    assert calibration is not None
    judged = [Judged("labels", RULING, calibration)]
    figures = plot_detection(examination, findings, judged, {}, None, QUICK, SuspicionRule())
    assert set(figures) == {"shares", "calibration_labels"}
    without = [Judged("labels", RULING, None)]
    assert set(plot_detection(examination, findings, without, {}, None, QUICK, SuspicionRule())) == {"shares"}


@pytest.mark.parametrize(
    ("poisoned", "known"), [(None, False), (np.arange(40) > 30, True), (np.zeros(40, bool), False)]
)
def test_samples_have_a_curve_where_both_kinds_are_known(examination, findings, poisoned, known):
    data = Batch(np.zeros((40, 32, 32, 3), np.uint8), np.zeros(40, np.int32))
    scored = ScoredSet("mine", data, poisoned, {"loss": np.arange(40.0)})
    figures = plot_detection(examination, findings, [], {}, scored, QUICK, SuspicionRule())
    assert {"suspicious", "sample_scores"} <= set(figures)
    assert ("roc" in figures) == known
