"""Attacks that train together with their victim: what each has to say, and how its epochs are run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from rnp_jax.attacks.base import Attack, Params
from rnp_jax.attacks.goal import Goal
from rnp_jax.models import Network
from rnp_jax.traced import structural
from rnp_jax.training.epoch import Augment
from rnp_jax.training.loop import run_epochs
from rnp_jax.training.supervised import TrainConfig
from rnp_jax.types import Batch, Progress, Variables


@dataclass(frozen=True)
class Setting:
    """What does not change while an attack and its victim train: settings for ``jit_settings``."""

    network: Network
    attack: Attack
    goal: Goal
    config: TrainConfig
    rate: float = structural()  # share that is poisoned, of each batch or of the set
    augment: Augment | None = None


class Joint(Protocol):
    """How one attack and its victim train: phases of epochs, each a compiled program over the whole set.

    A state is a named tuple of arrays with, among others, the fields ``epoch`` (int32 [], epochs done over all phases)
    and ``key``. The victim trains for ``setting.config.epochs``; the attack's constants give the length of
    its own phases.
    """

    def epochs(self, setting: Setting) -> int:
        """Of all phases."""
        ...

    def start(self, setting: Setting, key: jax.Array, count: int) -> Any:
        """The state before the first epoch over ``count`` images."""
        ...

    def epoch(self, setting: Setting, state: Any, data: Batch) -> tuple[Any, dict[str, jax.Array]]:
        """Runs one epoch on the clean images: the state after it, and figures (floats [])."""
        ...

    def finish(self, setting: Setting, state: Any) -> tuple[Variables, Params]:
        """The victim, and the trigger artefact with the names, shapes and dtypes of the attack's ``init``."""
        ...


def train_jointly(
    joint: Joint,
    setting: Setting,
    data: Batch,
    key: jax.Array,
    *,
    progress: Progress | None = None,
    state: Any = None,
    save: Callable[[Any], None] | None = None,
) -> tuple[Variables, Params, dict[str, np.ndarray]]:
    """Runs all epochs, those that ``state`` has seen left out; ``progress`` is told of each as one of ``train``.

    Returns:
      The victim's variables, the artefact, and each figure [E] over the epochs run here, NaN where a phase lacks it.
    """
    count, data = len(data.labels), Batch(*jax.device_put(tuple(data)))
    reached, history = run_epochs(
        "train",
        joint.epochs(setting),
        lambda: joint.start(setting, key, count),
        lambda state: joint.epoch(setting, state, data),
        progress=progress,
        state=state,
        save=save,
    )
    return *joint.finish(setting, reached), history
