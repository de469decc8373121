"""Training a backdoored model, the input of every judgement of a defense."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
from jaxtyping import Bool

from rnp_jax.attacks.base import Attack, Params
from rnp_jax.attacks.goal import Goal
from rnp_jax.attacks.poison import PoisonPlan, draw_plan, poison_training_set
from rnp_jax.attacks.wanet import WaNet
from rnp_jax.models import Network
from rnp_jax.training.epoch import Augment
from rnp_jax.training.supervised import TrainConfig, TrainState, start, train
from rnp_jax.types import Batch, Variables


@dataclass(frozen=True)
class PoisonConfig:
    """How much of the training set is poisoned, and who counts.

    Attributes:
      rate: poison rate, the share of the training set; what it counts is ``variant``'s convention.
      variant: ``bb`` (BackdoorBench) or ``rnp`` (the release); they differ for clean-label attacks.
    """

    rate: float = 0.1
    variant: Literal["bb", "rnp"] = "bb"


@dataclass(frozen=True, eq=False)
class Backdoored:
    """A trained model and what is needed to trigger and to reproduce it.

    Attributes:
      variables: the trained network's.
      params: the trigger artefact; empty for a clean model.
      plan: which images were poisoned; None for a clean model and where every batch is poisoned in the training step.
      history: loss and accuracy [E] in training mode.
    """

    variables: Variables
    params: Params
    plan: PoisonPlan | None
    history: dict[str, np.ndarray]


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


@dataclass(frozen=True)
class _JointPoison:
    """WaNet's protocol as a hashable function of a batch: each batch is poisoned inside the step."""

    attack: WaNet
    goal: Goal
    rate: float

    def __call__(self, images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        height, width, channels = images.shape[1:]
        params = self.attack.init((height, width, channels))
        return self.attack.batch_poison(params, images, labels, key, goal=self.goal, rate=self.rate)


def train_backdoored(
    network: Network,
    attack: Attack | None,
    goal: Goal,
    data: Batch,
    seed: int,
    config: TrainConfig,
    poison: PoisonConfig,
    *,
    augment: Augment | None = None,
    read: Callable[[np.ndarray], np.ndarray] | None = None,
    progress: Callable[[int, dict[str, float]], None] | None = None,
    state: TrainState | None = None,
    save: Callable[[TrainState], None] | None = None,
) -> Backdoored:
    """Trains ``network`` from scratch on ``data`` poisoned by ``attack`` (None: clean).

    Static attacks poison the set once, before augmentation; WaNet poisons every batch, as its authors do. With
    ``read``, which turns the images into what ``network`` reads (features of a frozen extractor), every attack poisons
    once, WaNet with as many noise images as its ratio asks for.

    Raises:
      ConfigError, DataError: rates, targets and labels that do not fit.
    """
    init_key, _, train_key = _keys(seed)
    variables, joint = network.init(init_key), None
    if isinstance(attack, WaNet) and read is None:
        joint = _JointPoison(attack, goal, poison.rate)
        made = TrainingSet(data, attack.init(_image_shape(data)), None)
    else:
        made = poison_once(attack, goal, data, seed, poison)
    data = made.data
    if read is not None:
        data = Batch(read(data.images), data.labels)
    trained, history = train(
        network,
        variables,
        data,
        train_key,
        config,
        augment=augment,
        poison=joint,
        progress=progress,
        state=state,
        save=save,
    )
    return Backdoored(trained, made.params, made.plan, history)


def poison_once(attack: Attack | None, goal: Goal, data: Batch, seed: int, poison: PoisonConfig) -> TrainingSet:
    """The set with its triggers on before any training: the one that ``train_backdoored`` with this seed trains on.

    WaNet gets as many noise images as its ratio asks for.

    Raises:
      ConfigError, DataError: rates, targets and labels that do not fit.
    """
    if attack is None:
        return TrainingSet(data, {}, None)
    params = attack.init(_image_shape(data))
    plan = draw_plan(
        data.labels,
        goal,
        rate=poison.rate,
        seed=seed,
        clean_label=attack.clean_label,
        variant=poison.variant,
        cover_rate=attack.noise_ratio * poison.rate if isinstance(attack, WaNet) else 0.0,
    )
    _, key, _ = _keys(seed)
    return TrainingSet(poison_training_set(data.images, data.labels, plan, attack, params, key), params, plan)


def _image_shape(data: Batch) -> tuple[int, int, int]:
    height, width, channels = data.images.shape[1:]
    return height, width, channels


def start_state(network: Network, seed: int, config: TrainConfig, count: int) -> TrainState:
    """The state before the first epoch of ``train_backdoored`` with this seed on ``count`` images."""
    init_key, _, train_key = _keys(seed)
    return start(network.init(init_key), train_key, config, count)


def _keys(seed: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of the initial weights, the poisoning and the training."""
    init_key, poison_key, train_key = jax.random.split(jax.random.key(seed), 3)
    return init_key, poison_key, train_key
