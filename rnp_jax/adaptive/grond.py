"""Grond's adversarial backdoor injection: after every epoch, channels whose scores stand out are flattened ("Towards
Backdoor Stealthiness in Model Parameter Space", 2025).

A channel of batch norm with a score above mean + u·std of its layer (ddof 1) gets the mean γ and the mean β of the
layer, its own included. No outlier is left for a threshold to find. The score is CLP's Lipschitz bound, as published,
or the Hölder constant that ``holder`` prunes by, estimated on clean training images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from rnp_jax.checks import check_choice, check_number
from rnp_jax.defenses.clp import clp_scores
from rnp_jax.defenses.kernels import with_leaves
from rnp_jax.defenses.sensitivity import HolderConfig, holder_scores
from rnp_jax.defenses.site_maps import find
from rnp_jax.defenses.thresholds import ThresholdConfig, select
from rnp_jax.errors import ConfigError
from rnp_jax.models import Network
from rnp_jax.traced import is_off
from rnp_jax.training.adaptation import Adaptation, Course
from rnp_jax.training.supervised import TrainConfig, TrainState
from rnp_jax.types import Tree, Variables


@dataclass(frozen=True)
class Grond(Adaptation):
    """Settings of Grond's training; the defaults are the release's.

    Attributes:
      strength: share of the way to the layer's mean that γ and β of a channel move; 0 trains plainly (the control).
      u: number of standard deviations above its layer's mean from which a score stands out.
      score: ``lipschitz``, CLP's bound from the weights; or ``holder``, the constant that the method holder prunes by.
      images: number of clean training images on which Hölder constants are estimated.
      holder: how they are estimated.
    """

    strength: float = 1.0
    u: float = 3.0
    score: Literal["lipschitz", "holder"] = "lipschitz"
    images: int = 64
    holder: HolderConfig = field(default_factory=HolderConfig)

    def __post_init__(self):
        check_number("strength", self.strength, 0, 1)
        check_number("u", self.u, 1e-6)
        check_choice("score", self.score, ("lipschitz", "holder"))
        check_number("images", self.images, 1, integer=True)
        if self.score == "lipschitz" and self.holder != HolderConfig():
            raise ConfigError(
                "settings of holder are given, but nothing reads them: set score to holder, or remove them"
            )

    def start(
        self, network: Network, variables: Variables, key: jax.Array, config: TrainConfig, count: int
    ) -> TrainState:
        """The state before the first epoch.

        Raises:
          ConfigError: no channel has batch norm.
        """
        if not _scaled(network, variables):
            raise ConfigError(
                f"{network.architecture.name} has no batch norm to flatten; choose another --adaptive.method"
            )
        return super().start(network, variables, key, config, count)

    def epoch(self, course: Course, state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
        """Plain training, then the flattening; the figure ``flattened`` counts its channels."""
        state, figures = super().epoch(course, state)
        if is_off(self.strength):
            return state, figures
        variables = {**course.variables, "params": state.params, "batch_stats": state.batch_stats}
        every = len(course.clean.images)
        spread = np.linspace(0, every - 1, min(self.images, every)).astype(int)  # sets may be sorted by class
        chosen = choose_outliers(self, course.network, variables, np.asarray(course.clean.images[spread]))
        params = flatten(state.params, chosen, self.strength)
        count = jnp.float32(sum(pick.sum() for pick in chosen.values()))
        return state._replace(params=params), {**figures, "flattened": count}


def choose_outliers(
    config: Grond, network: Network, variables: Variables, images: np.ndarray
) -> dict[str, Bool[np.ndarray, "F"]]:
    """The channels of each layer of batch norm whose scores stand out; ``images`` are for Hölder constants alone."""
    layers = _scaled(network, variables)
    if config.score == "holder":
        scores = holder_scores(network, variables, images, config.holder, layers=layers)
    else:
        found = clp_scores(network, variables)
        scores = {layer: found[layer] for layer in layers}
    selected = select(scores, ThresholdConfig("std", u=config.u)).selected
    return {layer: np.isin(np.arange(len(row)), selected[layer]) for layer, row in scores.items()}


@jax.jit
def flatten(params: Tree, chosen: Mapping[str, Bool[Array, "F"]], strength: float) -> Tree:
    """The parameters with γ and β of the chosen channels moved towards the mean of their layer by a share."""

    def move(values: Array, pick: Array) -> Array:
        return jnp.where(pick, values + strength * (values.mean() - values), values)

    leaves = {
        layer: {name: move(find(params, layer)[name], pick) for name in ("scale", "bias")}
        for layer, pick in chosen.items()
    }
    return with_leaves(params, leaves)


def _scaled(network: Network, variables: Variables) -> list[str]:
    """The sites that are batch norms."""
    return [site.layer for site in network.sites if "scale" in find(variables["params"], site.layer)]
