"""MCR: a point of a path from the network to its fine-tuned copy (Zhao et al., ICLR 2020).

    φ(t) = (1 − t)² θ₀ + 2 t (1 − t) θ₁ + t² θ₂,    min over θ₁ of  E over t ~ U(0, 1) of CE(φ(t)) + ½ λ ‖φ(t)‖²

θ₀ is the suspicious network, θ₂ a fine-tuned copy of it, and both stay as they are. The path learns from clean images
alone, so that the backdoor, which nothing asks for, weakens between the ends (mode connectivity: Garipov et al., 2018).

As the release does: θ₁ starts half-way between the ends; every batch draws one t; SGD at 0.01 with momentum 0.9 for 100
epochs of batches of 128, constant for half of the epochs and then down along a line to a hundredth at nine tenths;
λ = 1e-4, on the path's own weights; the statistics of batch norm are estimated anew for each t. The ends' tuning is
BackdoorBench's: 100 epochs at 0.01, weight decay 5e-4.

What differs from the release, which leaves the choice of t to a table of test images:

- Of 0.1, 0.2, … 0.9, t is the one farthest from the suspicious end at which the accuracy on held-out clean images is
  within a budget of the suspicious network's. The ends are no candidates: t = 1 is fine-tuning alone. ``t`` fixes the
  point, ends included.
- Where no point is within the budget, the network stays as it is, and a warning says so.
- Statistics are estimated on the clean images as they are, where the release augments them; of several batches, they
  are the mean.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from rnp_jax.defenses.finetune import FinetuneConfig, start_finetuning
from rnp_jax.defenses.ft import benchmark_settings
from rnp_jax.defenses.method import Chooses, Method, Task
from rnp_jax.defenses.phase import Phase
from rnp_jax.defenses.result import Choice, Defended
from rnp_jax.defenses.rnp import RnpConfig
from rnp_jax.defenses.tuning import begin, conclude, tune
from rnp_jax.defenses.variants import choose_furthest
from rnp_jax.errors import ConfigError
from rnp_jax.models import Network
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import Augment, batch_metrics, cross_entropy, run_epoch
from rnp_jax.types import Apply, Batch, Tree, Variables

POINTS = tuple(i / 10 for i in range(1, 10))
"""The points t among which held-out clean images choose."""


@dataclass(frozen=True)
class McrConfig:
    """Settings of MCR; the defaults are the release's, except for the choice of t.

    Attributes:
      t: point of the path, from 0 (the suspicious network) to 1 (its fine-tuned copy); by default held-out clean images
        choose it.
      accuracy_budget: share of the held-out images by which accuracy may fall, where they choose.
      finetune: settings of the fine-tuned copy.
      epochs: number of passes over the clean images in which the path is trained.
      batch_size: images per step; the last batch of an epoch may be smaller.
      learning_rate: learning rate of SGD in the first half of the epochs.
      momentum: momentum of SGD.
      weight_decay: weight λ of the penalty on the squared weights of the path.
      shuffle: shuffle the images every epoch; False keeps the given order.
    """

    t: float | None = None
    accuracy_budget: float = 0.03
    finetune: FinetuneConfig = field(default_factory=benchmark_settings)
    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    shuffle: bool = True

    def __post_init__(self):
        if self.epochs < 1 or self.batch_size < 2 or not self.learning_rate > 0 or not self.weight_decay >= 0:
            raise ConfigError(f"{self}: expected epochs >= 1, batch_size >= 2, learning_rate > 0 and weight_decay >= 0")
        if not 0 <= (self.t or 0) <= 1 or not 0 <= self.accuracy_budget <= 1:
            raise ConfigError(f"{self}: expected t and accuracy_budget in [0, 1]")


class Ends(NamedTuple):
    """Weights between which a path runs."""

    suspicious: Tree
    tuned: Tree


def run_mcr(task: Task, config: McrConfig) -> Defended:
    """Tunes a copy, trains a path to it, and takes a point of the path.

    Raises:
      ConfigError: nothing is held out to choose the point by.
      DefenseError: a loss became infinite or not a number.
    """
    begun = begin("original", task, RnpConfig())
    variables, masks = begun.variables, begun.variables["masks"]
    copy_key, path_key = jax.random.split(task.key)
    copy = tune(task, start_finetuning(task.network, config.finetune, task.augment), variables, masks, copy_key)
    ends = Ends(variables["params"], copy["params"])
    phase = start_path(task.network, config, task.augment)
    middle = jax.tree.map(lambda one, other: (one + other) / 2, *ends)
    trained = tune(task, phase, {**variables, "params": middle}, {"masks": masks, "ends": ends}, path_key)

    def make(t: float) -> Variables:
        params = point(ends, trained["params"], jnp.float32(t))
        return estimate_statistics(task.network, {**variables, "params": params}, task.data, config.batch_size)

    with task.stage("choose"):
        t, choice = _choose(task, make, begun.choice, config)
        chosen = variables if t is None else make(t)
    return conclude(task, replace(begun, choice=choice), chosen)


def start_path(apply: Apply, config: McrConfig, augment: Augment | None = None) -> Phase:
    """The phase that trains the path, for those who run it themselves. Equal ones share compiled programs."""
    own = replace(config, t=None, accuracy_budget=0.0, finetune=FinetuneConfig())  # what its program depends on
    return _Connecting("path", apply, config.epochs, config.batch_size, config.shuffle, augment, own)


@jax.jit
def point(ends: Ends, middle: Tree, t: Float[Array, ""]) -> Tree:
    """The weights φ(t) of the path; at t = 0 and t = 1 exactly its ends."""
    return jax.tree.map(
        lambda first, between, last: (1 - t) ** 2 * first + 2 * t * (1 - t) * between + t**2 * last,
        ends.suspicious,
        middle,
        ends.tuned,
    )


def estimate_statistics(network: Network, variables: Variables, data: Batch, batch_size: int) -> Variables:
    """The variables with the batch norm statistics of ``data``: the mean over batches, weighted by their sizes."""
    if not variables["batch_stats"]:
        return variables
    data = Batch(*jax.device_put(tuple(data)))
    return {**variables, "batch_stats": _estimate(network, min(batch_size, len(data.labels)), variables, data)}


@jit_settings(1, static=1)
def _estimate(network: Network, batch_size: int, variables: Variables, data: Batch) -> Tree:
    nothing = {**variables, "batch_stats": jax.tree.map(jnp.zeros_like, variables["batch_stats"])}

    def step(mean: Tree, batch: Batch, key: jax.Array) -> tuple[Tree, dict[str, jax.Array]]:
        del key
        share = batch.labels.shape[0] / data.labels.shape[0]
        _, moved = network(nothing, batch.images, train=True)
        return jax.tree.map(lambda before, leaf: before + share * leaf, mean, moved), {}

    key = jax.random.key(0)  # nothing is drawn
    mean, _ = run_epoch(step, nothing["batch_stats"], data, key, batch_size=batch_size, shuffle=False)
    return _divided_by_momentum(network, mean)


def _divided_by_momentum(network: Network, stats: Tree, layer: str = "") -> Tree:
    """What batch norms measured, from what they made of statistics of zero."""
    below = f"{layer}." if layer else ""
    return {
        name: _divided_by_momentum(network, node, below + name)
        if isinstance(node, dict)
        else node / network.layers[layer].momentum
        for name, node in stats.items()
    }


def _choose(
    task: Task, make: Callable[[float], Variables], choice: Choice, config: McrConfig
) -> tuple[float | None, Choice]:
    """The point, and why it is so; None where the network stays as it is."""
    where = "The network is the point t = {t:g} of a path from the suspicious network (0) to its fine-tuned copy (1)"
    if config.t is not None:
        return config.t, choice.model_copy(update={"rule": f"{where.format(t=config.t)}, as requested."})
    variants = [partial(make, t) for t in POINTS]
    found = choose_furthest(task.network, task.variables, variants, task.holdout, config.accuracy_budget, "t")
    budget = f"lowers accuracy on held-out clean images by at most {config.accuracy_budget:.1%}"
    if found is None:
        rule = f"No point of the path {budget}, so the network is unchanged."
        task.warn(rule)
        return None, choice.model_copy(update={"rule": rule, "budget": config.accuracy_budget})
    rule = f"{where.format(t=POINTS[found])}: the farthest from the suspicious network that {budget}."
    return POINTS[found], choice.model_copy(update={"rule": rule, "budget": config.accuracy_budget})


class _At(NamedTuple):
    """A batch's images, and the point of the path that sees them."""

    images: Array  # [B, H, W, C]
    t: Array  # []


@dataclass(frozen=True)
class _Connecting(Phase):
    config: McrConfig  # without what comes before and after

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        config = self.config

        def rate(step: ArrayLike) -> jax.Array:
            share = (jnp.asarray(step) // steps_per_epoch).astype(jnp.float32) / config.epochs
            return config.learning_rate * falling(share)

        return optax.sgd(rate, momentum=config.momentum)

    def prepare(self, batch: Batch, fixed: Tree, key: jax.Array) -> Batch:
        augment_key, t_key = jax.random.split(key)
        batch = super().prepare(batch, fixed, augment_key)
        return batch._replace(images=_At(batch.images, jax.random.uniform(t_key)))

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        params = point(fixed["ends"], trained, batch.images.t)
        variables = {"params": params, "batch_stats": batch_stats, "masks": fixed["masks"]}
        logits, moved = self.apply(variables, batch.images.images, train=True)
        squares = jnp.stack([jnp.square(leaf).sum() for leaf in jax.tree.leaves(params)]).sum()
        loss = cross_entropy(logits, batch.labels).mean() + self.config.weight_decay / 2 * squares
        return loss, (moved, batch_metrics(logits, batch.labels))


def falling(share: Float[Array, ""]) -> Float[Array, ""]:
    """The learning rate after a share of the epochs, relative to the first: 1 up to half, 0.01 from nine tenths on."""
    return 1 - 0.99 * jnp.clip((share - 0.5) / 0.4, 0, 1)


mcr = Method(
    name="mcr",
    title="MCR",
    summary="Mode Connectivity Repair: a point of a trained path from the network to its fine-tuned copy",
    basis="A path of weights from the network to its fine-tuned copy is trained on the clean images, and a point of it "
    "far from the network is taken (mode connectivity, ICLR 2020).",
    run=run_mcr,
    defaults=McrConfig(),
    changes="weights",
    augments=True,
    chooses=lambda config: Chooses(by_holdout=config.t is None),
    colour="#827717",
    marker=(8, 1, 0),
)
