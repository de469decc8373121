"""The training set of a backdoored model: poisoned now, or made again from the card of a model that it trained."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from rnp_jax.attacks import Attack, Goal, describe, load_artefact
from rnp_jax.attacks.poison import PoisonPlan
from rnp_jax.card import TRIGGER_SUFFIX, AttackCard, Card, beside
from rnp_jax.checkpoints import Model
from rnp_jax.data import Dataset
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.evaluation.acceptance import expect_asr, find_weakness
from rnp_jax.evaluation.metrics import Metrics
from rnp_jax.pipeline.trigger import Trigger, make_attack
from rnp_jax.training.backdoor import PoisonConfig, TrainingSet, poison_once


def open_attack(name: str, constants: Mapping[str, Any]) -> Attack | None:
    """The attack by name; None for ``none``.

    Raises:
      ConfigError: as ``make_attack``, or constants of no attack.
    """
    if name != "none":
        return make_attack(name, constants)
    if constants:
        raise ConfigError(f"--constants {' '.join(constants)}: attack none has no constants")
    return None


def remake(card: Card | None, checkpoint: str | PathLike[str], data: Dataset) -> TrainingSet:
    """The set that trained a checkpoint, from the clean one.

    Raises:
      DataError: there is no card, its model was poisoned batch by batch, or other images than here were poisoned.
    """
    other = "give the training set itself with --untrusted.data (with --untrusted in detect)"
    if card is None:
        raise DataError(f"{checkpoint} has no card to rebuild its training set from: {other}")
    if card.attack is None:
        return poison_once(None, Goal(num_classes=data.num_classes), data.batch, card.seed, PoisonConfig())
    if card.attack.indices_sha256 is None or card.attack.rate is None:
        raise DataError(
            f"{checkpoint} was trained with {card.attack.name}, which poisoned each batch in the training step, so "
            f"there is no training set to rebuild: {other}"
        )
    goal = Goal(num_classes=data.num_classes, target=card.attack.target or 0, mapping=card.attack.mapping)
    attack = make_attack(card.attack.name, card.attack.constants)
    params = None
    if attack.learns():
        params = load_artefact(beside(checkpoint, TRIGGER_SUFFIX), attack, data.image_shape)
    poison = PoisonConfig(card.attack.rate, card.attack.variant, card.attack.appended)
    made = poison_once(attack, goal, data.batch, card.seed, poison, params=params)
    found = None if made.plan is None else made.plan.indices_sha256
    if found != card.attack.indices_sha256:
        raise DataError(
            f"{checkpoint} was trained on {card.train_images} images of {card.data}, and its poisoned images have the "
            f"sha256 {card.attack.indices_sha256}; those of the {len(data)} images of {data.name} would have the "
            f"sha256 {found}: name the same data with --data, or {other}"
        )
    return made


def describe_attack(
    attack: Attack, goal: Goal, poison: PoisonConfig, plan: PoisonPlan | None, metrics: Metrics | None = None
) -> AttackCard:
    """The card's part on the backdoor; without a plan every batch was poisoned in the training step."""
    return AttackCard(
        **describe(attack),
        target=goal.one_target,
        mapping=goal.mapping,
        rate=poison.rate if attack.takes_rate else None,
        variant=poison.variant,
        appended=poison.append or attack.appends,
        poisoned=None if plan is None else len(plan.indices),
        indices_sha256=None if plan is None else plan.indices_sha256,
        cover=None if plan is None else len(plan.cover),
        expected_asr=expect_asr(attack, goal, metrics),
        weak=None if metrics is None else find_weakness(attack, goal, metrics) is not None,
    )


def name_attack(model: Model, trigger: Trigger | None) -> str:
    """What tables call the attack: its name, and whether the card says that it hardly took."""
    if trigger is None:
        return "none"
    name = describe(trigger.attack)["name"]
    carded = model.card is not None and model.card.attack is not None and model.card.attack.name == name
    return f"{name} (weak)" if carded and model.card.attack.weak else name  # pyright: ignore[reportOptionalMemberAccess]
