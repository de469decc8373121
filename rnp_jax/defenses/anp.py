"""Adversarial Neuron Pruning: masks under which a network resists worst-case changes of its neurons (Wu & Wang, 2021).

    min over m in [0, 1]^F of  α·CE(m ⊙ w, b) + (1 − α)·max over ‖δ‖∞, ‖ξ‖∞ ≤ ε of CE((m + δ) ⊙ w, (1 + ξ) ⊙ b)

(NeurIPS 2021, section 4). w and b are scale and bias of a batch norm, or kernel and bias of a masked convolution or
hidden linear layer: the mask acts on w alone while it is optimised, and pruning takes away what the placement says.

As the release does: images drawn with replacement, batch norm in training mode, δ and ξ drawn uniformly from [−ε, ε] at
every step and moved ``ascent_steps`` times by ε / ascent_steps along the sign of the gradient, without being brought
back to [−ε, ε] (``project`` does so, as in the paper), the masks then moved by SGD and clipped. The release prunes from
the original network by thresholds up to 0.90, after rounding to four decimals, and so does the ranking ``release``;
but by default held-out clean images decide how many, and not a threshold chosen with triggered ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnp_jax import masks
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.phase import Progress
from rnp_jax.defenses.prune import PruneConfig, chooses_by_masks, prune_by_masks
from rnp_jax.defenses.result import Defended
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.fetching import fetch_late
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import Augment, cross_entropy
from rnp_jax.types import Apply, Batch, Tree, Variables


@dataclass(frozen=True)
class AnpConfig:
    """Settings of ANP. The defaults are the release's, except for the choice of filters.

    Attributes:
      iterations: number of steps of the masks.
      batch_size: images per step, drawn with replacement.
      learning_rate: constant learning rate of SGD on the masks.
      momentum: momentum of SGD.
      eps: bound on the perturbations, relative to the weights.
      ascent_steps: steps of the perturbations before each step of the masks.
      alpha: weight of the unperturbed loss.
      random_start: draw new random perturbations at every step; False starts them at 0.
      project: clip the perturbations to [-eps, eps] after every ascent step.
      shuffle: draw the images at random; False goes through them in the given order, again and again.
      log_every: iterations per row of the history.
      prune: how many filters are pruned, and which.
    """

    iterations: int = 2000
    batch_size: int = 128
    learning_rate: float = 0.2
    momentum: float = 0.9
    eps: float = 0.4
    ascent_steps: int = 1
    alpha: float = 0.2
    random_start: bool = True
    project: bool = False
    shuffle: bool = True
    log_every: int = 100
    prune: PruneConfig = field(default_factory=lambda: PruneConfig(ranking="release"))

    def __post_init__(self):
        counts = min(self.iterations, self.ascent_steps, self.log_every)
        if counts < 1 or self.batch_size < 2 or not self.learning_rate > 0:
            raise ConfigError(
                f"{self}: expected iterations, ascent_steps and log_every >= 1, batch_size >= 2 and learning_rate > 0"
            )
        if not self.eps > 0 or not 0 <= self.alpha <= 1:
            raise ConfigError(f"{self}: expected eps > 0 and alpha in [0, 1]")


def run_anp(task: Task, config: AnpConfig) -> Defended:
    """Optimises the masks on the clean images, and prunes.

    Raises:
      ConfigError: nothing to choose the number of filters by.
      DefenseError: the masks' loss became infinite or not a number, or the network has nothing to mask.
    """
    given = (task.network, task.variables, task.data, task.key, config)
    filters, history = task.do("optimize", optimize_masks, *given, augment=task.augment, progress=task.progress)
    task.note("anp", history)
    done = prune_by_masks(task, filters, history["masks"], config.prune)
    return replace(done, choice=done.choice.model_copy(update={"ranking": anp.name}))


def optimize_masks(
    apply: Apply,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: AnpConfig,
    *,
    augment: Augment | None = None,
    progress: Progress | None = None,
) -> tuple[masks.Filters, dict[str, np.ndarray]]:
    """The masks by layer, and loss (α-weighted), accuracy [E] and ``masks`` [E, F] after every ``log_every`` steps.

    Learns from ``data`` (uint8 [N, H, W, C], int32 [N]). Loss and accuracy are means over those steps.

    Raises:
      DefenseError: the loss became infinite or not a number, or the network has nothing to mask.
    """
    filters = masks.ones(masks.filters(variables["masks"]))
    if not filters:
        raise DefenseError("the network has no maskable layer: ANP needs batch norm, convolutions or hidden units")
    run = _Run(apply, replace(config, prune=PruneConfig()), augment)
    fixed = masks.apply_filters(variables, filters)
    data = Batch(*jax.device_put(tuple(data)))
    state = _start(run, filters)
    rows, epochs = [], -(-config.iterations // config.log_every)

    def optimize() -> Iterator[dict[str, jax.Array]]:
        nonlocal state
        for epoch in range(1, epochs + 1):
            until = jax.device_put(np.int32(min(epoch * config.log_every, config.iterations)))
            state, row = _run_until(run, state, fixed, data, key, until)
            yield row

    for epoch, row in enumerate(fetch_late(optimize(), watched=progress is not None), 1):
        rows.append(row)
        if progress is not None:
            progress("anp", epoch, epochs, {name: float(row[name]) for name in ("loss", "accuracy")})
    history = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    if not np.isfinite(history["loss"]).all():
        raise DefenseError(
            f"the masks diverged: their loss became {history['loss'][-1]}; "
            "lower learning_rate, and check that the normalisation matches the checkpoint"
        )
    return state.filters, history


@dataclass(frozen=True)
class _Run:
    """What the compiled program depends on."""

    apply: Apply
    config: AnpConfig  # without its choice of filters
    augment: Augment | None


class _State(NamedTuple):
    filters: dict[str, jax.Array]
    opt_state: optax.OptState
    step: jax.Array  # int32 []


class Noise(NamedTuple):
    """Perturbations by layer, relative to the weights: δ and ξ [F]."""

    weight: dict[str, jax.Array]
    bias: dict[str, jax.Array]


@jit_settings()
def _start(run: _Run, filters: dict[str, jax.Array]) -> _State:
    return _State(filters, _optimizer(run.config).init(filters), jnp.int32(0))


def _optimizer(config: AnpConfig) -> optax.GradientTransformation:
    return optax.sgd(config.learning_rate, momentum=config.momentum)


@jit_settings()
def _run_until(
    run: _Run, state: _State, fixed: Variables, data: Batch, key: jax.Array, until: jax.Array
) -> tuple[_State, dict[str, jax.Array]]:
    config, tx = run.config, _optimizer(run.config)

    def classify(filters: masks.Filters, noise: Noise, images: jax.Array) -> jax.Array:
        weight = {name: filters[name] + noise.weight[name] for name in filters}
        bias = {name: 1 + values for name, values in noise.bias.items()}
        params = _scaled(fixed["params"], fixed["masks"], weight, bias)
        return run.apply({**fixed, "params": params}, images, train=True)[0]

    def step(carry: tuple[_State, dict[str, jax.Array]]) -> tuple[_State, dict[str, jax.Array]]:
        state, sums = carry
        draw_key, augment_key, noise_key = jax.random.split(jax.random.fold_in(key, state.step), 3)
        batch = _draw(run, data, state.step, draw_key, augment_key)
        none = jax.tree.map(jnp.zeros_like, Noise(state.filters, state.filters))
        noise = _ascend(
            config,
            draw_noise(noise_key, none, config.eps) if config.random_start else none,
            lambda noise: cross_entropy(classify(state.filters, noise, batch.images), batch.labels).mean(),
        )

        def loss(filters: masks.Filters) -> tuple[jax.Array, jax.Array]:
            perturbed = cross_entropy(classify(filters, noise, batch.images), batch.labels).mean()
            logits = classify(filters, none, batch.images)
            clean = cross_entropy(logits, batch.labels).mean()
            accuracy = (logits.argmax(-1) == batch.labels).astype(jnp.float32).mean()
            return config.alpha * clean + (1 - config.alpha) * perturbed, accuracy

        (value, accuracy), gradient = jax.value_and_grad(loss, has_aux=True)(state.filters)
        updates, opt_state = tx.update(gradient, state.opt_state, state.filters)
        filters = masks.clip(jax.tree.map(jnp.add, state.filters, updates))
        sums = {"loss": sums["loss"] + value, "accuracy": sums["accuracy"] + accuracy}
        return _State(filters, opt_state, state.step + 1), sums

    begin = state.step
    sums = {"loss": jnp.float32(0), "accuracy": jnp.float32(0)}
    state, sums = jax.lax.while_loop(lambda carry: carry[0].step < until, step, (state, sums))
    row = {name: total / (until - begin).astype(jnp.float32) for name, total in sums.items()}
    flat = [state.filters[name] for name in sorted(state.filters, key=masks.natural_key)]
    return state, {**row, "masks": jnp.concatenate(flat)}


def draw_noise(key: jax.Array, like: Noise, eps: float) -> Noise:
    """Perturbations uniform in [-eps, eps], in the shapes of ``like``."""
    leaves, tree = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.uniform(k, leaf.shape, leaf.dtype, -eps, eps) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def _ascend(config: AnpConfig, noise: Noise, loss) -> Noise:
    rate = config.eps / config.ascent_steps
    for _ in range(config.ascent_steps):
        gradient = jax.grad(loss)(noise)
        noise = jax.tree.map(lambda values, slope: values + rate * jnp.sign(slope), noise, gradient)
        if config.project:
            noise = jax.tree.map(lambda values: values.clip(-config.eps, config.eps), noise)
    return noise


def _draw(run: _Run, data: Batch, step: jax.Array, draw_key: jax.Array, augment_key: jax.Array) -> Batch:
    count, size = data.labels.shape[0], run.config.batch_size
    if run.config.shuffle:
        index = jax.random.randint(draw_key, (size,), 0, count)
    else:
        index = (step * size + jnp.arange(size)) % count
    images = data.images[index]
    return Batch(images if run.augment is None else run.augment(augment_key, images), data.labels[index])


def _scaled(params: Tree, tree: Tree, weight: masks.Filters, bias: masks.Filters, prefix: str = "") -> Tree:
    """Parameters with the masked layers' weights and biases multiplied, output channel by output channel."""
    if "neuron" in tree:
        if prefix not in weight:
            return params
        return {
            name: leaf * jnp.expand_dims((bias if name == "bias" else weight)[prefix], range(leaf.ndim - 1))
            for name, leaf in params.items()
        }
    return {
        name: _scaled(node, tree[name], weight, bias, f"{prefix}.{name}" if prefix else name)
        for name, node in params.items()
    }


anp = Method(
    name="anp",
    title="ANP",
    summary="Adversarial Neuron Pruning: prune the filters that are sensitive to adversarial changes of the weights",
    basis="The mask of a filter keeps the clean loss low while an adversary perturbs the weights; filters that are "
    "sensitive to this have masks near 0 (Adversarial Neuron Pruning, NeurIPS 2021).",
    run=run_anp,
    defaults=AnpConfig(),
    augments=True,
    chooses=lambda config: chooses_by_masks(config.prune),
    colour="#009e73",
    marker="^",
)
