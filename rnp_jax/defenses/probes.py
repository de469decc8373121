"""How far single neurons can be moved along their steepest directions, and what that is in Hölder's sense.

A neuron k has a pre-activation z_k(u), a post-activation response f_k(u), and a step δ of p-norm r. Every estimator
gives, per sample u, the maximum over the steps of |f_k(u + δ) − f_k(u)| / ‖δ‖_p^α: a lower bound of the constant
sup |f_k(u + δ) − f_k(u)| / ‖δ‖_p^α over all δ up to the largest radius (fast gradient sign, Goodfellow et al., ICLR
2015, with its counterparts for other norms). The direction comes from the PRE-activation's gradient, which a dead ReLU
has too.

``probe`` holds for any differentiable map. ``probe_affine`` and ``probe_layers`` give the same numbers where z_k is
affine, or reached through linear layers with ReLU between them, without a forward pass a neuron.

Glossary of shapes, beside that of ``rnp_jax.types``: D values of an input, R signed steps, S neurons of a chunk.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

Norm = Literal["1", "2", "inf"]
"""The p of ‖δ‖_p."""

Map: TypeAlias = Callable[[jax.Array], jax.Array]

_PRECISION = lax.Precision.HIGHEST  # differences of nearly equal numbers are measured


class Steps(NamedTuple):
    """Signed lengths r of the perturbations, and what each change is divided by: |r|^α."""

    lengths: Float[Array, "R"]
    divisors: Float[Array, "R"]


def steepest(gradient: Float[Array, "... D"], norm: Norm) -> Float[Array, "... D"]:
    """The δ with ‖δ‖_p = 1 that maximises gradient · δ (to the gradient's dual norm); 0 where the gradient is 0.

    For p = ∞ what rounding leaves in place of 0 (outside a channel's receptive field) counts as 0: δ would be its sign.
    """
    if norm == "inf":
        rounding = 8 * jnp.finfo(gradient.dtype).eps * jnp.abs(gradient).max(-1, keepdims=True)
        return jnp.where(jnp.abs(gradient) > rounding, jnp.sign(gradient), 0)
    if norm == "1":
        place = jnp.abs(gradient).argmax(-1, keepdims=True)
        there = jnp.arange(gradient.shape[-1]).reshape((1,) * (gradient.ndim - 1) + (-1,)) == place
        return jnp.where(there, jnp.sign(gradient), 0)
    # Squares of float32 underflow below 1e-19; a gradient relative to its largest entry has none that matter.
    largest = jnp.abs(gradient).max(-1, keepdims=True)
    scaled = gradient / jnp.where(largest > 0, largest, 1)
    length = jnp.sqrt(jnp.square(scaled).sum(-1, keepdims=True))
    return scaled / jnp.where(length > 0, length, 1)


def probe(pre: Map, post: Map, u: Float[Array, "B ..."], steps: Steps, norm: Norm, chunk: int) -> Float[Array, "B F"]:
    """The estimate for any neurons: one vector-Jacobian product and R forward passes a neuron, S neurons at a time.

    Args:
      pre: inputs [B, ...] to what is differentiated, [B, F].
      post: inputs [B, ...] to what is measured, [B, F].
      u: the samples.
      steps: tried along the direction of steepest ascent.
      norm: in which the steps' lengths count.
      chunk: S, on which nothing but memory depends (about B·S·D floats, a few times).
    """
    ascent, pull = jax.vjp(pre, u)
    base, (count, features) = post(u), ascent.shape

    def one_chunk(neurons: Int[Array, "S"]) -> Float[Array, "S B"]:
        wanted = jax.nn.one_hot(neurons, features, dtype=ascent.dtype)
        (gradient,) = jax.vmap(pull)(jnp.broadcast_to(wanted[:, None], (len(neurons), count, features)))
        direction = steepest(gradient.reshape(len(neurons), count, -1), norm).reshape(gradient.shape)
        start = base.T[neurons]

        def widen(best: jax.Array, step: Steps) -> tuple[jax.Array, None]:
            moved = (u[None] + step.lengths * direction).reshape(-1, *u.shape[1:])
            response = post(moved).reshape(len(neurons), count, features)
            own = jnp.take_along_axis(response, neurons[:, None, None], 2)[..., 0]
            return jnp.maximum(best, jnp.abs(own - start) / step.divisors), None

        return lax.scan(widen, jnp.zeros_like(start), steps)[0]

    return _by_chunks(one_chunk, features, chunk)


def linear_response(
    linear: Map, reduce: Map, like: Float[Array, "..."], norm: Norm, chunk: int
) -> Float[Array, "... F"]:
    """What each neuron's own step of length 1 adds to its pre-activations, where these are affine.

    Args:
      linear: inputs [B, ...] to pre-activations [B, ..., F] without their constant part.
      reduce: those to what is differentiated, [B, F]; linear too.
      like: an input [...], of which only shape and type matter.
      norm: in which the step has length 1.
      chunk: S, on which nothing but memory depends.
    """
    reduced, pull = jax.vjp(lambda u: reduce(linear(u)), jnp.zeros_like(like)[None])
    features = reduced.shape[1]

    def one_chunk(neurons: Int[Array, "S"]) -> Float[Array, "S ..."]:
        wanted = jax.nn.one_hot(neurons, features, dtype=reduced.dtype)[:, None]
        (gradient,) = jax.vmap(pull)(wanted)
        added = linear(steepest(gradient.reshape(len(neurons), -1), norm).reshape(-1, *like.shape))
        own = neurons.reshape(-1, *(1,) * (added.ndim - 1))
        return jnp.take_along_axis(added, own, added.ndim - 1)[..., 0]

    return _by_chunks(one_chunk, features, chunk)


def probe_affine(
    z: Float[Array, "B ... F"], response: Float[Array, "... F"], post: Map, steps: Steps
) -> Float[Array, "B F"]:
    """The estimate from the pre-activations of the samples and ``linear_response``; exact, no forward pass.

    ``post`` takes pre-activations [B, ..., F] to what is measured, [B, F].
    """
    base = post(z)

    def widen(best: jax.Array, step: Steps) -> tuple[jax.Array, None]:
        return jnp.maximum(best, jnp.abs(post(z + step.lengths * response[None]) - base) / step.divisors), None

    return lax.scan(widen, jnp.zeros_like(base), steps)[0]


def probe_layers(
    layers: Sequence[tuple[Float[Array, "D F"], Float[Array, "F"]]],
    u: Float[Array, "B D"],
    steps: Steps,
    norm: Norm,
    chunk: int,
) -> Float[Array, "B F"]:
    """The estimate for the ReLU units of the last of several linear layers with ReLU between them.

    Every step of a neuron moves the first layer along one line, so its weights are multiplied once for all R steps, and
    the last layer's by the neuron's own column only.

    Args:
      layers: kernel and bias of each, two or more.
      u: what the first one reads.
      steps: tried along the direction of steepest ascent.
      norm: in which the steps' lengths count.
      chunk: S, on which nothing but memory depends.
    """
    (first, _), *middle, (last, last_bias) = layers
    zs = []
    h = u
    for kernel, bias in layers:
        zs.append(_dot(h, kernel) + bias[None])
        h = jax.nn.relu(zs[-1])
    base = h

    def one_chunk(neurons: Int[Array, "S"]) -> Float[Array, "S B"]:
        own = last.T[neurons][:, None]
        cotangent = jnp.where(zs[-2][None] > 0, own, 0)
        for (kernel, _), z in zip(reversed(middle), reversed(zs[:-2]), strict=True):
            cotangent = jnp.where(z[None] > 0, _dot(cotangent, kernel.T), 0)
        line = _dot(steepest(_dot(cotangent, first.T), norm), first)
        start = base.T[neurons]

        def widen(best: jax.Array, step: Steps) -> tuple[jax.Array, None]:
            h = jax.nn.relu(zs[0][None] + step.lengths * line)
            for kernel, bias in middle:
                h = jax.nn.relu(_dot(h, kernel) + bias[None, None])
            moved = jax.nn.relu((h * own).sum(-1) + last_bias[neurons][:, None])
            return jnp.maximum(best, jnp.abs(moved - start) / step.divisors), None

        return lax.scan(widen, jnp.zeros_like(start), steps)[0]

    return _by_chunks(one_chunk, base.shape[1], chunk)


def _dot(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.dot(x, kernel, precision=_PRECISION)


def _by_chunks(one_chunk: Callable[[jax.Array], jax.Array], features: int, chunk: int) -> jax.Array:
    """Results [..., F] of a function from neurons [S] to [S, ...], applied to F neurons in turn."""
    chunk = min(chunk, features)
    neurons = jnp.arange(-(-features // chunk) * chunk) % features
    rows = lax.map(one_chunk, neurons.reshape(-1, chunk))
    rows = rows.reshape(-1, *rows.shape[2:])[:features]
    return jnp.moveaxis(rows, 0, -1)
