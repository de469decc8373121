"""Short searches for the smallest mask that sends images to a label, from random starts or from masks found before.

The optimisation is Neural Cleanse's (Wang et al., S&P 2019): CE(f((1 − m) ∘ x + m ∘ p), k) + cost · ‖m‖₁, with m and p
parametrised by tanh. What differs: a run takes 150 steps instead of thousands, the cost acts from the first step, and
it changes sooner and by less. A search that starts from a known mask takes 100 steps and a cost of 0.005 (``WARM``).

All searches of a network run through one compiled program, whatever their labels, starts, steps and rates.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from rnp_jax.descent import descend
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.inversion.checks import NEXT, check_images, choose_labels, count_classes, find_places, find_wanted
from rnp_jax.inversion.mask_search import bound, draw_order, unbound
from rnp_jax.inversion.stamps import Stamps, measure_stamps, stamp
from rnp_jax.models import for_search
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.types import Apply, Batch, Progress, Variables

_TOGETHER = 10  # labels that an accelerator searches as one batch; a CPU takes them one by one, which it does faster


@dataclass(frozen=True)
class InversionConfig:
    """Settings of a short search. The values of all but ``batch_size`` and ``check`` share one compiled program.

    Attributes:
      steps: of Adam, rounded down to whole checks.
      check: steps between two looks at the success.
      batch_size: images a step and label, cut to the number there is.
      learning_rate: of Adam.
      betas: of Adam.
      success: share of images that a label must be reached on, in (0, 1].
      cost: of a pixel of the mask, at the start.
      raise_after: checks in a row with the wanted success after which the cost is multiplied by ``raised``.
      lower_after: checks in a row without it after which the cost is divided by ``lowered``.
      raised: above 1.
      lowered: above 1.
    """

    steps: int = 150
    check: int = 5
    batch_size: int = 64
    learning_rate: float = 0.1
    betas: tuple[float, float] = (0.5, 0.9)
    success: float = 0.99
    cost: float = 1e-3
    raise_after: int = 2
    lower_after: int = 3
    raised: float = 1.6
    lowered: float = 1.84

    def __post_init__(self):
        counts = (self.check, self.batch_size, self.raise_after, self.lower_after, self.steps - self.check + 1)
        positive = (self.learning_rate, self.cost, self.raised - 1, self.lowered - 1)
        shares = 0 < self.success <= 1 and all(0 <= beta < 1 for beta in self.betas)
        if min(counts) < 1 or not all(0 < each < math.inf for each in positive) or not shares:
            raise ConfigError(
                f"{self}: expected counts of 1 or more, steps >= check, learning_rate and cost > 0, raised and lowered "
                "> 1, success in (0, 1], betas in [0, 1)"
            )


WARM = InversionConfig(steps=100, cost=5e-3)
"""For a search that starts from a mask found before."""


@dataclass(frozen=True, eq=False)
class Inverted:
    """What reaches each label. K labels, in the order asked for.

    Attributes:
      labels: [K].
      stamps: masks [K, H, W] and patterns [K, H, W, C], in [0, 1].
      sizes: sums of the masks [K], in pixels.
      reached: whether the wanted success was reached in the run [K]; where not, the mask is the run's last.
      success: share of held-out images of other classes that mask and pattern send to the label [K].
    """

    labels: Int[np.ndarray, "K"]
    stamps: Stamps
    sizes: Float[np.ndarray, "K"]
    reached: Bool[np.ndarray, "K"]
    success: Float[np.ndarray, "K"]

    def select(self, labels: tuple[int, ...]) -> Stamps:
        """The stamps of some of the labels, in the order given."""
        places = find_places(self.labels, labels)
        return Stamps(self.stamps.masks[places], self.stamps.patterns[places])

    def join(self, other: "Inverted") -> "Inverted":
        """What reaches the labels of both."""
        mine, theirs = ((each.labels, each.sizes, each.reached, each.success) for each in (self, other))
        labels, *figures = map(np.concatenate, zip(mine, theirs, strict=True))
        return Inverted(labels, self.stamps.join(other.stamps), *figures)


def invert(
    network: Apply,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: InversionConfig,
    *,
    labels: tuple[int, ...] | None = None,
    starts: Stamps | None = None,
    holdout: Batch | None = None,
    progress: Progress | None = None,
) -> Inverted:
    """Searches the smallest mask of every label, each independently of the others.

    Args:
      network: the function of the variables.
      variables: the network to search.
      data: clean images to search on, uint8 [N, H, W, C] and int32 [N].
      key: random starts, a label's own, and the order of the images, which all labels share.
      config: settings; ``WARM`` goes with ``starts``.
      labels: the labels to try, K of them, ``NEXT`` for every class to the next one; by default all labels.
      starts: a mask and a pattern of each label to start from; by default uniform random ones.
      holdout: clean images that success is measured on; by default ``data``.
      progress: called after every group of labels with its mean size as ``loss`` and the share reached.

    Raises:
      DataError: no images, images that are not uint8 [N, H, W, C], no image outside a label's class, or starts of
        another number or size.
      ConfigError: a label that the network does not have, or one named twice.
    """
    check_images(data)
    chosen = choose_labels(network, variables, data, labels, NEXT)
    shape = data.images.shape[1:]
    if starts is None:
        start_key, key = jax.random.split(key)
        drawn: Stamps = _draw_starts(shape, start_key, jnp.asarray(chosen))
        starts = drawn
    if starts.masks.shape != (len(chosen), *shape[:2]) or starts.patterns.shape != (len(chosen), *shape):
        raise DataError(
            f"starts {list(starts.masks.shape)} and {list(starts.patterns.shape)} for {len(chosen)} labels on images "
            f"{list(shape)}: expected a mask and a pattern of the images' size for each label"
        )
    wanted = find_wanted(chosen, np.asarray(data.labels), count_classes(network, variables, data))
    found, reached = _search_all(network, variables, data, key, config, wanted, starts, progress)
    sizes = found.masks.sum((1, 2), dtype=np.float64)
    held = data if holdout is None else holdout
    success = measure_stamps(network, variables, held, np.asarray(found.masks), np.asarray(found.patterns), chosen)
    return Inverted(chosen, found, sizes, reached, success)


class _Rates(NamedTuple):
    learning_rate: jax.Array
    betas: tuple[jax.Array, jax.Array]
    success: jax.Array
    cost: jax.Array
    raise_after: jax.Array
    lower_after: jax.Array
    raised: jax.Array
    lowered: jax.Array


class _State(NamedTuple):
    free: tuple[jax.Array, jax.Array]  # mask [H, W] and pattern [H, W, C] before tanh
    adam: optax.OptState
    best: tuple[jax.Array, jax.Array]  # the smallest that succeeded or, before any has, the latest
    least: jax.Array  # its size [], infinite before any has succeeded
    cost: jax.Array  # []
    up: jax.Array  # int32 [], checks in a row with success
    down: jax.Array  # int32 [], checks in a row without


@partial(jax.jit, static_argnums=0)
def _draw_starts(shape: tuple[int, int, int], key: jax.Array, labels: Int[Array, "K"]) -> Stamps:
    def draw(label: jax.Array) -> Stamps:
        mask_key, pattern_key = jax.random.split(jax.random.fold_in(key, label))
        return Stamps(jax.random.uniform(mask_key, shape[:2]), jax.random.uniform(pattern_key, shape))

    return jax.vmap(draw)(labels)


def _search_all(
    network: Apply,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: InversionConfig,
    wanted: Int[np.ndarray, "K N"],
    starts: Stamps,
    progress: Progress | None,
) -> tuple[Stamps, Bool[np.ndarray, "K"]]:
    """Groups of labels, all of one size, through one program; the host waits once, or for every report."""
    network = for_search(network)
    count, size = len(wanted), 1 if jax.default_backend() == "cpu" else _TOGETHER
    padded = np.resize(np.arange(count), -(-count // size) * size).reshape(-1, size)
    rates = _Rates(*jax.tree.map(jnp.asarray, (
        np.float32(config.learning_rate), tuple(map(np.float32, config.betas)), np.float32(config.success),
        np.float32(config.cost), np.int32(config.raise_after), np.int32(config.lower_after),
        np.float32(config.raised), np.float32(config.lowered),
    )))  # fmt: skip
    images, checks = jnp.asarray(data.images), jnp.int32(config.steps // config.check)
    batch_size = min(config.batch_size, len(images))
    variables, starts = jax.device_put((variables, starts))
    found = []
    for rows in padded:
        own = Stamps(starts.masks[rows], starts.patterns[rows])
        found.append(
            _search(
                network, config.check, batch_size, variables, images, key, rates, checks, jnp.asarray(wanted[rows]), own
            )
        )
        if progress is not None:
            stamps, reached = found[-1]
            figures = {"loss": float(stamps.masks.sum()) / size, "accuracy": float(reached.mean())}
            progress("invert", min(len(found) * size, count), count, figures)
    masks, patterns, reached = (
        np.concatenate(parts)[:count]
        for parts in zip(*[(*stamps[:2], reached) for stamps, reached in jax.device_get(found)], strict=True)
    )
    return Stamps(masks, patterns), reached


@jit_settings(1, static=2)
def _search(
    network: Apply,
    check: int,
    batch_size: int,
    variables: Variables,
    images: jax.Array,
    key: jax.Array,
    rates: _Rates,
    checks: jax.Array,
    wanted: Int[Array, "R N"],
    starts: Stamps,
) -> tuple[Stamps, Bool[Array, "R"]]:
    """The runs of some labels from start to end."""
    adam = optax.chain(optax.scale_by_adam(*rates.betas), optax.scale(-rates.learning_rate))

    def run(wanted: Int[Array, "N"], start: Stamps) -> tuple[Stamps, jax.Array]:
        def loss_of(free: tuple[jax.Array, jax.Array], index: jax.Array, cost: jax.Array) -> tuple:
            mask, pattern = map(bound, free)
            logits, _ = network(variables, stamp(images[index], mask, pattern))
            goal = wanted[index]
            return cross_entropy(logits, goal).mean() + cost * mask.sum(), (logits.argmax(-1) == goal).mean()

        def look(number: jax.Array, state: _State) -> _State:
            def step(carry: tuple, index: jax.Array) -> tuple[tuple, jax.Array]:
                free, opt_state = carry
                gradient, success = jax.grad(loss_of, has_aux=True)(free, index, state.cost)
                return descend(adam, gradient, opt_state, free), success

            order = draw_order(jax.random.fold_in(key, number), len(images), check, batch_size)
            (free, opt_state), successes = jax.lax.scan(step, (state.free, state.adam), order)
            return _advance(state, free, opt_state, successes.mean() >= rates.success, rates)

        free = (unbound(start.masks), unbound(start.patterns))
        zero, never = jnp.int32(0), jnp.float32(jnp.inf)
        state = _State(free, adam.init(free), free, never, rates.cost, zero, zero)
        state = jax.lax.fori_loop(0, checks, look, state)
        return Stamps(*map(bound, state.best)), jnp.isfinite(state.least)

    return jax.vmap(run)(wanted, starts)


def _advance(
    state: _State, free: tuple[jax.Array, jax.Array], adam: optax.OptState, good: jax.Array, rates: _Rates
) -> _State:
    """What a look at the success of the steps since the last one changes."""
    size = bound(free[0]).sum()
    keep = (good & (size < state.least)) | jnp.isinf(state.least)
    best = jax.tree.map(partial(jnp.where, keep), free, state.best)
    least = jnp.where(good, jnp.minimum(size, state.least), state.least)
    up, down = jnp.where(good, state.up + 1, 0), jnp.where(good, 0, state.down + 1)
    raises, lowers = up >= rates.raise_after, down >= rates.lower_after
    cost = jnp.where(raises, state.cost * rates.raised, jnp.where(lowers, state.cost / rates.lowered, state.cost))
    return _State(free, adam, best, least, cost, jnp.where(raises, 0, up), jnp.where(lowers, 0, down))
