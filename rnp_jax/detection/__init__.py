"""Backdoor detection: a verdict on a model, its target label, its trigger, and poisoned samples."""

from rnp_jax.detection.calibration import (
    Calibration,
    ScoredModel,
    Verdict,
    calibrate,
    find_bundled,
    judge,
    read_calibration,
    write_calibration,
)
from rnp_jax.detection.labels import LabelConfig, LabelFindings, detect_label
from rnp_jax.detection.samples import (
    SAMPLE_SCORES,
    SampleConfig,
    SampleJudgement,
    SampleScore,
    judge_scores,
    score_samples,
)
from rnp_jax.detection.stamps import changed_pixels, measure_stamps, overlap
from rnp_jax.detection.suspicion import Suspects, SuspicionRule, find_suspicious
from rnp_jax.detection.triggers import QUICK, RecoveredTriggers, TriggerConfig, recover_triggers

__all__ = [
    "QUICK",
    "SAMPLE_SCORES",
    "Calibration",
    "LabelConfig",
    "LabelFindings",
    "RecoveredTriggers",
    "SampleConfig",
    "SampleJudgement",
    "SampleScore",
    "ScoredModel",
    "Suspects",
    "SuspicionRule",
    "TriggerConfig",
    "Verdict",
    "calibrate",
    "changed_pixels",
    "detect_label",
    "find_bundled",
    "find_suspicious",
    "judge",
    "judge_scores",
    "measure_stamps",
    "overlap",
    "read_calibration",
    "recover_triggers",
    "score_samples",
    "write_calibration",
]
