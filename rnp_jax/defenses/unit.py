"""UNIT: tighten upper bounds on the activations until clean images suffer (Cheng et al., ECCV 2024).

Weights stay as they are. After every activation, each neuron gets a bound b, and returns min(a, max(b, 0)):

    min over b of  CE + c Σ_activations mean(max(b, 0)),    from b = mean + 4 · standard deviation on the clean images

As the release does: batch norm is in evaluation mode; the images are augmented once; Adam takes 300 steps of all images
at once. A step is good where accuracy on held-out clean images is at most 3 points below the network's own. c starts at
1e-3; after five good steps in a row it doubles, and after five bad ones it falls by a factor of 2^1.5; below 1e-3, five
good steps bring it back to 1e-3. The bounds are kept that have the smallest Σ mean of all good ones. The release is for
CIFAR-10's ResNet-18, with a bound after each of the 17 ReLUs; here every activation of any architecture has one.

What differs:

- The bounds that are kept are those whose accuracy was measured, after a step. The release keeps those before the step,
  whose accuracy is not known.
- Where no step is good, the network stays as it is, and a warning says so. The release takes the last bounds.
- The held-out images are not augmented.
- c is kept as a power of √2: where it rises to 8e-3 and falls twice, it is 1e-3 again, and not a little less.
- The gradient of all images is summed over parts of them, which changes rounding alone.

The written file keeps the bounds beside the weights: see ``rnp_jax.models.bounds``.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from rnp_jax.defenses.method import Chooses, Method, Task
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig
from rnp_jax.defenses.tuning import begin, conclude
from rnp_jax.descent import descend
from rnp_jax.errors import ConfigError, DataError, DefenseError
from rnp_jax.fetching import fetch_late
from rnp_jax.models import Network
from rnp_jax.models.bounds import apply_bounds, bound_entries
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import Augment, batch_metrics, cross_entropy, run_epoch
from rnp_jax.types import Batch, Variables

Bounds: TypeAlias = dict[str, Any]
"""By the layer before an activation, one value for each of its neurons."""

_STRIDE = 10  # steps between two reports of progress
_HIGHEST = 120  # level of the cost, beyond what 300 steps reach: squared slopes must stay finite


@dataclass(frozen=True)
class UnitConfig:
    """Settings of UNIT; the defaults are the release's.

    Attributes:
      steps: number of steps.
      learning_rate: learning rate of Adam.
      betas: how much of the gradient's moments Adam keeps at each step.
      spread: standard deviations above the mean at which bounds start.
      cost: weight c of the penalty at the start.
      patience: good or bad steps in a row that change c.
      accuracy_budget: share of the held-out images by which accuracy may fall in a good step.
      batch_size: images that are computed together, which only decides how much memory is needed.
    """

    steps: int = 300
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.9)
    spread: float = 4.0
    cost: float = 1e-3
    patience: int = 5
    accuracy_budget: float = 0.03
    batch_size: int = 100

    def __post_init__(self):
        if min(self.steps, self.patience, self.batch_size) < 1 or not min(self.learning_rate, self.cost) > 0:
            raise ConfigError(
                f"{self}: expected steps, patience and batch_size >= 1, and learning_rate and cost above 0"
            )
        if not (0 <= min(self.betas) <= max(self.betas) < 1 and 0 <= self.accuracy_budget <= 1 and self.spread >= 0):
            raise ConfigError(f"{self}: expected betas in [0, 1), accuracy_budget in [0, 1] and spread >= 0")


class Control(NamedTuple):
    """How the cost is controlled: c is the first cost times √2 to the power ``level``."""

    level: Int[Array, ""]
    good: Int[Array, ""]  # steps in a row
    bad: Int[Array, ""]


class UnitState(NamedTuple):
    """What a step changes."""

    bounds: Bounds
    opt_state: optax.OptState
    control: Control
    best: Bounds
    smallest: Float[Array, ""]  # of the best; infinite as long as there is none
    step: Int[Array, ""]
    history: dict[str, Array]  # [E]


class Given(NamedTuple):
    """What no step changes."""

    variables: Variables
    data: Batch
    holdout: Batch
    least: Int[Array, ""]  # held-out images that a good step predicts correctly


def run_unit(task: Task, config: UnitConfig) -> Defended:
    """Tightens the bounds, and keeps the tightest that the held-out images allow.

    Raises:
      ConfigError: nothing is held out to judge steps by, or there are fewer than 2 images to start from.
      DataError: the images are not of the size that the network was made for.
      DefenseError: the network has no activation, or the loss became infinite or not a number.
    """
    begun, given, start = begin("original", task, RnpConfig()), *_prepare(task, config)
    with task.stage("unit"):
        state = _run(task, config, given, start)
        history = jax.device_get(state.history)
    task.note("unit", history)
    smallest, first = float(state.smallest), float(jax.device_get(mean_bounds(start)))
    limit = f"{config.accuracy_budget:.1%} of the {len(given.holdout.labels)} held-out clean images"
    count = sum(np.size(value) for value in start.values())
    if math.isinf(smallest):
        rule = f"Each of {config.steps} steps lowered accuracy by more than {limit}, so the network stays as it is."
        task.warn(rule)
        tuned = task.variables
    else:
        rule = (
            f"No filter is pruned: {count:,} neurons of {len(start)} activations have upper bounds, the smallest of "
            f"{config.steps} steps at which accuracy falls by at most {limit}. Their mean, summed over the "
            f"activations, fell from {first:.3g} to {smallest:.3g}."
        )
        tuned = apply_bounds(task.variables, state.best)
    choice = begun.choice.model_copy(update={"rule": rule, "budget": config.accuracy_budget})
    kept = replace(begun, kind="bounds", choice=choice, unchanged=math.isinf(smallest))
    return conclude(task, kept, tuned)


def _prepare(task: Task, config: UnitConfig) -> tuple[Given, Bounds]:
    """What the steps work with, and the bounds they start from."""
    shape = task.network.architecture.image_shape
    if task.holdout is None or len(task.holdout.labels) == 0:
        raise ConfigError("no held-out images to judge the bounds by: hold some out")
    if len(task.data.labels) < 2:
        raise ConfigError(f"{len(task.data.labels)} images to start from: expected 2 or more")
    if tuple(task.data.images.shape[1:]) != shape:
        raise DataError(
            f"images of shape {tuple(task.data.images.shape[1:])}: the bounds need images of the shape that the "
            f"network was opened for, {shape}; give it with --image-shape"
        )
    if not bound_entries(task.network.architecture):
        raise DefenseError(f"{task.network.architecture.name} has no activation to bound")
    data, holdout = (Batch(*jax.device_put(tuple(each))) for each in (task.data, task.holdout))
    with task.stage("start"):
        if task.augment is not None:
            data = data._replace(images=_augment(task.augment, task.key, data.images))
        size = config.batch_size
        start = start_bounds(task.network, size, task.variables, data.images, jnp.float32(config.spread))
        correct = int(_count_correct(task.network, size, task.variables, holdout))
    least = math.ceil(round(correct - config.accuracy_budget * len(holdout.labels), 6))
    return Given(task.variables, data, holdout, jnp.int32(least)), start


@jit_settings()
def _augment(augment: Augment, key: jax.Array, images: jax.Array) -> jax.Array:
    return augment(key, images)


def _run(task: Task, config: UnitConfig, given: Given, start: Bounds) -> UnitState:
    """All steps. Without a report of progress, the host does not wait."""
    state, progress = begin_steps(config, start), task.progress
    if progress is None:
        return run_steps(task.network, config, state, given, jnp.int32(config.steps))

    def run() -> Iterator[tuple[int, dict[str, jax.Array]]]:
        nonlocal state
        for done in range(0, config.steps, _STRIDE):
            until = min(done + _STRIDE, config.steps)
            state = run_steps(task.network, config, state, given, jnp.int32(until))
            yield until, {name: state.history[name] for name in ("loss", "accuracy")}

    for until, rows in fetch_late(run()):
        progress("unit", until, config.steps, {name: float(row[until - 1]) for name, row in rows.items()})
    return state


@jit_settings(1, static=1)
def start_bounds(
    network: Network, batch_size: int, variables: Variables, images: Float[Array, "N H W C"], spread: Float[Array, ""]
) -> Bounds:
    """Mean plus ``spread`` standard deviations (of N - 1) of each neuron's activations over the images."""
    shapes = jax.eval_shape(network.activated, variables, images[:1])
    zeros = {name: jnp.zeros(each.shape[1:], jnp.float32) for name, each in shapes.items()}

    def step(carry: tuple, batch: Batch, key: jax.Array) -> tuple[tuple, dict[str, jax.Array]]:
        del key
        seen, mean, squares = carry
        count = batch.labels.shape[0]
        found = {name: each.astype(jnp.float32) for name, each in network.activated(variables, batch.images).items()}
        own = {name: each.mean(0) for name, each in found.items()}
        away = {name: own[name] - mean[name] for name in mean}
        total = seen + count
        squares = {
            name: squares[name]
            + jnp.square(found[name] - own[name][None]).sum(0)
            + jnp.square(away[name]) * (seen * count / total)
            for name in mean
        }
        return (total, {name: mean[name] + away[name] * (count / total) for name in mean}, squares), {}

    data = Batch(images, jnp.zeros(len(images), jnp.int32))
    size = min(batch_size, len(images))
    (_, mean, squares), _ = run_epoch(
        step, (jnp.float32(0), zeros, zeros), data, jax.random.key(0), batch_size=size, shuffle=False
    )
    return {name: mean[name] + spread * jnp.sqrt(squares[name] / (len(images) - 1)) for name in mean}


@jit_settings()
def begin_steps(config: UnitConfig, start: Bounds) -> UnitState:
    """The state before the first step."""
    names = ("loss", "accuracy", "size", "cost", "holdout_accuracy")
    history = {name: jnp.zeros(config.steps, jnp.float32) for name in names}
    control = Control(jnp.int32(0), jnp.int32(0), jnp.int32(0))
    return UnitState(start, _adam(config).init(start), control, start, jnp.float32(jnp.inf), jnp.int32(0), history)


@jit_settings(2)
def run_steps(network: Network, config: UnitConfig, state: UnitState, given: Given, until: Int[Array, ""]) -> UnitState:
    """Steps up to a number. The rows of the history are of each step: its loss, its cost, and what it led to."""

    def advance(state: UnitState) -> UnitState:
        cost = config.cost * jnp.exp2(state.control.level.astype(jnp.float32) / 2)
        slopes, metrics = _descend(network, config.batch_size, state.bounds, given)
        pulls = jax.grad(lambda bounds: cost * mean_bounds(bounds))(state.bounds)
        slopes = jax.tree.map(jnp.add, slopes, pulls)
        bounds, opt_state = descend(_adam(config), slopes, state.opt_state, state.bounds)
        correct = _count_correct(network, config.batch_size, apply_bounds(given.variables, bounds), given.holdout)
        size, fits = mean_bounds(bounds), correct >= given.least
        better = fits & (size < state.smallest)
        best = jax.tree.map(partial(jnp.where, better), bounds, state.best)
        accuracy = correct.astype(jnp.float32) / given.holdout.labels.shape[0]
        row = {**metrics, "size": size, "cost": cost, "holdout_accuracy": accuracy}
        history = {name: values.at[state.step].set(row[name]) for name, values in state.history.items()}
        control, smallest = adjust(state.control, fits, config.patience), jnp.where(better, size, state.smallest)
        return UnitState(bounds, opt_state, control, best, smallest, state.step + 1, history)

    return jax.lax.while_loop(lambda state: state.step < until, advance, state)


def adjust(control: Control, fits: Bool[Array, ""], patience: int) -> Control:
    """The control after a step that was good or not."""
    level = control.level
    good, bad = jnp.where(fits, control.good + 1, 0), jnp.where(fits, 0, control.bad + 1)
    returns = (level < 0) & (good >= patience)
    level, good = jnp.where(returns, 0, level), jnp.where(returns, 1, good)  # the last of them counts anew
    raised = jnp.minimum(level + 2, _HIGHEST)
    level, good = jnp.where(good >= patience, raised, level), jnp.where(good >= patience, 0, good)
    level, bad = jnp.where(bad >= patience, level - 3, level), jnp.where(bad >= patience, 0, bad)
    return Control(level, good, bad)


def mean_bounds(bounds: Bounds) -> Float[Array, ""]:
    """Σ_activations mean(max(b, 0)), with torch's slope of 1 / (C · H · W) at b = 0."""
    return jnp.stack([jnp.where(bound >= 0, bound, 0).mean() for bound in bounds.values()]).sum()


def _adam(config: UnitConfig) -> optax.GradientTransformation:
    return optax.adam(config.learning_rate, *config.betas)


def _descend(network: Network, batch_size: int, bounds: Bounds, given: Given) -> tuple[Bounds, dict[str, jax.Array]]:
    """The gradient of the mean cross-entropy over all images, and their mean loss and accuracy."""
    count = given.data.labels.shape[0]

    def loss(bounds: Bounds, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits, _ = network(apply_bounds(given.variables, bounds), batch.images)
        return cross_entropy(logits, batch.labels).sum() / count, batch_metrics(logits, batch.labels)

    def step(total: Bounds, batch: Batch, key: jax.Array) -> tuple[Bounds, dict[str, jax.Array]]:
        del key
        slopes, metrics = jax.grad(loss, has_aux=True)(bounds, batch)
        return jax.tree.map(jnp.add, total, slopes), metrics

    return _pass_over(step, jax.tree.map(jnp.zeros_like, bounds), given.data, batch_size)


@jit_settings(1, static=1)
def _count_correct(network: Network, batch_size: int, variables: Variables, data: Batch) -> Int[Array, ""]:
    def step(correct: jax.Array, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key
        logits, _ = network(variables, batch.images)
        return correct + (logits.argmax(-1) == batch.labels).sum(dtype=jnp.int32), {}

    return _pass_over(step, jnp.int32(0), data, batch_size)[0]


def _pass_over(step: Any, carry: Any, data: Batch, batch_size: int) -> tuple[Any, dict[str, jax.Array]]:
    """One pass over all images, in their order."""
    size = min(batch_size, data.labels.shape[0])
    return run_epoch(step, carry, data, jax.random.key(0), batch_size=size, shuffle=False)


unit = Method(
    name="unit",
    title="UNIT",
    summary="tighten upper bounds on all activations, as far as held-out clean images allow; weights stay",
    basis="Every neuron gets an upper bound on its activation, which is tightened as far as clean images allow "
    "(UNIT, ECCV 2024).",
    run=run_unit,
    defaults=UnitConfig(),
    changes="bounds",
    augments=True,
    chooses=lambda _: Chooses(by_holdout=True),
    colour="#37474f",
    marker=(3, 1, 180),
)
