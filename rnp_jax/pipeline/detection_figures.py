"""The figures of what `detect` found."""

from collections.abc import Mapping, Sequence

import numpy as np

from rnp_jax.detection.labels import LabelFindings
from rnp_jax.detection.samples import SAMPLE_SCORES
from rnp_jax.detection.suspicion import SuspicionRule, find_suspicious
from rnp_jax.detection.triggers import RecoveredTriggers
from rnp_jax.inversion.mask_search import TriggerConfig
from rnp_jax.pipeline.examination import Examination, Judged, ScoredSet, TriggerSearch
from rnp_jax.report.detection_plots import KnownScore, plot_calibration
from rnp_jax.report.drawing import Figure
from rnp_jax.report.sample_plots import ScoredSamples, plot_roc, plot_sample_scores, plot_suspicious
from rnp_jax.report.share_plots import plot_shares
from rnp_jax.report.trigger_plots import KnownTrigger, TriggerMaps, plot_norms, plot_triggers


def plot_detection(
    case: Examination,
    found: LabelFindings,
    judged: Sequence[Judged],
    recovered: Mapping[str, TriggerSearch],
    scored: ScoredSet | None,
    triggers: TriggerConfig,
    suspicion: SuspicionRule,
) -> dict[str, Figure]:
    """The figures, by the names of ``report.detection.FIGURES``."""
    names = [str(name) for name in case.test.class_names]
    figures = {"shares": plot_shares(found.shares, found.label, names)}
    for statistic, ruling, calibration in judged:
        if calibration is not None:
            known = [KnownScore(each.name, each.attack, each.score, each.role) for each in calibration.models]
            limits = calibration.threshold, calibration.clean_below
            figures[f"calibration_{statistic}"] = plot_calibration(known, *limits, mark=ruling.score)
    for name, each in recovered.items():
        maps = _maps(case, each.triggers, names)
        figures[f"triggers_{name}"] = plot_triggers(maps)
        figures[f"norms_{name}"] = plot_norms(maps, triggers.suspicious)
    if scored is not None:
        name, scores = next(iter(scored.scores.items()))
        threshold = find_suspicious(scores, suspicion).threshold
        stated = [names[label] for label in scored.data.labels]
        samples = ScoredSamples(
            scored.data.images, stated, scores, SAMPLE_SCORES[name].title, threshold, scored.poisoned
        )
        figures |= {"suspicious": plot_suspicious(samples), "sample_scores": plot_sample_scores(samples)}
        if scored.poisoned is not None and 0 < scored.poisoned.sum() < len(scores):
            figures["roc"] = plot_roc(samples)
    return figures


def _maps(case: Examination, triggers: RecoveredTriggers, names: list[str]) -> TriggerMaps:
    known, changed = None, case.find_changed()
    if case.trigger is not None and changed is not None:
        known = KnownTrigger(changed, case.trigger.test.images[0])
    return TriggerMaps(
        tuple(names[label] for label in triggers.labels),
        triggers.masks,
        triggers.patterns,
        triggers.norms,
        triggers.index,
        np.isin(triggers.labels, triggers.suspected),
        known,
    )
