"""Judge: a defended checkpoint as the result document."""

from collections.abc import Mapping

import numpy as np

from rnp_jax import masks
from rnp_jax.defenses import Defended
from rnp_jax.detection.evidence import Finding
from rnp_jax.extractors import open_extractor
from rnp_jax.pipeline.case import Case
from rnp_jax.pipeline.copies import warn_of_replaced
from rnp_jax.pipeline.describing_inputs import describe_checkpoint, describe_command, describe_data, describe_features
from rnp_jax.pipeline.doubts import find_doubt, warn_of_known
from rnp_jax.pipeline.evidence import describe_evidence
from rnp_jax.pipeline.few_images import warn_of_classes, warn_of_few
from rnp_jax.pipeline.judging import COSTLY, hold_in_doubt, judge
from rnp_jax.pipeline.measuring import Outcome
from rnp_jax.pipeline.pruning_curves import ORACLE_BUDGET, find_oracle
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.truth import rate_images
from rnp_jax.report import schema


def describe_run(
    request: Request,
    case: Case,
    outcome: Outcome,
    curves: tuple[schema.Sweep, ...],
    finding: Finding | None,
    dropped: tuple[str, ...],
    timing: Mapping[str, float],
) -> schema.Result:
    """Judge: everything that result.json and the report say.

    Args:
      request: what was asked.
      case: what the method was given.
      outcome: what it did, and the figures before and after.
      curves: the pruning curves.
      finding: evidence without the trigger, where it was gathered.
      dropped: where in the source file objects were that the written file does not have.
      timing: seconds by stage.
    """
    model, defended = case.model, outcome.defended
    before, after = outcome.before.metrics, outcome.after.metrics
    clean, held = case.clean_images
    method, classes = request.method, _classes(case, outcome)
    done, detail = _tell_done(case, request, defended)
    doubt = find_doubt(model, outcome.before)
    verdict = judge(
        before,
        after,
        model.network.architecture.num_classes,
        done,
        detail=detail,
        finding=finding,
        inverts=method.inverts and _changed(request, defended),
    )
    return schema.Result(
        **describe_command(model, case.trigger, request.options.seed),
        checkpoint=describe_checkpoint(
            model, dropped, defended if case.anew else None, "dropped" if case.anew else "replaced"
        ),
        data=describe_data(model, case.test, clean, held, len(case.test)),
        method=method.name,
        kind=defended.kind,
        config=request.plain(),
        before=before,
        after=after,
        features=None if model.extractor is None or case.anew else describe_features(model.extractor),
        choice=defended.choice,
        oracle=find_oracle(curves, ORACLE_BUDGET),
        sweeps=curves,
        phases=_phases(defended),
        pruned_filters=_pruned(defended),
        covariates=rate_images(defended, case.poisoned),
        timing=tuple(schema.Stage(stage=name, seconds=seconds) for name, seconds in timing.items()),
        classes=classes,
        evidence=describe_evidence(finding, case.test.class_names),
        warnings=(
            *(() if doubt is None else (doubt.sentence,)),
            *warn_of_known(model, outcome.before),
            *_warn_of_source(case),
            *_cautions(request),
            *warn_of_few(case, request),
            *defended.warnings,
            *_warn_of_classes(classes),
        ),
        verdict=hold_in_doubt(verdict, doubt),
    )


def _phases(defended: Defended) -> tuple[schema.Phase, ...]:
    return tuple(
        schema.Phase(
            name=name,
            series={
                series: tuple(float(value) for value in values) for series, values in rows.items() if values.ndim == 1
            },
            stopped=defended.stops.get(name, f"ran all {len(rows['loss'])} epochs"),
        )
        for name, rows in defended.history.items()
    )


def _pruned(defended: Defended) -> tuple[schema.PrunedFilter, ...]:
    if not defended.prunes:
        return ()
    places = masks.index(defended.values)
    candidates, count = defended.candidates, defended.choice.pruned
    return tuple(
        schema.PrunedFilter(
            layer=places[position][0],
            index=places[position][1],
            damage=None if np.isnan(candidates.damage[i]) else float(candidates.damage[i]),
            **{defended.kind: float(candidates.values[i])},
        )
        for i, position in enumerate(candidates.order[:count])
    )


def _tell_anew(case: Case, defended: Defended) -> str:
    """What a method that trains a new network did."""
    units = sum(len(values) for values in defended.values.values())
    pruned = f" {defended.choice.pruned} of its {units} hidden units were pruned." if defended.prunes else ""
    told = _tell_told(defended)
    return (
        f"A new network was trained on the {len(case.data.labels):,} untrusted images.{pruned}{told} It used no "
        "clean images, no knowledge of the trigger and none of the checkpoint's own weights."
    )


def _tell_told(defended: Defended) -> str:
    """Which of the untrusted images a method trusted, and which it held to be poisoned."""
    kept = f" In the end, it trusted the labels of {len(defended.kept[-1]):,} images." if defended.kept else ""
    return kept + (f" It held {len(defended.isolated):,} to be poisoned." if len(defended.isolated) else "")


def _warn_of_source(case: Case) -> tuple[str, ...]:
    """What is wrong with the way in which the model was opened, and with its file."""
    return (*case.warnings, *warn_of_replaced(case), *warn_of_classes(case.test))


def _cautions(request: Request) -> tuple[str, ...]:
    """What weakens the conclusion where training started from weights that are given."""
    start = request.options.untrusted.start if request.method.anew else None
    caution = None if start is None else open_extractor(start).caution
    return () if caution is None else (f"{caution}.",)


def _tell_done(case: Case, request: Request, defended: Defended) -> tuple[str, str]:
    """What was done, in short and as a sentence."""
    if not _changed(request, defended):
        return "Nothing was changed", "Nothing was changed."
    if case.anew:
        return "A new network was trained", _tell_anew(case, defended)
    if defended.kind == "bounds":
        return "Activations were bounded", "All activations got upper bounds, without knowledge of the trigger."
    if not defended.prunes:
        on = f" on {len(case.data.labels):,} untrusted images" if case.untrusted else ""
        told = f"All weights were tuned{on}, without knowledge of the trigger."
        return "All weights were tuned", told + _tell_told(defended) * case.untrusted
    sees = request.method.needs == "trigger"
    how = "with knowledge of the trigger, which no defender has" if sees else "without knowledge of the trigger"
    count = defended.choice.pruned
    return f"{count} filters pruned", f"{count} filters were pruned, chosen {how}."


def _changed(request: Request, defended: Defended) -> bool:
    """Whether the method changed anything: it chose filters, or trained."""
    trained = defended.prunes or bool(defended.history)
    return request.method.changes != "nothing" and trained and not defended.unchanged


def _classes(case: Case, outcome: Outcome) -> tuple[schema.ClassAccuracy, ...]:
    """Accuracy by class, before and after."""
    pairs = zip(outcome.before.by_class, outcome.after.by_class, strict=True)
    return tuple(
        schema.ClassAccuracy(
            label=label,
            name=str(case.test.class_names[label]),
            before=before,
            after=after,
        )
        for label, (before, after) in enumerate(pairs)
    )


def _warn_of_classes(classes: tuple[schema.ClassAccuracy, ...]) -> tuple[str, ...]:
    """The classes that lost more than a verdict lets pass in the mean."""
    return tuple(
        f"Accuracy on class {each.label} ({each.name}) fell from {each.before.value:.1%} to {each.after.value:.1%}."
        for each in classes
        if each.before is not None and each.after is not None and each.before.value - each.after.value > 2 * COSTLY
    )
