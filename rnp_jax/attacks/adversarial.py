"""Projected gradient descent in the ℓ∞ ball (Madry et al., 2018), and networks trained against it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Shaped

from rnp_jax.checks import MOST_STEPS, check_number
from rnp_jax.traced import jit_settings
from rnp_jax.types import Apply, Tree, Variables


@dataclass(frozen=True, kw_only=True)
class Ball:
    """How far and in which steps an image is moved.

    Attributes:
      epsilon: most that any value moves, in grey levels (of 255).
      step: of each iteration, in grey levels.
      steps: iterations.

    Raises:
      ConfigError: a negative radius, a step that is no number, or less than one iteration.
    """

    epsilon: float
    step: float
    steps: int

    def __post_init__(self):
        check_number("epsilon", self.epsilon, 0, 255)
        check_number("step", self.step, 0, 255)
        check_number("steps", self.steps, 1, MOST_STEPS, integer=True)


@jit_settings(2)
def ascend_loss(
    apply: Apply, ball: Ball, variables: Variables, images: Shaped[Array, "B H W C"], labels: Int[Array, "B"]
) -> Float[Array, "B H W C"]:
    """Images moved to where ``apply``, in evaluation mode, errs most from ``labels``, in grey levels 0 … 255.

    x ← Π(x + step·sign ∇ CE), projected on the ball around the image and on [0, 255]; no random start. The images are
    uint8, or float in [0, 1]. Computed in grey levels, where whole constants have no rounding error.
    """
    levels = images.astype(jnp.float32) * (1.0 if images.dtype == jnp.uint8 else 255.0)
    low, high = jnp.maximum(levels - ball.epsilon, 0), jnp.minimum(levels + ball.epsilon, 255)

    def loss(moved: jax.Array) -> jax.Array:
        logits, _ = apply(variables, moved / 255)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()

    def step(_: jax.Array, moved: jax.Array) -> jax.Array:
        return jnp.clip(moved + ball.step * jnp.sign(jax.grad(loss)(moved)), low, high)

    return jax.lax.fori_loop(0, ball.steps, step, levels)


@dataclass(frozen=True)
class Adversarial:
    """A network that in training mode sees its images perturbed: training it is adversarial training.

    An ``Apply`` reads no labels, so the perturbation leads away from the network's own predictions in evaluation mode
    (as Kurakin et al., 2017, do to keep the true labels from leaking).

    Attributes:
      network: what is trained.
      ball: how far its training images are moved.
    """

    network: Apply
    ball: Ball

    def __call__(self, variables: Variables, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, Tree]:
        """Logits and batch statistics, those of training mode on perturbed images."""
        if not train:
            return self.network(variables, images)
        fixed = jax.lax.stop_gradient(variables)
        believed = self.network(fixed, images)[0].argmax(-1)
        perturbed = ascend_loss(self.network, self.ball, fixed, images, believed)
        return self.network(variables, jax.lax.stop_gradient(perturbed) / 255, train=True)
