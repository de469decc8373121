"""The training set of a backdoored model: poisoned now, or made again from the card of a model that it trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from rnp_jax.attacks import Attack, Goal, Params, describe, draw_plan, poison_training_set
from rnp_jax.attacks.poison import PoisonPlan
from rnp_jax.attacks.wanet import WaNet
from rnp_jax.card import AttackCard, Card
from rnp_jax.commands.inputs import make_attack
from rnp_jax.data import Dataset
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.training.backdoor import PoisonConfig
from rnp_jax.types import Batch


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Images and labels to train on, some of them poisoned.

    Attributes:
      data: uint8 [N, H, W, C] and int32 [N].
      params: the trigger's artefact; empty for a clean set.
      plan: which images are poisoned; None for a clean set.
    """

    data: Batch
    params: Params
    plan: PoisonPlan | None

    @property
    def poisoned(self) -> Bool[np.ndarray, "N"]:
        """Which images are poisoned: triggered, and labelled as the attacker wants."""
        marks = np.zeros(len(self.data.labels), bool)
        if self.plan is not None:
            marks[self.plan.indices] = True
        return marks


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


def poison_once(attack: Attack | None, goal: Goal, data: Dataset, seed: int, poison: PoisonConfig) -> TrainingSet:
    """The set with its triggers on before any training: the one that ``train_backdoored`` with this seed trains on.

    WaNet gets as many noise images as its ratio asks for.

    Raises:
      ConfigError, DataError: rates, targets and labels that do not fit.
    """
    if attack is None:
        return TrainingSet(data.batch, {}, None)
    _, poison_key, _ = jax.random.split(jax.random.key(seed), 3)
    params = attack.init(data.image_shape)
    plan = draw_plan(
        data.labels,
        goal,
        rate=poison.rate,
        seed=seed,
        clean_label=attack.clean_label,
        variant=poison.variant,
        cover_rate=attack.noise_ratio * poison.rate if isinstance(attack, WaNet) else 0.0,
    )
    return TrainingSet(poison_training_set(data.images, data.labels, plan, attack, params, poison_key), params, plan)


def remake(card: Card | None, checkpoint: str | PathLike[str], data: Dataset) -> TrainingSet:
    """The set that trained a checkpoint, from the clean one.

    Raises:
      DataError: there is no card, its model was poisoned batch by batch, or other images than here were poisoned.
    """
    other = "give the training set to purify with --hid.poisoned"
    if card is None:
        raise DataError(f"{checkpoint} has no card to make its training set again from: {other}")
    if card.attack is None:
        return poison_once(None, Goal(num_classes=data.num_classes), data, card.seed, PoisonConfig())
    if card.attack.indices_sha256 is None:
        raise DataError(
            f"{checkpoint} was trained with {card.attack.name}, which poisoned each batch in the training step, so "
            f"there is no training set to make again: {other}"
        )
    goal = Goal(num_classes=data.num_classes, target=card.attack.target or 0, mapping=card.attack.mapping)
    attack = make_attack(card.attack.name, card.attack.constants)
    made = poison_once(attack, goal, data, card.seed, PoisonConfig(card.attack.rate, card.attack.variant))
    found = None if made.plan is None else made.plan.indices_sha256
    if found != card.attack.indices_sha256:
        raise DataError(
            f"{checkpoint} was trained on {card.train_images} images of {card.data}, those poisoned with sha256 "
            f"{card.attack.indices_sha256}; of the {len(data)} images of {data.name} those with sha256 {found} would "
            f"be: name the same data with --data, or {other}"
        )
    return made


def describe_attack(attack: Attack, goal: Goal, poison: PoisonConfig, plan: PoisonPlan) -> AttackCard:
    """The card's part on a set that ``poison_once`` made."""
    return AttackCard(
        **describe(attack),
        target=goal.one_target,
        mapping=goal.mapping,
        rate=poison.rate,
        variant=poison.variant,
        poisoned=len(plan.indices),
        indices_sha256=plan.indices_sha256,
    )
