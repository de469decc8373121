"""STRIP (Gao et al., ACSAC 2019): a triggered image keeps its prediction when clean images are laid over it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from rnp_jax.detection.batches import map_batches
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.models import Network
from rnp_jax.traced import jit_settings
from rnp_jax.types import Variables

_SLACK = 1e-8  # added to every probability, as BackdoorBench does


@dataclass(frozen=True)
class StripConfig:
    """Settings of STRIP; the defaults are BackdoorBench's.

    Attributes:
      overlays: number of clean images laid over each image, drawn once for all images; fewer if there are not as many.
      alpha: weight of the overlay.
    """

    overlays: int = 100
    alpha: float = 1.0

    def __post_init__(self):
        if self.overlays < 1 or not self.alpha > 0:
            raise ConfigError(f"{self}: expected overlays >= 1 and alpha > 0")


def score_by_strip(
    network: Network,
    variables: Variables,
    images: UInt8[Array | np.ndarray, "N H W C"],
    clean: UInt8[Array | np.ndarray, "n H W C"],
    key: jax.Array,
    config: StripConfig,
    batch_size: int | None = None,
) -> Float[np.ndarray, "N"]:
    """Minus the mean entropy (nats) of the predictions under superposition (eq. 3 and 4): high if they do not change.

    As in BackdoorBench, the sum x + α·x' is computed on normalised images and not clipped; the paper adds pixels.
    Every image gets the same overlays; BackdoorBench draws new ones for each batch.

    Raises:
      DataError: there are no clean images, or they have another shape.
    """
    if len(clean) == 0 or clean.shape[1:] != images.shape[1:]:
        raise DataError(
            f"{len(clean)} clean images of shape {tuple(clean.shape[1:])} to lay over images of shape "
            f"{tuple(images.shape[1:])}: expected one or more clean images of the same shape"
        )
    count = min(config.overlays, len(clean))
    chosen = np.asarray(jax.random.permutation(key, len(clean)))[:count]
    overlays, variables = jax.device_put((np.asarray(clean)[chosen], variables))
    network, alpha = network.evaluator, jnp.float32(config.alpha)
    return -map_batches(
        lambda batch, _: _mean_entropy(network, variables, batch, overlays, alpha), np.asarray(images), batch_size
    )


@jit_settings()
def _mean_entropy(
    network: Network, variables: Variables, images: jax.Array, overlays: jax.Array, alpha: jax.Array
) -> jax.Array:
    """Entropy [B], averaged over the overlays, which are applied one after another in one program."""
    mean = jnp.asarray(network.mean, jnp.float32)[None, None, None]
    pixels = images.astype(jnp.float32) / 255

    def add(total: jax.Array, overlay: jax.Array) -> tuple[jax.Array, None]:
        # (x - m) / s + α (x' - m) / s is the normalised image of x + α (x' - m)
        laid = pixels + alpha * (overlay[None].astype(jnp.float32) / 255 - mean)
        probabilities = jax.nn.softmax(network(variables, laid)[0]) + _SLACK
        return total - (probabilities * jnp.log(probabilities)).sum(-1), None

    total, _ = jax.lax.scan(add, jnp.zeros(images.shape[0]), overlays)
    return total / overlays.shape[0]
