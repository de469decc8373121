"""Cognitive Distillation (Huang et al., ICLR 2023): how small a part of an image preserves the network's output.

The trigger alone is enough for a backdoor's prediction, so a triggered image needs only a small mask to preserve its
logits. All images of a batch are optimised together, and all steps run in one compiled program.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8

from rnp_jax.descent import descend
from rnp_jax.detection.batches import map_batches
from rnp_jax.errors import ConfigError
from rnp_jax.models import Network
from rnp_jax.traced import jit_settings
from rnp_jax.types import Variables

_BETAS = (0.1, 0.1)  # Adam's, as in the released code


@dataclass(frozen=True)
class CognitiveConfig:
    """Settings of the distillation; the defaults are the release's.

    Attributes:
      steps: number of Adam steps.
      learning_rate: learning rate of Adam, for the mask before its tanh.
      gamma: weight of the mask's L1 norm (the paper's alpha).
      beta: weight of the mask's total variation.
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
    """Minus the L1 norm of each image's distilled mask: high if a small part of the image is enough."""
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

    (eq. 1), where δ is a new random colour at each step. The loss is summed over a batch; the release takes the mean.
    This makes no difference to Adam, and an image's mask does not depend on the other images. Equal keys give equal
    colours.
    """
    network, variables = network.fixed, jax.device_put(variables)
    return map_batches(
        lambda batch, places: _distil(network, config, variables, batch, places, key), np.asarray(images), batch_size
    )


def total_variation(masks: Float[Array, "B H W"]) -> Float[Array, "B"]:
    """Sum of the squared differences of neighbours, divided by the number of pixels."""
    down, across = (jnp.diff(masks, axis=axis) ** 2 for axis in (1, 2))
    return (down.sum((1, 2)) + across.sum((1, 2))) / (masks.shape[1] * masks.shape[2])


@jit_settings(2)
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
