"""Cognitive Distillation (Huang et al., ICLR 2023): how little of an image keeps the network's output.

A backdoor's trigger is enough for its prediction, so the smallest mask that keeps the logits of a triggered image is
small. All images of a batch are optimised together, all steps in one compiled program.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8

from rnp_jax.descent import descend
from rnp_jax.detection.batches import map_batches
from rnp_jax.errors import ConfigError
from rnp_jax.models import Network
from rnp_jax.types import Variables

_BETAS = (0.1, 0.1)  # of Adam, as the released code has them


@dataclass(frozen=True)
class CognitiveConfig:
    """Settings of the distillation; the defaults are the release's.

    Attributes:
      steps: of Adam.
      learning_rate: of Adam, on the mask before its tanh.
      gamma: weight of the mask's L1 norm (the paper's alpha).
      beta: weight of its total variation.
    """

    steps: int = 100
    learning_rate: float = 0.1
    gamma: float = 0.01
    beta: float = 1.0

    def __post_init__(self):
        if self.steps < 1 or not self.learning_rate > 0 or self.gamma < 0 or self.beta < 0:
            raise ConfigError(f"{self}: expected steps >= 1, learning_rate > 0, gamma >= 0 and beta >= 0")


def score_by_distillation(
    network: Network,
    variables: Variables,
    images: UInt8[Array | np.ndarray, "N H W C"],
    key: jax.Array,
    config: CognitiveConfig,
    batch_size: int | None = None,
) -> Float[np.ndarray, "N"]:
    """Minus the L1 norm of each image's distilled mask: high where little of the image is enough."""
    masks = distil_masks(network, variables, images, key, config, batch_size)
    return -masks.sum((1, 2), dtype=np.float64)


def distil_masks(
    network: Network,
    variables: Variables,
    images: UInt8[Array | np.ndarray, "N H W C"],
    key: jax.Array,
    config: CognitiveConfig,
    batch_size: int | None = None,
) -> Float[np.ndarray, "N H W"]:
    """The masks m in (0, 1), one for all channels of an image, after ``config.steps`` steps on

    ‖f(x) − f(x·m + (1 − m)·δ)‖₁ / K + γ‖m‖₁ + β·TV(m)

    (eq. 1), δ a colour drawn anew at each step. The loss is summed over a batch, where the release takes the mean:
    Adam does not notice, and an image's mask does not depend on the others. Equal keys draw equal colours.
    """
    variables = jax.device_put(variables)
    return map_batches(
        lambda batch, places: _distil(network, config, variables, batch, places, key), np.asarray(images), batch_size
    )


def total_variation(masks: Float[Array, "B H W"]) -> Float[Array, "B"]:
    """Squared differences of neighbours, over the number of pixels."""
    down, across = (jnp.diff(masks, axis=axis) ** 2 for axis in (1, 2))
    return (down.sum((1, 2)) + across.sum((1, 2))) / (masks.shape[1] * masks.shape[2])


@partial(jax.jit, static_argnums=(0, 1))
def _distil(
    network: Network,
    config: CognitiveConfig,
    variables: Variables,
    images: jax.Array,
    places: jax.Array,
    key: jax.Array,
) -> jax.Array:
    pixels = images.astype(jnp.float32) / 255
    logits = network(variables, pixels)[0]
    keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(places)
    tx = optax.adam(config.learning_rate, *_BETAS)
    start = jnp.ones(images.shape[:3])

    def loss(raw: jax.Array, colour: jax.Array) -> jax.Array:
        masks = _squash(raw)
        part = masks[..., None]
        kept = network(variables, pixels * part + (1 - part) * colour)[0]
        change = jnp.abs(kept - logits).mean(-1)
        return (change + config.gamma * masks.sum((1, 2)) + config.beta * total_variation(masks)).sum()

    def step(carry: tuple, number: jax.Array) -> tuple[tuple, None]:
        raw, state = carry
        shape = (1, 1, images.shape[3])
        colour = jax.vmap(lambda one: jax.random.uniform(jax.random.fold_in(one, number), shape))(keys)
        return descend(tx, jax.grad(loss)(raw, colour), state, raw), None

    (raw, _), _ = jax.lax.scan(step, (start, tx.init(start)), jnp.arange(config.steps, dtype=jnp.int32))
    return _squash(raw)


def _squash(raw: jax.Array) -> jax.Array:
    return (jnp.tanh(raw) + 1) / 2
