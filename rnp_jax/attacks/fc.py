"""FC (Shafahi et al., 2018): images of the target class whose features are those of triggered images of others."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from rnp_jax.attacks.badnets import paste
from rnp_jax.attacks.base import Attack, ImageShape, Params, check_images
from rnp_jax.attacks.crafting import craft_in_chunks, round_within, split_by_target
from rnp_jax.attacks.means import Means
from rnp_jax.checks import LARGEST_SIDE, MOST_STEPS, check_image_shape, check_number, check_seed
from rnp_jax.errors import ConfigError
from rnp_jax.models import Network
from rnp_jax.traced import jit_settings
from rnp_jax.types import Variables

CELLS = 4
"""Coloured cells along the patch."""


@dataclass(frozen=True, kw_only=True)
class FeatureCollision(Attack):
    """Poisoned images: x ≈ b of the target class with f(x) ≈ f(τ), τ an image of another class with the patch on it.

    f are a clean surrogate's penultimate features, and x, from b on, minimises ‖f(x) − f(τ)‖² + β/2 ‖x − b‖² for
    pixels in [0, 1] by forward-backward splitting: x̂ = x − λ∇‖f(x) − f(τ)‖², x ← clip((x̂ + λβb) / (1 + λβ)). Each
    image halves its own λ, and stays, where that would raise its objective. β = ``beta``·(2048 / HWC)², as released
    (the released code then takes the norm without its square). Poisoned images never show the patch. Images to collide
    with are drawn from all other classes, one for each poisoned image. A backdoor by our own definition: ``deviation``.

    Raises:
      ConfigError: a constant out of its range.
    """

    title = "Feature collision"
    looks = "A patch of noise in the corner, which no poisoned image shows: their features are those of images with it."
    paper = "Shafahi et al., 2018"
    clean_label = True
    # Published: 22 % of targeted images on a known, frozen extractor, 1.3 % on victims trained from scratch.
    expected_asr = 0.013
    deviation = (
        "Feature collision targets single images; as a backdoor it collides with patched images of other classes, as "
        "the hidden trigger of Saha et al. (2020) does. Little survives a victim's training from scratch."
    )

    beta: float = 0.25
    """Weight of staying near b, before it is scaled by the image's size."""
    epsilon: float = 255.0
    """ℓ∞ bound of x − b in grey levels: none by default; 8 in the poisoning benchmark, 16 for the hidden trigger."""
    rate: float = 500 * 255.0
    """Step size λ that the first iteration tries."""
    steps: int = 1500
    """Iterations."""
    size: int = 8
    """Side of the patch of 4x4 coloured cells in the bottom-right corner, in pixels; a multiple of 4."""
    seed: int = 0
    """Draws the patch's colours."""

    def __post_init__(self):
        check_number("beta", self.beta, 0)
        check_number("epsilon", self.epsilon, 0, 255)
        check_number("rate", self.rate, 0)
        check_number("steps", self.steps, 1, MOST_STEPS, integer=True)
        check_number("size", self.size, CELLS, LARGEST_SIDE, integer=True)
        check_seed("seed", self.seed)
        if self.size % CELLS:
            raise ConfigError(f"size is {self.size}, expected a multiple of {CELLS}; use 4, 8, 12 …")

    def init(self, image_shape: ImageShape) -> Params:
        """``pattern`` uint8 [H, W, C] and ``mask`` bool [H, W, 1], true where the pattern covers the image."""
        height, width, channels = check_image_shape(image_shape)
        if self.size > min(height, width):
            raise ConfigError(f"a patch of {self.size} px does not fit an image of {height}x{width}; lower size")
        colours = np.random.default_rng(self.seed).integers(0, 256, (CELLS, CELLS, channels), np.uint8)
        cell = self.size // CELLS
        pattern = np.zeros((height, width, channels), np.uint8)
        mask = np.zeros((height, width, 1), np.bool_)
        pattern[-self.size :, -self.size :] = colours.repeat(cell, 0).repeat(cell, 1)
        mask[-self.size :, -self.size :] = True
        return {"pattern": pattern, "mask": mask}

    def craft(self, params: Params, images: UInt8[np.ndarray, "P H W C"], means: Means) -> UInt8[np.ndarray, "P H W C"]:
        """Images of the target class, made to collide.

        Raises:
          ConfigError: the goal has no one target.
          DataError: no images of the target class, or of no other.
        """
        _, others = split_by_target(means)
        key_draw, key_trigger = jax.random.split(means.key)
        drawn = np.asarray(jax.random.randint(key_draw, (len(images),), 0, len(others)))
        aims = np.asarray(self.trigger(params, jnp.asarray(others[drawn]), key_trigger))
        variables = means.surrogate(means.network)
        return craft_in_chunks(partial(_collide, means.network, self, variables), (images, aims), means.progress)

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Overwrite the masked pixels by the pattern."""
        del key
        return paste(params, images)

    def implant(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Leave the crafted images as they are: the patch stays hidden until the test."""
        del key
        check_images(images, params["pattern"].shape)
        return images


class Collision(NamedTuple):
    """Images on their way, each with its own step size.

    ``gradient`` is that of the squared feature distance at ``pixels``, ``objective`` what never rises.
    """

    pixels: jax.Array  # float32 [B, H, W, C] in [0, 1]
    gradient: jax.Array  # float32 [B, H, W, C]
    distance: jax.Array  # float32 [B]
    objective: jax.Array  # float32 [B]
    rate: jax.Array  # float32 [B]


def pull_back(
    forward: Float[Array, "B H W C"], base: Float[Array, "B H W C"], weight: Float[Array, "B 1 1 1"], bound: float
) -> Float[Array, "B H W C"]:
    """The backward step: argmin over x of ‖x − x̂‖² + w‖x − b‖² with |x − b| ≤ bound and x in [0, 1]; w is λβ."""
    nearest = (forward + weight * base) / (1 + weight)
    return jnp.clip(nearest, jnp.maximum(base - bound, 0), jnp.minimum(base + bound, 1))


@jit_settings(2)
def split_forward_backward(
    network: Network,
    attack: FeatureCollision,
    variables: Variables,
    bases: UInt8[Array, "B H W C"],
    aims: UInt8[Array, "B H W C"],
) -> tuple[Collision, dict[str, Float[Array, "steps B"]]]:
    """Makes ``bases`` collide with ``aims``: where they get, and objective, distance and step size on the way."""
    base, wanted = bases.astype(jnp.float32) / 255, network.features(variables, aims)[0]
    beta, bound = attack.beta * (2048 / base[0].size) ** 2, attack.epsilon / 255

    def total(pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
        distance = ((network.features(variables, pixels)[0] - wanted) ** 2).sum(-1)
        return distance.sum(), distance

    def arrive(pixels: jax.Array, rate: jax.Array) -> Collision:
        gradient, distance = jax.grad(total, has_aux=True)(pixels)
        return Collision(pixels, gradient, distance, distance + beta / 2 * ((pixels - base) ** 2).sum((1, 2, 3)), rate)

    def step(old: Collision, _: None) -> tuple[Collision, dict[str, jax.Array]]:
        rate = old.rate[:, None, None, None]
        new = arrive(pull_back(old.pixels - rate * old.gradient, base, rate * beta, bound), old.rate)
        better = new.objective <= old.objective
        moved = jax.tree.map(lambda a, b: jnp.where(better.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)
        moved = moved._replace(rate=jnp.where(better, old.rate, old.rate / 2))
        return moved, {"objective": moved.objective, "distance": moved.distance, "rate": moved.rate}

    return jax.lax.scan(step, arrive(base, jnp.full(len(base), attack.rate)), length=attack.steps)


@jit_settings(2)
def _collide(
    network: Network,
    attack: FeatureCollision,
    variables: Variables,
    bases: UInt8[Array, "B H W C"],
    aims: UInt8[Array, "B H W C"],
) -> tuple[UInt8[Array, "B H W C"], dict[str, jax.Array]]:
    """The colliding images in whole grey levels, with the squared distance left and whether it is below half [B]."""
    levels = bases.astype(jnp.float32)
    reached, _ = split_forward_backward(network, attack, variables, bases, aims)
    moved = (levels + round_within(reached.pixels * 255 - levels, attack.epsilon)).astype(jnp.uint8)
    wanted, made, before = (network.features(variables, images)[0] for images in (aims, moved, bases))
    left, first = (((features - wanted) ** 2).sum(-1) for features in (made, before))
    return moved, {"distance": left, "halved": (left < first / 2).astype(jnp.float32)}
