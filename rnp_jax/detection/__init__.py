"""Backdoor detection: a verdict on a model, its label, its trigger, poisoned samples; evidence after a defense."""

from rnp_jax.detection.calibration import (
    Calibration,
    ScoredModel,
    calibrate,
    find_bundled,
    read_calibration,
    write_calibration,
)
from rnp_jax.detection.evidence import EvidenceConfig, Finding, LabelEvidence
from rnp_jax.detection.evidence_search import Earlier, gather_evidence, search_after, search_before
from rnp_jax.detection.labels import LabelConfig, LabelFindings, detect_label
from rnp_jax.detection.ruling import Ruling, rule_on
from rnp_jax.detection.samples import (
    SAMPLE_SCORES,
    SampleConfig,
    SampleJudgement,
    SampleScore,
    judge_scores,
    score_samples,
)
from rnp_jax.detection.signs import SignConfig, judge_triggers, look_at_shift, look_for_triggers
from rnp_jax.detection.stamps import changed_pixels, overlap
from rnp_jax.detection.suspicion import Suspects, SuspicionRule, find_suspicious
from rnp_jax.detection.triggers import QUICK, RecoveredTriggers, TriggerConfig, recover_triggers
from rnp_jax.detection.verdict import Grade, GradedVerdict, Sign, grade_signs

__all__ = [
    "QUICK",
    "SAMPLE_SCORES",
    "Calibration",
    "Earlier",
    "EvidenceConfig",
    "Finding",
    "Grade",
    "GradedVerdict",
    "LabelConfig",
    "LabelEvidence",
    "LabelFindings",
    "RecoveredTriggers",
    "Ruling",
    "SampleConfig",
    "SampleJudgement",
    "SampleScore",
    "ScoredModel",
    "Sign",
    "SignConfig",
    "Suspects",
    "SuspicionRule",
    "TriggerConfig",
    "calibrate",
    "changed_pixels",
    "detect_label",
    "find_bundled",
    "find_suspicious",
    "gather_evidence",
    "grade_signs",
    "judge_scores",
    "judge_triggers",
    "look_at_shift",
    "look_for_triggers",
    "overlap",
    "read_calibration",
    "recover_triggers",
    "rule_on",
    "score_samples",
    "search_after",
    "search_before",
    "write_calibration",
]
