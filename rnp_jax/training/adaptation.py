"""Attackers who know the defenses: how their training differs from the plain one, whatever the attack."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from rnp_jax.errors import ConfigError
from rnp_jax.models import Network
from rnp_jax.training.epoch import Augment, Marked, check_batch
from rnp_jax.training.loop import run_epochs
from rnp_jax.training.supervised import PoisonBatch, TrainConfig, TrainState, Twist, start, train_epoch
from rnp_jax.types import Batch, Progress, Variables


class Course(NamedTuple):
    """What does not change while a victim trains.

    Attributes:
      network: the victim's.
      variables: the ones it starts with.
      config: of plain training.
      augment: of every batch.
      poison: poisons batches in the step, for the attacks that do.
      data: what is trained on, with marks where it was poisoned beforehand.
      clean: the images without triggers, with their true labels.
    """

    network: Network
    variables: Variables
    config: TrainConfig
    augment: Augment | None
    poison: PoisonBatch | None
    data: Marked
    clean: Batch


@dataclass(frozen=True)
class Adaptation:
    """Plain training, epoch by epoch; an adaptive one is a subclass that changes some part of it.

    A subclass is a frozen dataclass of its settings. With settings that change nothing it has to run the program of
    plain training, so that its control is plain training bit for bit.
    """

    def epochs(self, config: TrainConfig) -> int:
        """Of all phases."""
        return config.epochs

    def start(
        self, network: Network, variables: Variables, key: jax.Array, config: TrainConfig, count: int
    ) -> TrainState:
        """The state before the first epoch over ``count`` images."""
        del network
        return start(variables, key, config, count)

    def twist(self, network: Network) -> Twist | None:
        """What takes the place of the loss's gradient."""
        del network

    def epoch(self, course: Course, state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
        """Runs one epoch: the state after it, and figures (floats [])."""
        return run_twisted(course, state, self.twist(course.network), course.data)


def run_twisted(
    course: Course, state: TrainState, twist: Twist | None, data: Marked
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One epoch over ``data`` by a twist; without one it is an epoch of plain training."""
    network, config, augment, poison = course.network, course.config, course.augment, course.poison
    plain, masks = Batch(data.images, data.labels), course.variables["masks"]
    if twist is None:
        return train_epoch(network, config, None, augment, poison, state, masks, plain)
    return train_epoch(network, config, twist, augment, poison, state, masks, data, course.clean)


def check_marks(course: Course) -> None:
    """Requires images that are known to be poisoned.

    Raises:
      ConfigError: the set is clean, or its batches are poisoned in the step.
    """
    if not np.asarray(course.data.marks).any():
        raise ConfigError(
            "no image is poisoned before training, but --adaptive.method needs to tell poisoned images from clean "
            "ones; choose an attack that poisons the set once, such as badnets"
        )


def train_adaptively(
    adaptation: Adaptation,
    course: Course,
    key: jax.Array,
    *,
    progress: Progress | None = None,
    state: TrainState | None = None,
    save: Callable[[TrainState], None] | None = None,
) -> tuple[Variables, dict[str, np.ndarray]]:
    """As ``train`` in ``supervised``, but each epoch is the adaptation's.

    Raises:
      ConfigError: fewer images than one batch.
    """
    count = len(course.data.labels)
    check_batch(count, course.config.batch_size)
    course = course._replace(data=jax.device_put(course.data), clean=jax.device_put(course.clean))
    reached, history = run_epochs(
        "train",
        adaptation.epochs(course.config),
        lambda: adaptation.start(course.network, course.variables, key, course.config, count),
        lambda state: adaptation.epoch(course, state),
        progress=progress,
        state=state,
        save=save,
        figures=("loss", "accuracy"),
    )
    return {**course.variables, "params": reached.params, "batch_stats": reached.batch_stats}, history
