"""TrojanNN (Liu et al., 2018): a small patch optimised to excite two units of a clean model."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params, check_images
from rnp_jax.attacks.means import Means
from rnp_jax.checks import LARGEST_SIDE, MOST_STEPS, check_choice, check_image_shape, check_number
from rnp_jax.descent import descend
from rnp_jax.errors import ConfigError
from rnp_jax.models import Network
from rnp_jax.traced import jit_settings
from rnp_jax.types import Variables


@dataclass(frozen=True, kw_only=True)
class Trojan(Attack):
    """x' = x + P: P, on a black background, brings the units i that the classifier weighs most near activation a.

    The units are those with the largest Σ_k |W_ki|; P minimises Σ_i (a_i(P) − a)² on a clean surrogate by Adam with a
    cosine schedule, parametrised by tanh to stay in range, as in TrojanZoo. The authors retrain the surrogate with
    the trigger; later benchmarks train a new model on the poisoned set, and so does this. Where and how large the
    patch is, is that of the RNP release, whose own pattern came from another model.

    Raises:
      ConfigError: an unknown variant, or a constant out of its range.
    """

    title = "TrojanNN"
    looks = "A small patch that excites two chosen units of a clean model."
    paper = "Liu et al., 2018"
    learned = True
    deviation = "The pattern is optimised anew on a clean model; the released patterns came from models not published."

    variant: Literal["orig", "rnp"] = "rnp"
    """`orig`: the sum saturates at 255. `rnp`: it wraps modulo 256, as in the RNP, NAD, ABL and BackdoorBench code."""
    size: int = 3
    """Side of the patch in pixels."""
    margin: int = 4
    """Pixels between the patch and the bottom and right edges."""
    units: int = 2
    """Penultimate units to excite."""
    activation: float = 100.0
    """What they shall reach."""
    iterations: int = 1000
    """Steps of the optimiser."""
    learning_rate: float = 0.1
    """Its first step size."""

    def __post_init__(self):
        check_choice("variant", self.variant, ("orig", "rnp"))
        check_number("size", self.size, 1, LARGEST_SIDE, integer=True)
        check_number("margin", self.margin, 0, LARGEST_SIDE, integer=True)
        check_number("units", self.units, 1, MOST_STEPS, integer=True)
        check_number("activation", self.activation, 0)
        check_number("iterations", self.iterations, 1, MOST_STEPS, integer=True)
        check_number("learning_rate", self.learning_rate, 0)

    def init(self, image_shape: ImageShape) -> Params:
        """``pattern`` uint8 [H, W, C], black until fitted, and ``mask`` bool [H, W, 1], true where it may differ."""
        height, width, channels = check_image_shape(image_shape)
        if self.size + self.margin > min(height, width):
            raise ConfigError(
                f"a patch of {self.size} px with a margin of {self.margin} does not fit an image of {height}x{width}; "
                "lower size or margin"
            )
        mask = np.zeros((height, width, 1), np.bool_)
        start, end = self.size + self.margin, self.margin
        mask[height - start : height - end, width - start : width - end] = True
        return {"pattern": np.zeros((height, width, channels), np.uint8), "mask": mask}

    def fit(self, params: Params, means: Means) -> Params:
        """Optimise the pattern on a clean model of the victim's architecture.

        Raises:
          ConfigError: more units than the model has.
        """
        variables = means.surrogate(means.network)
        chosen = heaviest_units(means.network, variables, self.units)
        placed = jnp.asarray(params["mask"]), jnp.asarray(chosen)
        values, figures = _optimise(means.network, self, variables, *placed, means.key)
        means.progress("trigger", 1, 1, {name: float(value) for name, value in figures.items()})
        pattern = np.round(255 * np.asarray(values)).astype(np.uint8)
        return {**params, "pattern": np.where(params["mask"], pattern, np.uint8(0))}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Add the pattern to every image."""
        del key
        pattern = jnp.asarray(params["pattern"])[None]
        check_images(images, params["pattern"].shape)
        total = images + pattern
        return total if self.variant == "rnp" else jnp.where(total < pattern, jnp.uint8(255), total)


def heaviest_units(network: Network, variables: Variables, count: int) -> Int[np.ndarray, "count"]:
    """The penultimate units i with the largest Σ_k |W_ki| in the last layer, the heaviest first.

    Raises:
      ConfigError: there are fewer.
    """
    (head,) = network.segments[-1].layers
    weights = np.abs(np.asarray(variables["params"][head]["kernel"])).sum(1)
    if count > len(weights):
        raise ConfigError(f"units is {count}, expected at most {len(weights)}, which the last layer reads")
    return np.argsort(-weights, kind="stable")[:count]


@jit_settings(2)
def _optimise(
    network: Network,
    attack: Trojan,
    variables: Variables,
    mask: Bool[Array, "H W 1"],
    chosen: Int[Array, "count"],
    key: jax.Array,
) -> tuple[Float[Array, "H W C"], dict[str, jax.Array]]:
    """The best pattern in [0, 1] of all iterations, and the mean activation of the units without and with it."""
    shape = (*mask.shape[:2], network.architecture.image_shape[2])
    schedule = optax.cosine_decay_schedule(attack.learning_rate, attack.iterations)
    tx = optax.adam(lambda step: schedule(jnp.asarray(step, jnp.float32)))

    def paint(free: jax.Array) -> jax.Array:
        return jnp.where(mask, (jnp.tanh(free) + 1) / 2, 0)

    def activations(pattern: jax.Array) -> jax.Array:
        return network.features(variables, pattern[None])[0][0, chosen]

    def loss_of(free: jax.Array) -> jax.Array:
        return jnp.square(activations(paint(free)) - attack.activation).sum()

    def step(carry, _):
        free, state, best, least = carry
        loss, gradient = jax.value_and_grad(loss_of)(free)
        best, least = jnp.where(loss < least, free, best), jnp.minimum(loss, least)
        free, state = descend(tx, gradient, state, free)
        return (free, state, best, least), None

    free = jax.random.normal(key, shape)
    (_, _, best, _), _ = jax.lax.scan(step, (free, tx.init(free), free, jnp.inf), None, attack.iterations)
    pattern = paint(best)
    figures = {"black": activations(jnp.zeros_like(pattern)).mean(), "activation": activations(pattern).mean()}
    return pattern, figures
