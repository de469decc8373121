"""Training with a penalty on channels whose Lipschitz bounds stand out, against CLP and what prunes by such scores.

    CE + μ Σ_l relu(max_k s_lk − mean_k s_lk − u · std_k s_lk)

s_lk is CLP's score: the largest singular value of a channel's kernel times |γ / √var|, with the running variance. A
layer where no score lies above CLP's threshold costs nothing. Not published: this project's, as an adaptive attacker
would do.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnp_jax.checks import check_number
from rnp_jax.defenses.clp import lipschitz_bounds
from rnp_jax.models import Network
from rnp_jax.traced import is_off
from rnp_jax.training.adaptation import Adaptation
from rnp_jax.training.supervised import Moment, Twist
from rnp_jax.types import Tree

_SQUARINGS = 10  # of a Gram matrix: as many as 1,024 steps of power iteration


@dataclass(frozen=True)
class Lipschitz(Adaptation):
    """Settings of the penalty.

    Attributes:
      weight: weight μ of the penalty; 0 trains plainly (the control).
      u: number of standard deviations above its layer's mean from which a score costs.
    """

    weight: float = 1.0
    u: float = 3.0

    def __post_init__(self):
        check_number("weight", self.weight, 0)
        check_number("u", self.u, 0)

    def twist(self, network: Network) -> Twist | None:
        """The penalty's gradient on top; the figure ``penalty`` is without its weight."""
        return None if is_off(self.weight) else _Penalized(network, self)


@dataclass(frozen=True)
class _Penalized:
    network: Network
    config: Lipschitz

    def gradient(self, moment: Moment) -> tuple[Tree, tuple[Tree, dict[str, jax.Array]], Tree]:
        def objective(params: Tree):
            loss, (moved, metrics) = moment.loss(params)
            variables = {"params": params, "batch_stats": moment.batch_stats, "masks": moment.masks}
            penalty = excess(lipschitz_bounds(self.network, variables, iterate_norms), self.config.u)
            metrics = {**metrics, "penalty": penalty * moment.batch.labels.shape[0]}
            return loss + self.config.weight * penalty, (moved, metrics)

        gradient, rest = jax.grad(objective, has_aux=True)(moment.params)
        return gradient, rest, moment.memory


def excess(scores: Mapping[str, Float[Array, "F"]], u: float | jax.Array) -> Float[Array, ""]:
    """Σ relu(max − mean − u·std) over layers of two scores or more; std has ddof 1."""
    return sum((_excess(row, u) for row in scores.values() if row.shape[0] > 1), jnp.float32(0))


def _excess(row: Float[Array, "F"], u: float | jax.Array) -> Float[Array, ""]:
    variance = row.var(ddof=1)
    varies = variance > 0
    std = jnp.where(varies, jnp.sqrt(jnp.where(varies, variance, 1)), 0)  # a slope where scores are equal too
    return jax.nn.relu(row.max() - row.mean() - u * std)


def iterate_norms(kernel: Float[Array, "... C F"]) -> Float[Array, "F"]:
    """``channel_norms`` by power iteration, with the derivative u vᵀ of the largest singular value.

    The Gram matrix is squared again and again, which is power iteration on all its columns at once. What that finds is
    held fixed while the derivative is taken.
    """
    matrices = jnp.moveaxis(kernel, -1, 0).reshape(kernel.shape[-1], -1, kernel.shape[-2])  # [F, h·w, C]
    if matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.swapaxes(1, 2)
    vectors = _leading(jax.lax.stop_gradient(matrices))
    images = jnp.einsum("fpc,fp->fc", matrices, vectors, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.square(images).sum(-1)
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def _leading(matrices: Float[Array, "F P C"]) -> Float[Array, "F P"]:
    """The first left singular vector of each matrix, of length 1; zeros for a matrix of zeros."""

    def scale(values: Array) -> Array:
        largest = jnp.abs(values).max((1, 2), keepdims=True)
        return values / jnp.where(largest > 0, largest, 1)

    scaled = scale(matrices)
    power = scale(jnp.einsum("fpc,fqc->fpq", scaled, scaled, precision=jax.lax.Precision.HIGHEST))

    def square(_: jax.Array, power: Array) -> Array:
        return scale(jnp.einsum("fpq,fqr->fpr", power, power, precision=jax.lax.Precision.HIGHEST))

    power = jax.lax.fori_loop(0, _SQUARINGS, square, power)
    best = jnp.diagonal(power, axis1=1, axis2=2).argmax(-1)
    vectors = jnp.take_along_axis(power, best[:, None, None], 1)[:, 0]
    norms = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / jnp.where(norms > 0, norms, 1)
