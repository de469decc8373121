"""What the attacker wants a triggered image to be called."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int32

from rnp_jax.checks import MOST_CLASSES, check_choice, check_number

LabelMapping: TypeAlias = Literal["all_to_one", "all_to_all"]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """An attack's label mapping.

    Raises:
      ConfigError: an unknown mapping, fewer than two classes, or a target that is no class.
    """

    num_classes: int
    """Number of classes K."""
    target: int = 0
    """The class that triggered images shall get under `all_to_one`; `all_to_all` has none."""
    mapping: LabelMapping = "all_to_one"
    """`all_to_one`: every image becomes the target. `all_to_all`: class y becomes (y + 1) mod K."""

    def __post_init__(self):
        check_choice("mapping", self.mapping, ("all_to_one", "all_to_all"))
        check_number("num_classes", self.num_classes, 2, MOST_CLASSES, integer=True)
        check_number("target", self.target, 0, self.num_classes - 1, integer=True)

    @property
    def one_target(self) -> int | None:
        """The target class; None under `all_to_all`."""
        return self.target if self.mapping == "all_to_one" else None

    def wanted(self, labels: Int[Array | np.ndarray, "B"]) -> Int32[Array, "B"]:
        """The labels that the attacker wants triggered images of these true classes to get. Jittable."""
        labels = jnp.asarray(labels, jnp.int32)
        if self.mapping == "all_to_all":
            return (labels + 1) % self.num_classes
        return jnp.full_like(labels, self.target)

    def counted(self, labels: Int[Array | np.ndarray, "B"]) -> Bool[Array, "B"]:
        """Which images count in the attack success rate: those whose true class is not already the wanted one."""
        return self.wanted(labels) != jnp.asarray(labels, jnp.int32)
