"""What `detect` found, as the report's document."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rnp_jax.detection.labels import LabelFindings
from rnp_jax.detection.samples import SAMPLE_SCORES, judge_scores
from rnp_jax.detection.stamps import overlap
from rnp_jax.detection.suspicion import SuspicionRule, find_suspicious
from rnp_jax.detection.verdict import BLIND, TITLES, Grade, GradedVerdict, Sign
from rnp_jax.inversion import NEXT
from rnp_jax.pipeline.copies import warn_of_copies
from rnp_jax.pipeline.describing_inputs import describe_checkpoint, describe_command, describe_data
from rnp_jax.pipeline.doubts import Doubt
from rnp_jax.pipeline.examination import Examination, Judged, ScoredSet, TriggerSearch
from rnp_jax.pipeline.few_images import warn_of_classes
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
    triggers, known = recovered.triggers, case.find_changed()
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
