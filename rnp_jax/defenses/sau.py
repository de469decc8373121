"""SAU: unlearning of adversarial examples that the network shares with its backdoored self (Wei et al., NeurIPS 2023).

f starts as the backdoored network f₀, which stays as it is. For every batch one perturbation δ of each image minimises

    −β₁/2 [CE(f(x + δ), y) + CE(f₀(x + δ), y)] + β₂ JS(f(x + δ), f₀(x + δ)),    ‖δ‖∞ ≤ ρ, in pixels of [0, 1]

by signed steps: each CE counts until its network is misled, JS until both are misled to the same class. Then f makes
one step of Adam along the gradient of λ₁ CE(f(x), y) + λ₂ CE(f(x + δ), y) + λ₃ L_sh, where L_sh lowers the probability
f(x + δ)_c of the class c to which f₀ is misled, c ≠ y and c ≠ argmax f₀(x):

    L_sh = ½ [−log(10⁻⁶ + min(1 − f_c, 0.999)) − log(1 + 10⁻⁶ − max(f_c, 0.001))]

As the release does: δ starts at +ρ everywhere; x + δ is not clipped; networks are in evaluation mode throughout; images
are not augmented; sums over images are divided by all images of the batch; the learning rate is constant (a cosine is
configured, but never advanced); the last state is kept. The release ends the inner loop once all images are shared.
Here such an image just stays where it is, which is the same: its objective is then constant.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped

from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.phase import Phase
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig
from rnp_jax.defenses.tuning import begin, conclude, tune
from rnp_jax.errors import ConfigError
from rnp_jax.inversion.stamps import scale
from rnp_jax.training.epoch import batch_metrics, cross_entropy
from rnp_jax.types import Batch, Tree

Logits = Callable[[jax.Array], jax.Array]
"""A network in evaluation mode, as a function of images in [0, 1]."""

_SMALLEST = 1e-8  # probability, in the divergence
_EPS = 1e-6  # added to both logarithms of the shared loss
_RARE = 1e-3  # probability below which the shared loss is constant


@dataclass(frozen=True)
class SauConfig:
    """Settings of SAU; the defaults are the release's.

    Attributes:
      rounds: number of passes over the clean images.
      batch_size: images per step; the last batch of a round may be smaller.
      learning_rate: constant learning rate of Adam on the weights.
      radius: largest change ρ of a pixel, for pixels in [0, 1].
      inner_steps: steps of the perturbation for each batch.
      inner_step: size of these steps in each pixel.
      mislead: weight β₁ of misleading each network.
      agree: weight β₂ of the divergence of both networks.
      clean: weight λ₁ of the loss on clean images.
      perturbed: weight λ₂ of the loss on perturbed images.
      shared: weight λ₃ of the loss on shared adversarial examples.
      shuffle: shuffle the images every round; False keeps the given order.
    """

    rounds: int = 100
    batch_size: int = 256
    learning_rate: float = 1e-4
    radius: float = 0.2
    inner_steps: int = 5
    inner_step: float = 0.2
    mislead: float = 0.01
    agree: float = 1.0
    clean: float = 1.0
    perturbed: float = 0.0
    shared: float = 1.0
    shuffle: bool = True

    def __post_init__(self):
        if min(self.rounds, self.batch_size, self.inner_steps) < 1 or not self.learning_rate > 0:
            raise ConfigError(f"{self}: expected rounds, batch_size and inner_steps >= 1 and learning_rate > 0")
        sizes = (self.radius, self.inner_step, self.mislead, self.agree, self.clean, self.perturbed, self.shared)
        if not all(size >= 0 for size in sizes):
            raise ConfigError(f"{self}: expected no radius, step or weight below 0")


def run_sau(task: Task, config: SauConfig) -> Defended:
    """Finds shared adversarial examples of each batch and unlearns them.

    Raises:
      DefenseError: the loss became infinite or not a number.
    """
    begun = begin("original", task, RnpConfig())
    phase = _SharedUnlearning("sau", task.network, config.rounds, config.batch_size, config.shuffle, None, config)
    fixed = {"masks": begun.variables["masks"], "original": task.variables}
    return conclude(task, begun, tune(task, phase, begun.variables, fixed, task.key))


def find_shared(
    ours: Logits, theirs: Logits, images: Float[Array, "B H W C"], labels: Int[Array, "B"], config: SauConfig
) -> Float[Array, "B H W C"]:
    """Perturbations that mislead both networks to the same class, as far as the steps bring them."""
    plain = [logits(images).argmax(-1) for logits in (ours, theirs)]

    def objective(delta: jax.Array) -> jax.Array:
        found = [logits(images + delta) for logits in (ours, theirs)]
        guesses = [logits.argmax(-1) for logits in found]
        right = [guess == before for guess, before in zip(guesses, plain, strict=True)]
        misled = sum(
            jnp.where(still, cross_entropy(logits, labels), 0) for logits, still in zip(found, right, strict=True)
        )
        apart = right[0] | right[1] | (guesses[0] != guesses[1])
        agree = jnp.where(apart, divergence(*map(jax.nn.softmax, found)), 0)
        return (config.agree * agree - config.mislead / 2 * misled).mean()

    def step(_: jax.Array, delta: jax.Array) -> jax.Array:
        moved = delta - config.inner_step * jnp.sign(jax.grad(objective)(delta))
        return moved.clip(-config.radius, config.radius)

    return jax.lax.fori_loop(0, config.inner_steps, step, jnp.full_like(images, config.radius))


def divergence(one: Float[Array, "B K"], other: Float[Array, "B K"]) -> Float[Array, "B"]:
    """Jensen-Shannon divergence of two rows of probabilities, in nats: 0 where they are equal, at most log 2."""
    one, other = (each.clip(_SMALLEST) for each in (one, other))
    mean = jnp.log((one + other) / 2)
    return ((one * (jnp.log(one) - mean) + other * (jnp.log(other) - mean)) / 2).sum(-1)


def shared_loss(
    probabilities: Float[Array, "B K"], targets: Int[Array, "B"], misled: Bool[Array, "B"]
) -> Float[Array, ""]:
    """L_sh of f's probabilities, for images that mislead f₀ to their targets; the mean over all images of the batch."""
    is_target = targets[:, None] == jnp.arange(probabilities.shape[1])[None]
    own = jnp.where(is_target, probabilities, 0).sum(1)
    others = jnp.where(is_target, 0, probabilities).sum(1)
    loss = -jnp.log(_EPS + others.clip(max=1 - _RARE)) - jnp.log(1 + _EPS - own.clip(_RARE))
    return jnp.where(misled, loss / 2, 0).mean()


@dataclass(frozen=True)
class _SharedUnlearning(Phase):
    config: SauConfig

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        del steps_per_epoch  # the rate is constant
        return optax.adam(self.config.learning_rate)

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        config, images, labels = self.config, scale(batch.images), batch.labels

        def ours(params: Tree) -> Logits:
            variables = {"params": params, "batch_stats": batch_stats, "masks": fixed["masks"]}
            return lambda pixels: self.apply(variables, pixels)[0]

        def theirs(pixels: Shaped[Array, "B H W C"]) -> jax.Array:
            return self.apply(fixed["original"], pixels)[0]

        delta = find_shared(ours(jax.lax.stop_gradient(trained)), theirs, images, labels, config)
        here = ours(trained)
        clean, perturbed = here(images), here(images + delta)
        target = theirs(images + delta).argmax(-1)
        misled = (target != labels) & (target != theirs(images).argmax(-1))
        loss = config.clean * cross_entropy(clean, labels).mean()
        loss += config.perturbed * cross_entropy(perturbed, labels).mean()
        loss += config.shared * shared_loss(jax.nn.softmax(perturbed), target, misled)
        metrics = {**batch_metrics(clean, labels), "loss": labels.shape[0] * loss}
        return loss, (batch_stats, metrics)


sau = Method(
    name="sau",
    title="SAU",
    summary="unlearn adversarial examples that mislead the network and its backdoored self to the same class",
    basis="Perturbations of clean images that mislead the network as they mislead its backdoored self are found and "
    "unlearned in turn (Shared Adversarial Unlearning, NeurIPS 2023).",
    run=run_sau,
    defaults=SauConfig(),
    changes="weights",
    colour="#8e24aa",
    marker=(7, 1, 0),
)
