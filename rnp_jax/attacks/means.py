"""What an attacker has to learn a trigger from: clean images, the victim's architecture, models trained on them."""

from collections.abc import Callable
from dataclasses import dataclass

import jax

from rnp_jax.attacks.goal import Goal
from rnp_jax.models import Network
from rnp_jax.types import Apply, Batch, Progress, Variables


@dataclass(frozen=True, eq=False)
class Means:
    """What ``Attack.fit`` and ``Attack.craft`` work with.

    Attributes:
      network: the victim's architecture and normalisation.
      data: the clean training set, uint8 [N, H, W, C] and int32 [N].
      goal: the attacker's.
      key: for what is drawn.
      surrogate: trains, as the victim is trained, a network on ``data`` and returns its variables; an ``Apply`` of the
        same variables trains in another way, such as adversarially. The same ``Apply`` gives the same model, trained
        once.
      progress: to be told of what takes long.
    """

    network: Network
    data: Batch
    goal: Goal
    key: jax.Array
    surrogate: Callable[[Apply], Variables]
    progress: Progress
