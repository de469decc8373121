"""What ``hid`` made of an untrusted training set, as checkpoints and as the result document."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from rnp_jax import masks
from rnp_jax.card import CARD_SUFFIX, TRIGGER_SUFFIX, AttackCard, beside, write_card
from rnp_jax.checkpoints import save_variables
from rnp_jax.commands.cards import describe_model
from rnp_jax.commands.finish import command_line
from rnp_jax.commands.inputs import Suspect, Trigger
from rnp_jax.commands.result import describe_run
from rnp_jax.config import to_plain
from rnp_jax.data import Dataset
from rnp_jax.defenses import Pruned
from rnp_jax.defenses.hid import Purified
from rnp_jax.defenses.result import Candidates
from rnp_jax.evaluation.measure import Measured, measure_variants
from rnp_jax.evaluation.metrics import Metrics
from rnp_jax.extractors import Extractor, open_extractor
from rnp_jax.models import Network
from rnp_jax.report.schema import PrunedFilter, Result
from rnp_jax.training.extended import fit_probe
from rnp_jax.types import Batch

if TYPE_CHECKING:
    from rnp_jax.commands.defend import DefendOptions

EXTRACTOR, CLEANED = "extractor.pt", "cleaned.pt"
"""The files of the new network: one on the features of the other."""


def write_extractor(
    out: Path,
    options: "DefendOptions",
    model: Suspect,
    network: Network,
    done: Purified,
    data: Batch,
    test: Dataset,
    trigger: Trigger | None,
) -> Extractor:
    """Writes the extractor with a linear probe on the kept images as its last layer, and reads it back."""
    kept = done.rounds[-1].kept
    labelled = Batch(np.asarray(data.images)[kept], np.asarray(data.labels)[kept])
    settings = options.hid.config.head
    settings = replace(settings, batch_size=min(settings.batch_size, len(kept)))
    variables, _ = fit_probe(network, done.extractor, labelled, jax.random.key(options.seed), settings)
    triggered, target = (None, None) if trigger is None else (trigger.test, trigger.goal.one_target)
    own = [masks.filters(variables["masks"])]
    (measured,) = measure_variants(network, variables, own, test.batch, triggered, target, options.compute.batch_size)
    save_variables(out / EXTRACTOR, network, variables, overwrite=True)
    _write_card(out / EXTRACTOR, options, model, network, None, len(data.labels), measured.metrics)
    return open_extractor(out / EXTRACTOR)


def write_head(out: Path, options: "DefendOptions", cleaned: Suspect, train_images: int, metrics: Metrics) -> None:
    """Writes the head, its card naming the extractor."""
    save_variables(out / CLEANED, cleaned.network, cleaned.variables, overwrite=True)
    _write_card(out / CLEANED, options, cleaned, cleaned.network, cleaned.extractor, train_images, metrics)


def _write_card(
    path: Path,
    options: "DefendOptions",
    model: Suspect,
    network: Network,
    extractor: Extractor | None,
    train_images: int,
    metrics: Metrics,
) -> None:
    """The card, and the trigger that ASR was measured with, so that another evaluation can repeat it."""
    card = describe_model(
        path,
        network,
        data=str(options.images.data or (model.card and model.card.data)),
        train_images=train_images,
        attack=_attack(options, model),
        extractor=extractor,
        training={"defense": options.method, **to_plain(options.hid)},
        augmentation=to_plain(options.augmentation),
        seed=options.seed,
        metrics=metrics,
    )
    stored = Path(options.trigger.artefact or beside(model.checkpoint.path, TRIGGER_SUFFIX))
    if card.attack is not None and stored.is_file():
        shutil.copyfile(stored, beside(path, TRIGGER_SUFFIX))
    write_card(beside(path, CARD_SUFFIX), card)


def _attack(options: "DefendOptions", model: Suspect) -> AttackCard | None:
    """What the checkpoint's card says of the training set."""
    return None if model.card is None or options.trigger.attack != "card" else model.card.attack


def as_pruned(done: Purified) -> Pruned:
    """The rounds as one pruning: the last one's scores, and all units pruned so far."""
    last, rounds = done.rounds[-1], len(done.rounds)
    rule = last.pruned.choice.rule + (f", in each of {rounds} rounds" if rounds > 1 else "")
    nothing = np.zeros(0)
    history = dict(done.history)
    for number, each in enumerate(done.rounds, 1):
        history["mixmatch" if rounds == 1 else f"mixmatch, round {number}"] = each.history
    return Pruned(
        done.head,
        last.pruned.values,
        "score",
        Candidates(nothing.astype(np.int64), nothing, nothing),
        replace(last.pruned.choice, count=last.count, rule=rule),
        history,
        done.timing,
        done.warnings,
    )


def describe_purified(
    options: "DefendOptions",
    model: Suspect,
    done: Purified,
    data: Batch,
    test: Dataset,
    trigger: Trigger | None,
    before: Measured,
    after: Measured,
    timing: Mapping[str, float],
) -> Result:
    """Everything that result.json and the report say of the checkpoint and of the new network."""
    pruned = as_pruned(done)
    none_clean = Batch(np.asarray(data.images)[:0], np.asarray(data.labels)[:0])
    result = describe_run(
        options,
        model,
        none_clean,
        None,
        test,
        trigger,
        pruned,
        before.metrics,
        after.metrics,
        (),
        (),
        timing,
        command_line(),
    )
    units = sum(len(values) for values in pruned.values.values())
    last = done.rounds[-1]
    detail = (
        f"A new network was trained on the {len(data.labels):,} untrusted images: {last.count} of its head's {units} "
        f"hidden units were pruned, and the labels of {len(last.kept):,} images were trusted in the end, without a "
        "clean image and without knowledge of the trigger. The checkpoint's own weights were not used."
    )
    return result.model_copy(
        update={
            "checkpoint": result.checkpoint.model_copy(update={"filters": units}),
            "features": None,  # describes a checkpoint that is a head on frozen features
            "pruned_filters": _pruned_units(done),
            "covariates": _covariates(done),
            "warnings": (*_cautions(options), *result.warnings),
            "verdict": result.verdict.model_copy(update={"detail": detail}),
        }
    )


def _cautions(options: "DefendOptions") -> tuple[str, ...]:
    """What weakens the conclusion where a pretrained extractor was started from."""
    caution = None if options.hid.extractor is None else open_extractor(options.hid.extractor).caution
    return () if caution is None else (f"{caution}.",)


def _pruned_units(done: Purified) -> tuple[PrunedFilter, ...]:
    """Each with its score in the round that pruned it."""
    found: dict[tuple[str, int], float] = {}
    for each in done.rounds:
        places, candidates = masks.index(each.pruned.values), each.pruned.candidates
        for i, position in enumerate(candidates.order[: each.pruned.choice.count]):
            found.setdefault(places[position], float(candidates.values[i]))
    return tuple(PrunedFilter(layer=layer, index=i, score=score) for (layer, i), score in found.items())


def _covariates(done: Purified) -> dict[str, float | None]:
    """How well the rounds told clean from poisoned images, where the truth is known."""
    rows: dict[str, float | None] = {}
    for number, each in enumerate(done.rounds, 1):
        if each.precision is not None:
            rows[f"Round {number}: share of clean images among those kept (for evaluation only)"] = each.precision
        if each.poison_kept is not None:
            rows[f"Round {number}: share of the poisoned images kept (for evaluation only)"] = each.poison_kept
    return rows
