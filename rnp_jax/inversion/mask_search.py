"""The search for the smallest mask that sends images to a label, as one compiled program for all labels.

Neural Cleanse's optimisation and its schedule for λ (Wang et al., S&P 2019, and its release); ``detection.triggers``
uses it.
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
from rnp_jax.errors import ConfigError
from rnp_jax.inversion.stamps import stamp
from rnp_jax.models import for_search
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.types import Apply, Batch, Progress, Variables

_REPORTS = 20  # calls of ``progress`` in a run of the full length
_AT_ONCE = 1280  # images in a step of several labels: of a ResNet-18 of width 64, they take about 9 GB
_OPEN = 1.999  # opens the interval of initial values: arctanh is finite there


@dataclass(frozen=True)
class TriggerConfig:
    """Settings of trigger recovery; the defaults are Neural Cleanse's release's, but for ``margin``.

    Attributes:
      steps: the most times that the schedule looks at success and norm.
      batches: optimiser steps between two looks.
      batch_size: images an optimiser step and label, cut to the number there is.
      learning_rate: of Adam.
      betas: of Adam.
      success: share of images a label must be reached on, in (0, 1].
      weight: λ, once it is set.
      patience: looks in a row with the wanted success (or without it) before λ is set or raised (or lowered).
      factor: λ is multiplied by it, and divided by its power of 1.5.
      stop_patience: looks without a smaller norm after which a label's run ends, once λ was both raised and lowered.
      suspicious: anomaly index above which a label is suspected.
      margin: share of the median norm that its norm may not exceed either, in (0, 1]; 1 is the published rule.
    """

    steps: int = 1000
    batches: int = 31
    batch_size: int = 32
    learning_rate: float = 0.1
    betas: tuple[float, float] = (0.5, 0.9)
    success: float = 0.99
    weight: float = 1e-3
    patience: int = 5
    factor: float = 2.0
    stop_patience: int = 25
    suspicious: float = 2.0
    margin: float = 0.5

    def __post_init__(self):
        counts = (self.steps, self.batches, self.batch_size, self.patience, self.stop_patience)
        positive = (self.learning_rate, self.weight, self.suspicious, self.factor - 1)
        rates_fit = 0 < self.success <= 1 and 0 < self.margin <= 1 and all(0 <= beta < 1 for beta in self.betas)
        if min(counts) < 1 or not all(0 < each < math.inf for each in positive) or not rates_fit:
            raise ConfigError(
                f"{self}: expected counts of 1 or more, learning_rate, weight and suspicious > 0, factor > 1, success "
                "and margin in (0, 1], betas in [0, 1)"
            )


class Schedule(NamedTuple):
    """λ of one label, and what its next value and the end of the run depend on."""

    weight: Float[Array, ""]
    kept: Int[Array, ""]  # looks in a row with success, while λ is 0
    up: Int[Array, ""]  # looks in a row with success
    down: Int[Array, ""]  # looks in a row without
    raised: Bool[Array, ""]
    lowered: Bool[Array, ""]
    least: Float[Array, ""]  # smallest norm so far
    stale: Int[Array, ""]  # looks in a row that did not lower it
    stopped: Bool[Array, ""]


class Search(NamedTuple):
    """What a look changes, of one label."""

    free: tuple[jax.Array, jax.Array]  # mask [H, W] and pattern [H, W, C] before tanh
    opt_state: optax.OptState
    best: tuple[jax.Array, jax.Array]  # mask and pattern kept
    schedule: Schedule
    step: jax.Array  # int32 []
    history: dict[str, jax.Array]  # [steps]


def search(
    network: Apply,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: TriggerConfig,
    labels: Int[np.ndarray, "K"],
    progress: Progress | None,
) -> Search:
    """All runs to their ends: a call of the program without ``progress``, some twenty with it."""
    start_key, order_key = jax.random.split(key)
    network, together = for_search(network), jax.default_backend() != "cpu"
    wanted = jnp.asarray(labels)
    run = start_search(config, data.images.shape[1:], start_key, wanted)
    stride = config.steps if progress is None else -(-config.steps // _REPORTS)
    for until in range(stride, config.steps + stride, stride):
        until = min(until, config.steps)
        run = run_until(network, config, together, variables, data.images, order_key, run, wanted, jnp.int32(until))
        if progress is not None:
            done = int(run.step.max())
            at = np.maximum(np.asarray(run.step), 1) - 1
            last = {name: np.asarray(rows)[np.arange(len(at)), at] for name, rows in run.history.items()}
            loss = float((last["weight"] * last["norm"]).mean())
            progress("trigger", done, config.steps, {"loss": loss, "accuracy": float(last["success"].mean())})
            if run.schedule.stopped.all():
                break
    return run


@jit_settings(1, static=1)
def start_search(config: TriggerConfig, shape: tuple[int, int, int], key: jax.Array, labels: Int[Array, "K"]) -> Search:
    """Each label's own initial values: masks and patterns uniform in [0, 1]."""

    def start(label: jax.Array) -> Search:
        mask_key, pattern_key = jax.random.split(jax.random.fold_in(key, label))
        draws = jax.random.uniform(mask_key, shape[:2]), jax.random.uniform(pattern_key, shape)
        free = unbound(draws[0]), unbound(draws[1])
        history = {name: jnp.full((config.steps,), jnp.nan) for name in ("success", "norm", "weight")}
        return Search(free, _adam(config).init(free), free, start_schedule(), jnp.int32(0), history)

    return jax.vmap(start)(labels)


@jit_settings(3)
def run_until(
    network: Apply,
    config: TriggerConfig,
    together: bool,
    variables: Variables,
    images: jax.Array,
    key: jax.Array,
    run: Search,
    labels: Int[Array, "K"],
    until: jax.Array,
) -> Search:
    """Every label's run, to its end or to step ``until``.

    ``together``: several labels' images as one batch, as ``vmap`` over unbatched weights makes it, until the last of
    their runs has ended; otherwise one label after another, each only as long as it takes, which a CPU does faster.
    """

    def run_label(run: Search, label: jax.Array) -> Search:
        look = partial(_look, network, config, variables, images, key, label)
        return jax.lax.while_loop(lambda run: (run.step < until) & ~run.schedule.stopped, look, run)

    group = max(1, _AT_ONCE // config.batch_size) if together else None
    return jax.lax.map(lambda each: run_label(*each), (run, labels), batch_size=group)


def _look(
    network: Apply,
    config: TriggerConfig,
    variables: Variables,
    images: jax.Array,
    key: jax.Array,
    label: jax.Array,
    run: Search,
) -> Search:
    """``config.batches`` optimiser steps of one label, then what the schedule makes of them."""
    tx, weight = _adam(config), run.schedule.weight

    def loss_of(free: tuple[jax.Array, jax.Array], batch: jax.Array) -> tuple[jax.Array, jax.Array]:
        mask, pattern = map(bound, free)
        logits, _ = network(variables, stamp(batch, mask, pattern))
        wanted = jnp.broadcast_to(label, logits.shape[:1])
        return cross_entropy(logits, wanted).mean() + weight * mask.sum(), (logits.argmax(-1) == label).mean()

    def step(carry: tuple, index: jax.Array) -> tuple[tuple, jax.Array]:
        free, opt_state = carry
        gradient, success = jax.grad(loss_of, has_aux=True)(free, images[index])
        return descend(tx, gradient, opt_state, free), success

    order = draw_order(jax.random.fold_in(key, run.step), len(images), config.batches, config.batch_size)
    (free, opt_state), successes = jax.lax.scan(step, (run.free, run.opt_state), order)
    success, norm = successes.mean(), bound(free[0]).sum()
    schedule = advance_schedule(run.schedule, success, norm, config)
    # What is kept: the smallest that succeeded or, before any has, the latest.
    keep = (schedule.least < run.schedule.least) | jnp.isinf(schedule.least)
    best = jax.tree.map(partial(jnp.where, keep), free, run.best)
    row = {"success": success, "norm": norm, "weight": weight}
    history = {name: values.at[run.step].set(row[name]) for name, values in run.history.items()}
    return Search(free, opt_state, best, schedule, run.step + 1, history)


def draw_order(key: jax.Array, count: int, batches: int, batch_size: int) -> Int[Array, "batches size"]:
    """Images of each step between two looks: as many random orders of the set as it takes, one after another."""
    size = min(batch_size, count)
    wanted = batches * size
    keys = jax.random.split(key, -(-wanted // count))
    orders = jax.vmap(lambda each: jax.random.permutation(each, count))(keys)
    return orders.reshape(-1)[:wanted].reshape(batches, size)


def bound(free: jax.Array) -> jax.Array:
    """What the optimiser moves, as values in [0, 1]."""
    return (jnp.tanh(free) + 1) / 2


def unbound(values: jax.Array) -> jax.Array:
    """What ``bound`` makes of it are the values in [0, 1], but for the ends of the interval, which it cannot reach."""
    return jnp.arctanh((values - 0.5) * _OPEN)


def _adam(config: TriggerConfig) -> optax.GradientTransformation:
    return optax.adam(config.learning_rate, *config.betas)


def start_schedule() -> Schedule:
    """Before the first look: λ is 0."""
    zero, no = jnp.int32(0), jnp.bool_(False)
    return Schedule(jnp.float32(0), zero, zero, zero, no, no, jnp.float32(jnp.inf), zero, no)


def advance_schedule(state: Schedule, success: Float[Array, ""], norm: Float[Array, ""], config: TriggerConfig):
    """The schedule after a look at the success of the steps since the last one, and at the mask they led to."""
    good = success >= config.success
    least = jnp.where(good, jnp.minimum(state.least, norm), state.least)
    stale = jnp.where(jnp.isfinite(least) & (least >= state.least), state.stale + 1, 0)
    stopped = state.raised & state.lowered & (stale >= config.stop_patience)

    kept = jnp.where((state.weight == 0) & good, state.kept + 1, 0)
    sets = kept >= config.patience
    weight = jnp.where(sets, config.weight, state.weight)
    up = jnp.where(good, jnp.where(sets, 0, state.up) + 1, 0)
    down = jnp.where(good, 0, jnp.where(sets, 0, state.down) + 1)
    raises, lowers = up >= config.patience, down >= config.patience
    weight = jnp.where(raises, weight * config.factor, jnp.where(lowers, weight / config.factor**1.5, weight))
    return Schedule(
        weight=weight,
        kept=kept,
        up=jnp.where(raises, 0, up),
        down=jnp.where(lowers, 0, down),
        raised=jnp.where(sets, False, state.raised) | raises,
        lowered=jnp.where(sets, False, state.lowered) | lowers,
        least=least,
        stale=stale,
        stopped=stopped,
    )
