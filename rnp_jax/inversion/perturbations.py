"""Universal perturbations: one faint change of all pixels that sends images to a label, for each label.

min over δ, ‖δ‖∞ ≤ ε, of CE(f(clip(x + δ, 0, 1)), k) over all images x: signed gradient steps, projected onto the bound
(Moosavi-Dezfooli et al., CVPR 2017, by the projected gradient of Shafahi et al., AAAI 2020). It sees backdoors whose
triggers cover the image, which a small mask does not.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rnp_jax.errors import ConfigError
from rnp_jax.inversion.checks import check_images, choose_labels
from rnp_jax.inversion.mask_search import draw_order
from rnp_jax.inversion.stamps import measure_laid, scale
from rnp_jax.models import for_search
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.types import Apply, Batch, Variables


@dataclass(frozen=True)
class PerturbationConfig:
    """Settings of a universal perturbation; their values, but ``batch_size``, share one compiled program.

    Attributes:
      bound: ε, of pixels in [0, 1].
      steps: a batch each.
      step_size: of the first step, of pixels in [0, 1]; it falls linearly to zero.
      batch_size: images a step and label, cut to the number there is.
    """

    bound: float = 12 / 255
    steps: int = 100
    step_size: float = 2 / 255
    batch_size: int = 64

    def __post_init__(self):
        if min(self.steps, self.batch_size) < 1 or not 0 < self.bound <= 1 or not 0 < self.step_size <= 1:
            raise ConfigError(f"{self}: expected steps and batch_size >= 1, bound and step_size in (0, 1]")


@dataclass(frozen=True, eq=False)
class Perturbations:
    """A perturbation of each of K labels, in the order asked for.

    Attributes:
      labels: [K].
      deltas: changes of pixels in [0, 1] [K, H, W, C], each within the bound.
      success: share of held-out images of other classes that it sends to the label [K].
    """

    labels: Int[np.ndarray, "K"]
    deltas: Float[np.ndarray, "K H W C"]
    success: Float[np.ndarray, "K"]


def perturb(images: Float[Array, "B H W C"], delta: Float[Array, "H W C"]) -> Float[Array, "B H W C"]:
    """clip(x + δ, 0, 1) for images in [0, 1], or uint8 ones scaled to it."""
    return jnp.clip(scale(images) + delta[None], 0, 1)


def find_perturbations(
    network: Apply,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: PerturbationConfig,
    *,
    labels: tuple[int, ...] | None = None,
    holdout: Batch | None = None,
) -> Perturbations:
    """Finds a perturbation for every label, each independently of the others.

    Args:
      network: the function of the variables.
      variables: the network to search.
      data: clean images to search on, uint8 [N, H, W, C] and int32 [N].
      key: random starts within the bound, and the order of the images, which all labels share.
      config: settings.
      labels: the labels to try, K of them; by default all.
      holdout: clean images that success is measured on; by default ``data``.

    Raises:
      DataError: no images, images that are not uint8 [N, H, W, C], or no image outside a label's class.
      ConfigError: a label that the network does not have, or one named twice.
    """
    check_images(data)
    chosen = choose_labels(network, variables, data, labels)
    images, size = jnp.asarray(data.images), min(config.batch_size, len(data.images))
    rates = jnp.float32(config.bound), jnp.float32(config.step_size)
    variables, searched = jax.device_put(variables), for_search(network)
    found = [
        _search(searched, size, variables, images, key, jnp.int32(config.steps), rates, jnp.int32(label))
        for label in chosen
    ]
    deltas = np.stack(jax.device_get(found))
    held = data if holdout is None else holdout
    return Perturbations(chosen, deltas, measure_laid(network, variables, held, perturb, (deltas,), chosen))


@jit_settings(1, static=1)
def _search(
    network: Apply,
    batch_size: int,
    variables: Variables,
    images: jax.Array,
    key: jax.Array,
    steps: jax.Array,
    rates: tuple[jax.Array, jax.Array],
    label: jax.Array,
) -> Float[Array, "H W C"]:
    limit, step_size = rates
    start_key, order_key = jax.random.split(key)

    def loss_of(delta: jax.Array, batch: jax.Array) -> jax.Array:
        logits, _ = network(variables, perturb(batch, delta))
        return cross_entropy(logits, jnp.broadcast_to(label, logits.shape[:1])).mean()

    def step(number: jax.Array, delta: jax.Array) -> jax.Array:
        index = draw_order(jax.random.fold_in(order_key, number), len(images), 1, batch_size)[0]
        rate = step_size * (1 - number.astype(jnp.float32) / steps.astype(jnp.float32))
        return jnp.clip(delta - rate * jnp.sign(jax.grad(loss_of)(delta, images[index])), -limit, limit)

    shape = images.shape[1:]
    start = jax.random.uniform(jax.random.fold_in(start_key, label), shape, minval=-limit, maxval=limit)
    return jax.lax.fori_loop(0, steps, step, start)
