"""One perturbation for all images: what re-activation adds to the trigger, and a control to images without it.

    min over δ, ‖δ‖ ≤ ε, of  Σ_networks mean_i  λ₁ CE(f(clip(x_i + δ, 0, 1)), y_i) − λ₂ log(1.0001 − max_{k ≠ y_i} p_k)

δ [H, W, C] starts uniformly within ±ε; each step is one of plain gradient descent, and is projected onto the bound. Of
every batch, a few steps are made before the next one comes (Zhu, Liang and Wu, NeurIPS 2024).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from rnp_jax.errors import ConfigError
from rnp_jax.fetching import fetch_late
from rnp_jax.inversion.perturbations import perturb
from rnp_jax.models import Network
from rnp_jax.reactivation.problem import Party
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import cross_entropy, run_epoch
from rnp_jax.types import Batch, Progress, Variables

_NEAR_ONE = 1.0001
"""Keeps the second loss finite where another class is certain."""


@dataclass(frozen=True)
class PerturbationConfig:
    """Settings of a universal perturbation; the defaults are those of the white-box attack.

    Attributes:
      epsilon: bound of the perturbation, for pixels in [0, 1]; 0 leaves images as they are.
      norm: norm that is bounded: the largest change of a pixel (inf), or the length (2).
      epochs: number of passes over the images.
      inner_steps: number of steps on each batch before the next.
      batch_size: images per batch; the last batch of an epoch may be smaller.
      learning_rate: step size of gradient descent.
      wanted: weight λ₁ of the cross-entropy of the label that the attacker wants.
      other: weight λ₂ of the loss that lowers the most probable other class.
    """

    epsilon: float = 0.05
    norm: Literal["inf", "2"] = "inf"
    epochs: int = 50
    inner_steps: int = 5
    batch_size: int = 128
    learning_rate: float = 0.05
    wanted: float = 1.0
    other: float = 1.0

    def __post_init__(self):
        if min(self.epochs, self.inner_steps, self.batch_size) < 1 or not self.learning_rate > 0:
            raise ConfigError(f"{self}: expected epochs, inner_steps and batch_size >= 1 and learning_rate > 0")
        if not min(self.epsilon, self.wanted, self.other) >= 0:
            raise ConfigError(f"{self}: expected no epsilon and no weight below 0")

    def project(self, delta: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """The nearest perturbation within the bound."""
        if self.norm == "inf":
            return jnp.clip(delta, -self.epsilon, self.epsilon)
        return delta * jnp.minimum(1.0, self.epsilon / jnp.maximum(jnp.linalg.norm(delta.reshape(-1)), 1e-12))


class Found(NamedTuple):
    """A perturbation, and the mean loss of each epoch [E]."""

    delta: Float[np.ndarray, "H W C"]
    loss: Float[np.ndarray, "E"]


def find_perturbation(
    parties: tuple[Party, ...],
    data: Batch,
    key: jax.Array,
    config: PerturbationConfig,
    progress: Progress | None = None,
) -> Found:
    """Finds one perturbation that sends images to their labels on all networks together.

    Args:
      parties: the networks; their losses are summed.
      data: images, uint8 [N, H, W, C], and the labels that they are to get, int32 [N].
      key: the start, and the order of the images.
      config: settings.
      progress: called after every epoch.
    """
    networks = tuple(party.network for party in parties)
    variables = jax.device_put(tuple(party.variables for party in parties))
    data = Batch(*jax.device_put(tuple(data)))
    start_key, order_key = jax.random.split(key)
    delta = config.project(
        config.epsilon * jax.random.uniform(start_key, data.images.shape[1:], minval=-1.0, maxval=1.0)
    )

    def run() -> Iterator[dict[str, jax.Array]]:
        nonlocal delta
        for epoch in range(config.epochs):
            delta, metrics = run_pass(config, networks, variables, delta, data, jax.random.fold_in(order_key, epoch))
            yield metrics

    losses = []
    for epoch, metrics in enumerate(fetch_late(run(), watched=progress is not None), 1):
        losses.append(metrics["loss"])
        if progress is not None:
            progress("perturbation", epoch, config.epochs, {name: float(value) for name, value in metrics.items()})
    return Found(np.asarray(delta), np.asarray(losses))


def lay(images: Shaped[np.ndarray, "N H W C"], delta: Float[np.ndarray, "H W C"]) -> Float[np.ndarray, "N H W C"]:
    """clip(x + δ, 0, 1) of images in [0, 1], or uint8 ones scaled to it."""
    return np.asarray(perturb(jnp.asarray(images), jnp.asarray(delta)))


@jit_settings(1, static=1)
def run_pass(
    config: PerturbationConfig,
    networks: tuple[Network, ...],
    variables: tuple[Variables, ...],
    delta: Float[Array, "H W C"],
    data: Batch,
    key: jax.Array,
) -> tuple[Float[Array, "H W C"], dict[str, jax.Array]]:
    """The perturbation after one pass over the images, and the pass's mean loss and accuracy on the wanted labels."""

    def loss_of(delta: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        images = perturb(batch.images, delta)
        told = [network(own, images)[0] for network, own in zip(networks, variables, strict=True)]
        hits = jnp.stack([(logits.argmax(-1) == batch.labels).astype(jnp.float32).mean() for logits in told])
        return jnp.stack([_lose(logits, batch.labels, config).mean() for logits in told]).sum(), hits.mean()

    def step(delta: jax.Array, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key

        def descend(_: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple:
            (loss, hits), gradient = jax.value_and_grad(loss_of, has_aux=True)(carry[0], batch)
            return config.project(carry[0] - config.learning_rate * gradient), loss, hits

        delta, loss, hits = jax.lax.fori_loop(0, config.inner_steps, descend, (delta, jnp.float32(0), jnp.float32(0)))
        return delta, {"loss": loss * len(batch.labels), "accuracy": hits * len(batch.labels)}

    return run_epoch(step, delta, data, key, batch_size=min(config.batch_size, len(data.labels)))


def _lose(logits: Float[Array, "B K"], labels: Int[Array, "B"], config: PerturbationConfig) -> Float[Array, "B"]:
    wanted = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.bool_)
    others = jnp.where(wanted, 0.0, jax.nn.softmax(logits)).max(-1)
    return config.wanted * cross_entropy(logits, labels) - config.other * jnp.log(_NEAR_ONE - others)
