"""I-BAU: unlearning of universal perturbations by implicit hypergradients (Zeng et al., ICLR 2022).

    min over θ of  L(δ*(θ), θ),    δ*(θ) = argmin over δ of −CE(f_θ(x + δ), y) + λ‖δ‖²

A round finds one perturbation δ of all images that the network misclassifies under, and then unlearns it batch by
batch: the gradient of L holds ∂δ*/∂θ too, as a fixed point of Φ(δ, θ) = δ − α ∂_δ(inner loss) (section 4, algorithm 1).

As the release does: the network in evaluation mode throughout, images neither augmented nor clipped, the same batches
in the same order in every round, the first of them in Φ; δ ascends from zero, a step a batch, away from the network's
own predictions; in L it is laid over a share of the images alone; Adam moves the weights. What differs: δ is laid over
one image at least, and images that fill no batch are left out. δ is in pixels of [0, 1], as the authors have it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.phase import Progress, check_finite
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig
from rnp_jax.defenses.tuning import begin, conclude
from rnp_jax.descent import descend
from rnp_jax.errors import ConfigError
from rnp_jax.traced import jit_settings, structural
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.training.loop import run_stretches
from rnp_jax.types import Apply, Batch, Tree, Variables


@dataclass(frozen=True)
class IbauConfig:
    """Settings of I-BAU; the defaults are the release's, for 1,000 images.

    Attributes:
      rounds: number of rounds; each finds a perturbation and unlearns it.
      batch_size: images per step, or all images if there are fewer.
      learning_rate: learning rate of Adam on the weights.
      inner_steps: steps of the perturbation, one batch each; the release takes one pass over its images.
      inner_learning_rate: learning rate of gradient descent on the perturbation.
      penalty: penalty λ on the squared norm of the perturbation.
      fixed_point_steps: number K of terms in the series that replaces the inverse Hessian.
      fixed_point_rate: step size α of that series.
      portion: share of each batch to which the perturbation is added while it is unlearned.
      shuffle: shuffle the images into batches once; False keeps the given order.
    """

    rounds: int = 5
    batch_size: int = 100
    learning_rate: float = 1e-3
    inner_steps: int = 10
    inner_learning_rate: float = 10.0
    penalty: float = 1e-3
    fixed_point_steps: int = 5
    fixed_point_rate: float = 0.1
    portion: float = structural(0.01)
    shuffle: bool = True

    def __post_init__(self):
        if min(self.rounds, self.batch_size, self.inner_steps, self.fixed_point_steps) < 1:
            raise ConfigError(f"{self}: expected rounds, batch_size, inner_steps and fixed_point_steps >= 1")
        if not min(self.learning_rate, self.inner_learning_rate, self.fixed_point_rate) > 0:
            raise ConfigError(f"{self}: expected learning rates above 0")
        if not self.penalty >= 0 or not 0 < self.portion <= 1:
            raise ConfigError(f"{self}: expected penalty >= 0 and portion in (0, 1]")


def run_ibau(task: Task, config: IbauConfig) -> Defended:
    """Finds and unlearns universal perturbations of the clean images, by turns; as in the release, none is augmented.

    Raises:
      DefenseError: the loss became infinite or not a number.
    """
    begun = begin("original", task, RnpConfig())
    given = (task.network, begun.variables, task.data, task.key, config)
    params, history = task.do("ibau", unlearn_perturbations, *given, progress=task.progress)
    task.note("ibau", history)
    return conclude(task, begun, {**begun.variables, "params": params})


def unlearn_perturbations(
    apply: Apply,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: IbauConfig,
    *,
    progress: Progress | None = None,
) -> tuple[Tree, dict[str, np.ndarray]]:
    """The weights after all rounds, and by round the outer loss and accuracy [E] and the perturbation's norm [E].

    Without ``progress`` the host waits once; with it, for a round while the next one runs, by a program a round.

    Raises:
      DefenseError: the loss became infinite or not a number.
    """
    batches = _batches(data, jax.random.fold_in(key, 0), config)
    params, fixed = variables["params"], {name: variables[name] for name in variables if name != "params"}
    state = _start(config, params)

    def run(rounds: int, state: _State) -> tuple[_State, dict[str, jax.Array]]:
        return _run(apply, config, rounds, state, fixed, batches, key)

    state, history = run_stretches("ibau", config.rounds, run, state, progress)
    check_finite("I-BAU", history)
    return state.params, history


def hypergradient(
    outer: Callable[[Tree, jax.Array], jax.Array],
    contract: Callable[[Tree, jax.Array], jax.Array],
    params: Tree,
    inner: jax.Array,
    steps: int,
) -> Tree:
    """Gradient of ``outer(params, inner*)`` in ``params``, where ``inner*`` is the fixed point of ``contract``.

    ∂L/∂θ + (∂Φ/∂θ)ᵀ Σᵢ ((∂Φ/∂δ)ᵀ)ⁱ ∂L/∂δ, ``steps`` terms of it, at ``inner`` (Grazzi et al., ICML 2020, algorithm 2).
    """
    direct, slope = jax.grad(outer, argnums=(0, 1))(params, inner)
    _, pull = jax.vjp(contract, params, inner)
    series = jax.lax.fori_loop(0, steps, lambda _, total: pull(total)[1] + slope, jnp.zeros_like(slope))
    return jax.tree.map(jnp.add, direct, pull(series)[0])


class _State(NamedTuple):
    params: Tree
    adam: optax.OptState
    round: jax.Array  # int32 []


@jit_settings()
def _start(config: IbauConfig, params: Tree) -> _State:
    return _State(params, optax.adam(config.learning_rate).init(params), jnp.int32(0))


def _batches(data: Batch, key: jax.Array, config: IbauConfig) -> Batch:
    """Images [S, B, H, W, C] in [0, 1] and labels [S, B]."""
    count = len(data.labels)
    size = min(config.batch_size, count)
    order = np.asarray(jax.random.permutation(key, count)) if config.shuffle else np.arange(count)
    order = order[: count // size * size].reshape(-1, size)
    images, labels = (np.asarray(part)[order] for part in data)
    images = images.astype(np.float32) / 255 if images.dtype == np.uint8 else images
    return Batch(*jax.device_put((images, labels)))


@jit_settings(3)
def _run(
    apply: Apply, config: IbauConfig, rounds: int, state: _State, fixed: Variables, batches: Batch, key: jax.Array
) -> tuple[_State, dict[str, jax.Array]]:
    def one(state: _State, _: None) -> tuple[_State, dict[str, jax.Array]]:
        def logits_of(params: Tree, images: jax.Array) -> jax.Array:
            return apply({**fixed, "params": params}, images)[0]

        delta = _find_perturbation(lambda images: logits_of(state.params, images), batches, config)
        keys = jax.random.split(jax.random.fold_in(key, state.round + 1), batches.labels.shape[0])
        step = partial(_unlearn, logits_of, delta, Batch(batches.images[0], batches.labels[0]), config)
        (params, adam), figures = jax.lax.scan(step, (state.params, state.adam), (batches, keys))
        row = {name: values.mean() for name, values in figures.items()}
        return _State(params, adam, state.round + 1), {**row, "norm": jnp.linalg.norm(delta)}

    return jax.lax.scan(one, state, None, length=rounds)


def _find_perturbation(
    logits_of: Callable[[jax.Array], jax.Array], batches: Batch, config: IbauConfig
) -> Float[Array, "H W C"]:
    """Away from the network's own predictions, as far as the penalty allows."""

    def step(delta: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        images = batches.images[number % batches.images.shape[0]]
        predicted = logits_of(images).argmax(-1)

        def loss(delta: jax.Array) -> jax.Array:
            rise = cross_entropy(logits_of(images + delta[None]), predicted).mean()
            return config.penalty * jnp.square(delta).sum() - rise

        return delta - config.inner_learning_rate * jax.grad(loss)(delta), None

    start = jnp.zeros(batches.images.shape[2:], jnp.float32)
    return jax.lax.scan(step, start, jnp.arange(config.inner_steps))[0]


def _unlearn(
    logits_of: Callable[[Tree, jax.Array], jax.Array],
    delta: jax.Array,
    first: Batch,
    config: IbauConfig,
    carry: tuple[Tree, optax.OptState],
    inputs: tuple[Batch, jax.Array],
) -> tuple[tuple[Tree, optax.OptState], dict[str, jax.Array]]:
    """One step of Adam along the hypergradient on one batch."""
    (params, adam), (batch, key) = carry, inputs
    size = batch.labels.shape[0]
    laid = jax.random.permutation(key, size) < max(1, int(config.portion * size))
    laid = laid.astype(jnp.float32)[:, None, None, None]

    def contract(params: Tree, delta: jax.Array) -> jax.Array:
        def loss(delta: jax.Array) -> jax.Array:
            rise = cross_entropy(logits_of(params, first.images + delta[None]), first.labels).mean()
            return config.penalty * jnp.square(delta).sum() - rise

        return delta - config.fixed_point_rate * jax.grad(loss)(delta)

    def outer(params: Tree, delta: jax.Array) -> jax.Array:
        return cross_entropy(logits_of(params, batch.images + laid * delta[None]), batch.labels).mean()

    logits = logits_of(params, batch.images + laid * delta[None])
    figures = {
        "loss": cross_entropy(logits, batch.labels).mean(),
        "accuracy": (logits.argmax(-1) == batch.labels).astype(jnp.float32).mean(),
    }
    gradient = hypergradient(outer, contract, params, delta, config.fixed_point_steps)
    return descend(optax.adam(config.learning_rate), gradient, adam, params), figures


ibau = Method(
    name="ibau",
    title="I-BAU",
    summary="unlearn universal adversarial perturbations, with implicit hypergradients",
    basis="Perturbations that mislead the network on all images are found and unlearned in turn "
    "(Adversarial Unlearning of Backdoors via Implicit Hypergradient, ICLR 2022).",
    run=run_ibau,
    defaults=IbauConfig(),
    changes="weights",
    colour="#c0392b",
    marker="h",
)
