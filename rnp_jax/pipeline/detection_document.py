"""What `detect` found, as the report's document and figures."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from rnp_jax.data import Dataset
from rnp_jax.detection.calibration import Calibration, Statistic
from rnp_jax.detection.labels import LabelFindings
from rnp_jax.detection.ruling import Ruling
from rnp_jax.detection.samples import SAMPLE_SCORES, judge_scores
from rnp_jax.detection.stamps import changed_pixels, overlap
from rnp_jax.detection.suspicion import SuspicionRule, find_suspicious
from rnp_jax.detection.triggers import RecoveredTriggers
from rnp_jax.detection.verdict import BLIND, TITLES, Grade, GradedVerdict, Sign
from rnp_jax.inversion import NEXT
from rnp_jax.inversion.mask_search import TriggerConfig
from rnp_jax.pipeline.copies import warn_of_copies
from rnp_jax.pipeline.describing_inputs import describe_checkpoint, describe_command, describe_data
from rnp_jax.pipeline.doubts import Doubt
from rnp_jax.pipeline.few_images import warn_of_classes
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.suspect import Suspect
from rnp_jax.pipeline.trigger import Trigger
from rnp_jax.report import schema
from rnp_jax.report.detection import (
    Detection,
    LabelShare,
    RecoveredLabel,
    SamplePart,
    SampleTruth,
    SignPart,
    StatisticPart,
    TriggerPart,
)
from rnp_jax.report.detection_plots import KnownScore, plot_calibration
from rnp_jax.report.drawing import Figure
from rnp_jax.report.sample_plots import ScoredSamples, plot_roc, plot_sample_scores, plot_suspicious
from rnp_jax.report.share_plots import plot_shares
from rnp_jax.report.trigger_plots import KnownTrigger, TriggerMaps, plot_norms, plot_triggers
from rnp_jax.types import Batch

LEVELS: dict[Grade, Literal["ok", "warning", "bad", "unknown"]] = {
    "likely backdoored": "bad",
    "suspicious": "warning",
    "no evidence": "unknown",
    "likely clean": "ok",
}


_IN_SAMPLE = (
    "This model took part in a calibration that it is held against: the outcome of that score is in-sample, and says "
    "nothing about how well the score does on new models."
)


class Examination(NamedTuple):
    """What is looked at, with what.

    Attributes:
      model: the suspicious model.
      clean: clean images.
      test: names the data and its classes; its images show a known trigger.
      trigger: the attack, where it is known.
      log: told what is done.
      config: the resolved options, for the record.
      data_dir: where prepared data sets are.
      cautions: what speaks against the way in which the model was opened.
    """

    model: Suspect
    clean: Batch
    test: Dataset
    trigger: Trigger | None
    log: RunLog
    config: Mapping[str, Any]
    data_dir: str | None = None
    cautions: tuple[str, ...] = ()


class Judged(NamedTuple):
    """The ruling on a statistic, and the calibration that it was held against."""

    statistic: Statistic
    ruling: Ruling
    calibration: Calibration | None


class TriggerSearch(NamedTuple):
    """Triggers recovered from one model, and the share of images that each sends to its label on the original [K]."""

    triggers: RecoveredTriggers
    on_original: Float[np.ndarray, "K"]


class ScoredSet(NamedTuple):
    """An untrusted set, its truth where that is known, and its samples' scores by name [N]."""

    name: str
    data: Batch
    poisoned: Bool[np.ndarray, "N"] | None
    scores: dict[str, np.ndarray]


def describe_detection(
    case: Examination,
    options: Any,
    found: LabelFindings,
    recovered: Mapping[str, TriggerSearch],
    judged: Sequence[Judged],
    verdict: GradedVerdict,
    doubt: Doubt | None,
    scored: ScoredSet | None,
) -> Detection:
    """Everything that detection.json and the report say."""
    model, test = case.model, case.test
    warnings = (
        *(() if doubt is None else (doubt.sentence,)),
        *case.cautions,
        *warn_of_classes(test),
        *warn_of_copies(model.copies, model.state_dict, replaced=False),
        *found.warnings,
        *(_IN_SAMPLE for _ in range(any(each.own for each in verdict.signs))),
        *(
            f"Triggers of the {name} model: {text}"
            for name, each in recovered.items()
            for text in each.triggers.warnings
        ),
    )
    return Detection(
        **describe_command(model, case.trigger, options.seed),
        checkpoint=describe_checkpoint(model),
        data=describe_data(model, test, len(case.clean.labels), 0, 0),
        config=dict(case.config),
        timing=tuple(schema.Stage(stage=name, seconds=value) for name, value in case.log.timing.items()),
        warnings=warnings,
        verdict=_word(verdict, doubt),
        outcome=verdict.grade,
        label=verdict.label,
        signs=tuple(_describe_sign(each) for each in verdict.signs),
        statistics=tuple(_describe_statistic(each) for each in judged),
        shares=_describe_shares(case, found),
        triggers=tuple(_describe_triggers(case, name, each) for name, each in recovered.items()),
        samples=()
        if scored is None
        else tuple(_describe_samples(scored, name, options.suspicion) for name in scored.scores),
    )


def _word(verdict: GradedVerdict, doubt: Doubt | None) -> schema.Verdict:
    level = LEVELS[verdict.grade]
    if doubt is not None:
        level = "bad" if doubt.at_chance or level == "bad" else "warning"
    said = [each.sentence for each in verdict.signs if each.strength == verdict.signs[0].strength]
    if doubt is not None:
        said = [doubt.sentence] if doubt.at_chance else [*said, doubt.sentence]
    return schema.Verdict(headline=verdict.headline, detail=" ".join(said), level=level)


def _describe_sign(sign: Sign) -> SignPart:
    return SignPart(
        look=sign.look,
        title=TITLES[sign.look],
        strength=sign.strength,
        labels=tuple(label for label in sign.labels if label >= 0),
        all_to_all=NEXT in sign.labels,
        own=sign.own,
        sentence=sign.sentence,
        blind=BLIND[sign.look],
    )


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


def _describe_statistic(judged: Judged) -> StatisticPart:
    ruling, calibration = judged.ruling, judged.calibration
    if calibration is None:
        origin = "no calibration was made for such models"
    else:
        held_out = calibration.held_out
        origin = (
            f"{len(calibration.models)} models of {calibration.architecture} on {calibration.data}, half of them held "
            f"out: AUROC {held_out.auroc:.2f}, {held_out.detected.count} of {held_out.detected.total} backdoored ones "
            f"detected, {held_out.false_alarms.count} of {held_out.false_alarms.total} clean ones flagged wrongly"
        )
    return StatisticPart(
        statistic=judged.statistic,
        outcome=ruling.outcome,
        score=ruling.score,
        threshold=ruling.threshold,
        label=ruling.label,
        calibration=origin,
    )


def _describe_shares(case: Examination, found: LabelFindings) -> tuple[LabelShare, ...]:
    shares = next(iter(found.shares.values())).mean(0)
    return tuple(
        LabelShare(label=i, name=str(case.test.class_names[i]), share=min(1.0, float(share)))
        for i, share in enumerate(shares)
    )


def _describe_triggers(case: Examination, name: str, recovered: TriggerSearch) -> TriggerPart:
    triggers, known = recovered.triggers, _changed(case)
    target = None if case.trigger is None else case.trigger.goal.one_target
    rows = [
        RecoveredLabel(
            label=int(label),
            name=str(case.test.class_names[label]),
            norm=float(triggers.norms[i]),
            index=float(triggers.index[i]),
            reached=bool(triggers.reached[i]),
            success=float(triggers.success[i]),
            success_on_original=float(recovered.on_original[i]),
            overlap=overlap(triggers.masks[i], known) if known is not None and label == target else None,
        )
        for i, label in enumerate(triggers.labels)
    ]
    return TriggerPart(model=name, labels=tuple(rows), suspected=triggers.suspected)  # pyright: ignore[reportArgumentType]


def _describe_samples(scored: ScoredSet, name: str, rule: SuspicionRule) -> SamplePart:
    scores = scored.scores[name]
    suspects = find_suspicious(scores, rule)
    truth = None
    if scored.poisoned is not None and 0 < scored.poisoned.sum() < len(scores):
        judged = judge_scores(scores, scored.poisoned)
        low, high = judged.interval
        truth = SampleTruth(
            auroc=judged.auroc, low=low, high=high, tpr=judged.tpr, poisoned=judged.poisoned, clean=judged.clean
        )
    return SamplePart(
        score=name,
        title=SAMPLE_SCORES[name].title,
        data=scored.name,
        samples=len(scores),
        rule=suspects.rule,
        threshold=suspects.threshold,
        suspicious=tuple(suspects.indices.tolist()),
        truth=truth,
    )


def _maps(case: Examination, triggers: RecoveredTriggers, names: list[str]) -> TriggerMaps:
    known, changed = None, _changed(case)
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


def _changed(case: Examination) -> Bool[np.ndarray, "H W"] | None:
    """Where the known trigger, if there is one, changes an image."""
    if case.trigger is None:
        return None
    test = case.trigger.test
    return changed_pixels(case.test.images[test.indices], test.images)
