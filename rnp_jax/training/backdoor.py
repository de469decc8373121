"""Training a backdoored model, the input of every judgement of a defense."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Bool

from rnp_jax.attacks.base import Attack, Params
from rnp_jax.attacks.goal import Goal
from rnp_jax.attacks.means import Means
from rnp_jax.attacks.poison import PoisonPlan, check_training_set, draw_plan, poison_batch, poison_training_set
from rnp_jax.errors import ConfigError
from rnp_jax.models import Network
from rnp_jax.training.adaptation import Adaptation, Course, train_adaptively
from rnp_jax.training.epoch import Augment, Marked
from rnp_jax.training.joint import Setting, train_jointly
from rnp_jax.training.supervised import TrainConfig, TrainState, start, train
from rnp_jax.training.trainers import find_trainer
from rnp_jax.types import Apply, Batch, Progress, Variables


@dataclass(frozen=True)
class PoisonConfig:
    """How much of the training set is poisoned, and how that is counted.

    Attributes:
      rate: poison rate: share of the training set that is poisoned, counted as ``variant`` says.
      variant: how the rate is counted: ``bb`` (BackdoorBench) or ``rnp`` (the release); they differ for clean-label
        attacks.
      append: add poisoned images to the training set instead of replacing their originals; not for attacks that poison
        batches or train with their victim.
    """

    rate: float = 0.1
    variant: Literal["bb", "rnp"] = "bb"
    append: bool = False


@dataclass(frozen=True, eq=False)
class Backdoored:
    """A trained model and what is needed to trigger and to reproduce it.

    Attributes:
      variables: the trained network's.
      params: the trigger artefact; empty for a clean model.
      plan: which images were poisoned; None for a clean model and where every batch is poisoned in the training step.
      history: loss and accuracy [E] in training mode; an attack that trains with its victim has figures of its own.
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
            at = self.plan.size + np.arange(len(self.plan.indices)) if self.plan.appended else self.plan.indices
            marks[at] = True
        return marks


@dataclass(frozen=True)
class _InStep:
    """Poisons each batch inside the step: a hashable function of the batch."""

    attack: Attack
    goal: Goal
    rate: float

    def __call__(self, images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        height, width, channels = images.shape[1:]
        params = self.attack.init((height, width, channels))
        return poison_batch(self.attack, params, images, labels, key, goal=self.goal, rate=self.rate)


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
    adapt: Adaptation | None = None,
    progress: Progress | None = None,
    state: TrainState | None = None,
    save: Callable[[TrainState], None] | None = None,
) -> Backdoored:
    """Trains ``network`` from scratch on ``data`` poisoned by ``attack`` (None: clean).

    Static attacks poison the set once, before augmentation; those of ``Attack.in_step`` poison every batch, and those
    that have a joint trainer train with the victim, as their authors do. What an attack learns beforehand it learns
    from ``data`` and from models of the same architecture trained on it. With ``read``, which turns the images into
    what ``network`` reads (features of a frozen extractor), every attack poisons once. ``adapt`` changes how the victim
    is trained on that. ``progress`` is told of epochs of ``train``, of each ``surrogate``, and of what the attack
    itself names.

    Raises:
      ConfigError, DataError: rates, targets and labels that do not fit; images to append where batches are poisoned;
        with ``read``, an attack that needs a network of images; with ``adapt``, one that trains with its victim.
    """
    init_key, poison_key, train_key = _keys(seed)
    joint, in_step = find_trainer(attack), None
    if attack is not None:
        _check_way(attack, poison, on_features=read is not None)
        in_step = _InStep(attack, goal, poison.rate) if attack.in_step and read is None else None
    if joint is not None and attack is not None:
        if adapt is not None:
            raise ConfigError(f"{type(attack).__name__} trains its victim in its own way; remove --adaptive.method")
        setting = Setting(network, attack, goal, config, poison.rate, augment)
        variables, params, history = train_jointly(
            joint, setting, data, train_key, progress=progress, state=state, save=save
        )
        return Backdoored(variables, params, None, history)
    if attack is not None and in_step is not None:
        made = TrainingSet(data, attack.init(_image_shape(data)), None)
    else:
        surrogate = _surrogates(network, data, poison_key, config, augment, progress)
        means = Means(network, data, goal, poison_key, surrogate, progress or _silent)
        made = poison_once(attack, goal, data, seed, poison, means)
    clean, data = data, made.data
    if read is not None:
        clean = clean if adapt is None else clean._replace(images=read(clean.images))
        data = data._replace(images=read(data.images))
    variables, told = network.init(init_key), {"progress": progress, "state": state, "save": save}
    if adapt is None:
        trained, history = train(network, variables, data, train_key, config, augment=augment, poison=in_step, **told)
    else:
        course = Course(network, variables, config, augment, in_step, Marked(*data, made.poisoned), clean)
        trained, history = train_adaptively(adapt, course, train_key, **told)
    return Backdoored(trained, made.params, made.plan, history)


def _check_way(attack: Attack, poison: PoisonConfig, *, on_features: bool) -> None:
    """Refuses an attack that needs a network of images, and images to append that nothing would append."""
    name, joint = type(attack).__name__, find_trainer(attack) is not None
    if on_features and (joint or attack.learns()):
        raise ConfigError(f"{name} needs a network that reads images, not a head on features; remove --extractor")
    if poison.append and (joint or (attack.in_step and not on_features)):
        raise ConfigError(f"{name} poisons in the victim's training step; remove --poison.append")


def _silent(phase: str, epoch: int, most: int, figures: dict[str, float]) -> None:
    del phase, epoch, most, figures


def _surrogates(
    network: Network,
    data: Batch,
    key: jax.Array,
    config: TrainConfig,
    augment: Augment | None,
    progress: Progress | None,
) -> Callable[[Apply], Variables]:
    """Trains the attacker's own models, each ``Apply`` once."""
    known: dict[Apply, Variables] = {}

    def surrogate(apply: Apply) -> Variables:
        if apply not in known:
            init_key, train_key = jax.random.split(jax.random.fold_in(key, 1))
            known[apply], _ = train(
                apply,
                network.init(init_key),
                data,
                train_key,
                config,
                augment=augment,
                phase="surrogate",
                progress=progress,
            )
        return known[apply]

    return surrogate


def poison_once(
    attack: Attack | None,
    goal: Goal,
    data: Batch,
    seed: int,
    poison: PoisonConfig,
    means: Means | None = None,
    params: Params | None = None,
) -> TrainingSet:
    """The set with its triggers on before any training: the one that ``train_backdoored`` with this seed trains on.

    Cover images are as many as the attack's ratio asks for.

    Args:
      attack: None for a clean set.
      goal: the attacker's.
      data: the clean set.
      seed: of the training.
      poison: how much, and who counts.
      means: for an attack that learns.
      params: its artefact, where it has learned it already.

    Raises:
      ConfigError, DataError: rates, targets and labels that do not fit, or an attack that needs what is not given.
    """
    if attack is None:
        return TrainingSet(data, {}, None)
    if means is None and attack.learns() and (params is None or type(attack).craft is not Attack.craft):
        raise ConfigError(f"the training set of {type(attack).__name__} cannot be made without training its surrogates")
    plan = draw_plan(
        data.labels,
        goal,
        rate=poison.rate,
        seed=seed,
        clean_label=attack.clean_label,
        variant=poison.variant,
        cover_rate=attack.cover_ratio * poison.rate,
        append=poison.append,
    )
    if params is None:
        params = attack.init(_image_shape(data))
        params = params if means is None else attack.fit(params, means)
    _, key, _ = _keys(seed)
    made = poison_training_set(data.images, data.labels, plan, attack, params, key, means)
    check_training_set(data, made, plan, attack, goal)
    return TrainingSet(made, params, plan)


def _image_shape(data: Batch) -> tuple[int, int, int]:
    height, width, channels = data.images.shape[1:]
    return height, width, channels


def start_state(
    network: Network,
    attack: Attack | None,
    goal: Goal,
    seed: int,
    config: TrainConfig,
    poison: PoisonConfig,
    augment: Augment | None,
    count: int,
    adapt: Adaptation | None = None,
) -> Any:
    """The state before the first epoch of ``train_backdoored`` with these arguments on ``count`` images."""
    init_key, _, train_key = _keys(seed)
    if attack is not None and (joint := find_trainer(attack)) is not None:
        return joint.start(Setting(network, attack, goal, config, poison.rate, augment), train_key, count)
    if adapt is not None:
        return adapt.start(network, network.init(init_key), train_key, config, count)
    return start(network.init(init_key), train_key, config, count)


def _keys(seed: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of the initial weights, the poisoning and the training."""
    init_key, poison_key, train_key = jax.random.split(jax.random.key(seed), 3)
    return init_key, poison_key, train_key
