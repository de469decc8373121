"""A defended checkpoint as the result document."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from rnp_jax import masks
from rnp_jax.attacks import describe
from rnp_jax.checkpoints import Model
from rnp_jax.commands.inputs import Suspect, Trigger
from rnp_jax.commands.training_set import name_attack
from rnp_jax.commands.versions import device_name, package_versions
from rnp_jax.config import to_plain
from rnp_jax.data import Dataset
from rnp_jax.defenses import Pruned, RnpConfig
from rnp_jax.evaluation import metrics as evaluation
from rnp_jax.extractors import Extractor
from rnp_jax.models import count_parameters
from rnp_jax.report import schema
from rnp_jax.types import Batch

REMOVED = 0.1
"""ASR at or below which a backdoor is called removed: what chance gives on ten classes."""

ORACLE_BUDGET = 0.03
"""ACC that the oracle's operating point may cost."""

COSTLY = 0.05
"""ACC that may be lost before the verdict calls it a cost."""


def describe_run(
    options: Any,
    model: Suspect,
    data: Batch,
    holdout: Batch | None,
    test: Dataset,
    trigger: Trigger | None,
    defended: Pruned,
    before: evaluation.Metrics,
    after: evaluation.Metrics,
    sweeps: tuple[schema.Sweep, ...],
    dropped: tuple[str, ...],
    timing: Mapping[str, float],
    command: str | None,
) -> schema.Result:
    """Everything that result.json and the report say."""
    held = 0 if holdout is None else len(holdout.labels)
    return schema.Result(
        created=datetime.now(UTC),
        versions=schema.Versions(**package_versions()),
        device=device_name(),
        precision=model.network.precision,
        seed=options.seed,
        command=command,
        checkpoint=describe_checkpoint(model, dropped),
        data=schema.DataInfo(
            name=test.name.removesuffix(" (test)"),
            defense_images=len(data.labels) + held,
            holdout_images=held,
            test_images=len(test),
            mean=model.network.mean,
            std=model.network.std,
        ),
        attack=None if trigger is None else describe_trigger(model, trigger),
        method=options.method,
        kind=defended.kind,
        config=to_plain(options),
        before=_metrics(before),
        after=_metrics(after, evaluation.defense_effectiveness(before, after)),
        features=None if model.extractor is None else describe_features(model.extractor),
        choice=_choice(options, defended),
        oracle=find_oracle(sweeps, ORACLE_BUDGET),
        sweeps=sweeps,
        phases=_phases(options, defended),
        pruned_filters=_pruned(model, defended),
        timing=tuple(schema.Stage(stage=name, seconds=seconds) for name, seconds in timing.items()),
        warnings=defended.warnings,
        verdict=judge(before, after, None if defended.kind == "weights" else defended.choice.count),
    )


def as_proportion(value: evaluation.Proportion | None) -> schema.Proportion | None:
    """A share as the document has it; None where nothing was counted."""
    if value is None or value.total == 0:
        return None
    low, high = value.interval
    return schema.Proportion(value=value.value, low=low, high=high, count=value.count, total=value.total)


def find_oracle(sweeps: tuple[schema.Sweep, ...], budget: float) -> schema.Oracle | None:
    """The point of any sweep with the lowest ASR whose ACC is within the budget of the unpruned network's."""
    points = [(sweep.ranking, point) for sweep in sweeps for point in sweep.points if point.asr and point.acc]
    best_acc = max((point.acc.value for _, point in points if point.pruned == 0 and point.acc), default=None)
    if best_acc is None:
        return None
    allowed = [(ranking, point) for ranking, point in points if point.acc and point.acc.value >= best_acc - budget]
    ranking, point = min(allowed, key=lambda item: (item[1].asr.value, item[1].pruned))  # pyright: ignore
    figures = schema.Metrics(acc=point.acc, acc_without_target=point.acc_without_target, asr=point.asr, ra=point.ra)
    return schema.Oracle(ranking=ranking, threshold=point.threshold, pruned=point.pruned, metrics=figures)


def describe_checkpoint(model: Model, dropped: tuple[str, ...] = ()) -> schema.CheckpointInfo:
    """The file; ``dropped`` is what of it was not written again."""
    filters = masks.filters(model.variables["masks"])
    left_out = (f"not written to the cleaned file: {', '.join(dropped)}",) if dropped else ()
    return schema.CheckpointInfo(
        path=os.fspath(model.checkpoint.path),
        sha256=model.checkpoint.sha256,
        container=model.checkpoint.container,
        state_dict_key="/".join(map(str, model.state_dict.location)) or None,
        architecture=model.network.architecture.name,
        width=model.network.architecture.width or None,
        num_classes=model.network.architecture.num_classes,
        parameters=count_parameters(model.variables),
        filters=sum(len(value) for value in filters.values()),
        anomalies=(*model.checkpoint.anomalies, *left_out),
    )


def describe_trigger(model: Suspect, trigger: Trigger) -> schema.AttackInfo:
    """The attack that was tested."""
    described = describe(trigger.attack)
    return schema.AttackInfo(
        name=name_attack(model, trigger),
        target=trigger.goal.one_target,
        mapping=trigger.goal.mapping,
        triggered_images=len(trigger.test.labels),
        constants=described["constants"],
    )


def _metrics(metrics: evaluation.Metrics, der: float | None = None) -> schema.Metrics:
    return schema.Metrics(
        acc=as_proportion(metrics.acc),
        acc_without_target=as_proportion(metrics.acc_without_target),
        asr=as_proportion(metrics.asr),
        ra=as_proportion(metrics.ra),
        der=der,
    )


def rnp_config(options: Any) -> RnpConfig | None:
    """The settings of RNP, where the method is it or has it prune first."""
    own = getattr(options, options.method)
    if options.method == "rnp":
        return own
    begins = getattr(own, "start", None) == "rnp" or getattr(own, "teacher", None) == "pruned"
    return own.rnp if begins else None


def ranking_of(options: Any) -> str:
    """What the order of pruning is called."""
    found = rnp_config(options)
    return options.method if found is None else found.prune.ranking


def _choice(options: Any, defended: Pruned) -> schema.Choice:
    found = None if defended.kind == "weights" else rnp_config(options)
    own = None if found is None else found.prune
    before = as_proportion(defended.choice.before)
    budget = getattr(own or getattr(getattr(options, options.method), "prune", None), "accuracy_budget", None)
    return schema.Choice(
        rule=defended.choice.rule,
        ranking=ranking_of(options),
        threshold=None if own is None else own.threshold,
        pruned=defended.choice.count,
        holdout_acc_before=before,
        holdout_acc_after=as_proportion(defended.choice.after),
        budget=None if before is None else budget,
    )


def describe_features(extractor: Extractor) -> schema.FeatureInfo:
    """The extractor of a head's features."""
    return schema.FeatureInfo(
        extractor=extractor.name,
        dim=extractor.dim,
        sha256=extractor.provenance.get("sha256"),  # pyright: ignore[reportArgumentType]
        provenance=", ".join(f"{key} {value}" for key, value in extractor.provenance.items() if key != "sha256"),
        caution=extractor.caution or "",
    )


def _phases(options: Any, defended: Pruned) -> tuple[schema.Phase, ...]:
    found = rnp_config(options)
    stop = None if found is None else found.unlearn.stop_accuracy

    def stopped(name: str, rows: Mapping[str, np.ndarray]) -> str:
        epochs = len(rows["loss"])
        if name != "unlearn" or stop is None:
            return f"ran its {epochs} epochs"
        verb = "reached" if rows["accuracy"][-1] <= stop else "did not reach"
        return f"{verb} the stop accuracy {stop:g} after {epochs} epochs"

    return tuple(
        schema.Phase(
            name=name,
            series={
                series: tuple(float(value) for value in values) for series, values in rows.items() if values.ndim == 1
            },
            stopped=stopped(name, rows),
        )
        for name, rows in defended.history.items()
    )


def _pruned(model: Model, defended: Pruned) -> tuple[schema.PrunedFilter, ...]:
    places = masks.index(masks.filters(model.variables["masks"]))
    candidates, count = defended.candidates, defended.choice.count
    return tuple(
        schema.PrunedFilter(
            layer=places[position][0],
            index=places[position][1],
            damage=None if np.isnan(candidates.damage[i]) else float(candidates.damage[i]),
            **{defended.kind: float(candidates.values[i])},
        )
        for i, position in enumerate(candidates.order[:count])
    )


def judge(before: evaluation.Metrics, after: evaluation.Metrics, pruned: int | None) -> schema.Verdict:
    """What the figures before and after pruning so many filters amount to; None: all weights were tuned."""
    done = "All weights were tuned" if pruned is None else f"{pruned} filters pruned"
    lost = before.acc.value - after.acc.value
    cost = f"ACC {before.acc.value:.1%} → {after.acc.value:.1%}"
    if before.asr is None or after.asr is None:
        return schema.Verdict(
            headline=f"{done}; {cost}",
            detail="The trigger is not known, so whether a backdoor was there, and is gone, cannot be measured.",
            level="unknown",
        )
    asr = f"ASR {before.asr.value:.1%} → {after.asr.value:.1%}"
    if before.asr.value <= REMOVED:
        return schema.Verdict(
            headline=f"This trigger did not work to begin with; {asr}, {cost}",
            detail="Nothing can be concluded about another trigger.",
            level="unknown",
        )
    if after.asr.value > REMOVED:
        level, headline = ("bad", "Backdoor not removed") if after.asr.value > 0.5 else ("warning", "Backdoor weakened")
    else:
        level, headline = ("ok", "Backdoor removed") if lost <= COSTLY else ("warning", "Backdoor removed, at a cost")
    return schema.Verdict(
        headline=f"{headline}: {asr}, {cost}",
        detail=f"{done}, without knowledge of the trigger."
        if pruned is None
        else f"{pruned} filters were pruned, chosen without knowledge of the trigger.",
        level=level,  # pyright: ignore[reportArgumentType]
    )
