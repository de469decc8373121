"""Universal warps: one smooth displacement of all pixels that sends images to a label, for each label.

A coarse grid of offsets is enlarged to the image and bounded by tanh, as WaNet's field is coarse and smooth (Nguyen &
Tran, ICLR 2021); Adam moves the grid so that CE(f(warp(x)), k) falls over all images x. It sees backdoors that answer
to a warp, which no mask and pattern expresses.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int, Shaped

from rnp_jax.checks import check_number
from rnp_jax.descent import descend
from rnp_jax.errors import ConfigError
from rnp_jax.inversion.anomaly import find_reached
from rnp_jax.inversion.checks import check_images, choose_labels, find_places
from rnp_jax.inversion.mask_search import draw_order
from rnp_jax.inversion.stamps import measure_laid, scale
from rnp_jax.models import for_search
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.types import Apply, Batch, Variables


@dataclass(frozen=True)
class WarpConfig:
    """Settings of a universal warp; all but ``grid`` and ``batch_size`` share one compiled program.

    Attributes:
      bound: the largest displacement along either axis, in pixels.
      grid: offsets along a side of the coarse grid.
      steps: of Adam, a batch each.
      learning_rate: of Adam.
      batch_size: images a step and label, cut to the number there is.
      works: success from which a label stands out, in (0, 1].
      ahead: factor by which its success must exceed that of the median label.
    """

    bound: float = 1.0
    grid: int = 4
    steps: int = 60
    learning_rate: float = 0.1
    batch_size: int = 32
    works: float = 0.5
    ahead: float = 2.0

    def __post_init__(self):
        check_number("grid", self.grid, 2, integer=True)
        positive = all(0 < each < np.inf for each in (self.bound, self.learning_rate, self.works))
        if min(self.steps, self.batch_size) < 1 or not positive or self.works > 1 or not self.ahead >= 1:
            raise ConfigError(
                f"{self}: expected steps, batch_size and ahead >= 1, bound and learning_rate > 0, works in (0, 1]"
            )


@dataclass(frozen=True, eq=False)
class Warps:
    """A warp of each of K labels, in the order asked for.

    Attributes:
      labels: [K].
      fields: displacements (down, right) in pixels [K, H, W, 2], each within the bound.
      success: share of held-out images of other classes that it sends to the label [K].
    """

    labels: Int[np.ndarray, "K"]
    fields: Float[np.ndarray, "K H W 2"]
    success: Float[np.ndarray, "K"]

    def select(self, labels: tuple[int, ...]) -> Float[np.ndarray, "K H W 2"]:
        """The displacements of some of the labels, in the order given."""
        return self.fields[find_places(self.labels, labels)]

    def find_outliers(self, config: WarpConfig) -> list[int]:
        """Places of the labels that a warp reaches and others do not, the most successful first."""
        return find_reached(self.success, float(np.median(self.success)), config.works, config.ahead)


def warp(images: Shaped[Array, "B H W C"], field: Float[Array, "H W 2"]) -> Float[Array, "B H W C"]:
    """Images in [0, 1], or uint8 ones scaled to it, each pixel read bilinearly where its displacement points.

    What lies outside the image reads as its edge.
    """
    rows, columns = jnp.meshgrid(*(jnp.arange(size, dtype=jnp.float32) for size in field.shape[:2]), indexing="ij")
    places = [rows + field[..., 0], columns + field[..., 1]]
    read = partial(map_coordinates, coordinates=places, order=1, mode="nearest")
    return jax.vmap(jax.vmap(read, in_axes=-1, out_axes=-1))(scale(images))


def find_warps(
    network: Apply,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: WarpConfig,
    *,
    labels: tuple[int, ...] | None = None,
    holdout: Batch | None = None,
) -> Warps:
    """Finds a warp for every label, each independently of the others.

    Args:
      network: the function of the variables.
      variables: the network to search.
      data: clean images to search on, uint8 [N, H, W, C] and int32 [N].
      key: random starts of a tenth of the bound, and the order of the images, which all labels share.
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
    rates = jnp.float32(config.bound), jnp.float32(config.learning_rate)
    variables, searched = jax.device_put(variables), for_search(network)
    found = [
        _search(searched, config.grid, size, variables, images, key, jnp.int32(config.steps), rates, jnp.int32(label))
        for label in chosen
    ]
    fields = np.stack(jax.device_get(found))
    held = data if holdout is None else holdout
    return Warps(chosen, fields, measure_laid(network, variables, held, warp, (fields,), chosen))


@jit_settings(1, static=2)
def _search(
    network: Apply,
    grid: int,
    batch_size: int,
    variables: Variables,
    images: jax.Array,
    key: jax.Array,
    steps: jax.Array,
    rates: tuple[jax.Array, jax.Array],
    label: jax.Array,
) -> Float[Array, "H W 2"]:
    limit, learning_rate = rates
    start_key, order_key = jax.random.split(key)
    adam = optax.chain(optax.scale_by_adam(), optax.scale(-learning_rate))

    def enlarge(coarse: jax.Array) -> jax.Array:
        return limit * jnp.tanh(jax.image.resize(coarse, (*images.shape[1:3], 2), "bicubic"))

    def loss_of(coarse: jax.Array, batch: jax.Array) -> jax.Array:
        logits, _ = network(variables, warp(batch, enlarge(coarse)))
        return cross_entropy(logits, jnp.broadcast_to(label, logits.shape[:1])).mean()

    def step(number: jax.Array, carry: tuple[jax.Array, optax.OptState]) -> tuple[jax.Array, optax.OptState]:
        coarse, opt_state = carry
        index = draw_order(jax.random.fold_in(order_key, number), len(images), 1, batch_size)[0]
        return descend(adam, jax.grad(loss_of)(coarse, images[index]), opt_state, coarse)

    shape = (grid, grid, 2)
    start = jax.random.uniform(jax.random.fold_in(start_key, label), shape, minval=-0.1, maxval=0.1)
    coarse, _ = jax.lax.fori_loop(0, steps, step, (start, adam.init(start)))
    return enlarge(coarse)
