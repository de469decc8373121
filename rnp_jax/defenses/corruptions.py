"""Random corruptions that leave the class of an image alone: waves, warps, coarse or other colours, patches, blends.

A network that learns to answer a corrupted image as it answers the image itself loses its sensitivity to patterns over
the whole image, and with it backdoors that answer to one of their kind, without any search. Each corruption is drawn
from a wide family at random. The families are those of published triggers in the broadest sense, and none is fitted to
one. Each has a strength, 1 or more, of which networks bear different ones: a wave that changes a third of the answers
on photographs changes none on handwritten digits (``find_strengths``). Not in a paper; ``docs/removal.md`` says what
they do to which backdoors.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from rnp_jax.evaluation.predict import predict
from rnp_jax.inversion.stamps import scale
from rnp_jax.inversion.warps import warp
from rnp_jax.models import Network
from rnp_jax.types import Batch, Variables

Image: TypeAlias = Float[Array, "H W C"]
Corruption: TypeAlias = Callable[[PRNGKeyArray, jax.Array, ArrayLike], jax.Array]

STRENGTHS = tuple(2 ** (step / 2) for step in range(7))
"""Strengths that are tried, from 1 to 8."""

_LEVELS = (1, 2, 3, 5, 7, 11, 15)  # steps between black and white that a channel keeps
_JUDGES = 200  # images that a strength is tried on


def find_strengths(
    network: Network, variables: Variables, images: UInt8[np.ndarray, "N H W C"], key: PRNGKeyArray, keeps: float
) -> Float[np.ndarray, "K"]:
    """How strong each corruption may be: the largest of ``STRENGTHS`` up to which the network keeps its answers.

    Args:
      network: the function of the variables.
      variables: the network that answers.
      images: clean images; 200 of them are looked at.
      key: of the choice of images and of the corruptions.
      keeps: share of the images whose answer must stay. Strength 1 is taken even where fewer do.

    Returns:
      The strengths, in the order of ``CORRUPTIONS``.
    """
    order_key, draw_key = jax.random.split(key)
    chosen = np.asarray(jax.random.permutation(order_key, len(images)))[:_JUDGES]
    looked_at, keys = scale(jnp.asarray(images[chosen])), jax.random.split(draw_key, len(chosen))

    def answer(seen: jax.Array) -> np.ndarray:
        return predict(network, variables, Batch(np.asarray(seen), np.zeros(len(chosen), np.int32))).labels[0]

    plain, found = answer(looked_at), np.ones(len(CORRUPTIONS), np.float32)
    for place, corrupt in enumerate(CORRUPTIONS):
        for strength in STRENGTHS[1:]:
            if (answer(_corrupt_all(corrupt, keys, looked_at, strength)) == plain).mean() < keeps:
                break
            found[place] = strength
    return found


def corrupt_some(
    key: PRNGKeyArray, images: Float[Array, "B H W C"], share: float, strengths: Float[Array, "K"]
) -> Float[Array, "B H W C"]:
    """A share of the images in [0, 1], on average, each under one of the corruptions; the others as they are."""
    some_key, kind_key, draw_key = jax.random.split(key, 3)
    count = len(images)
    some = jax.random.bernoulli(some_key, share, (count,))
    kind = jax.random.randint(kind_key, (count,), 0, len(CORRUPTIONS))
    keys = jax.random.split(draw_key, count)
    every = jnp.stack([_corrupt_all(each, keys, images, strengths[i]) for i, each in enumerate(CORRUPTIONS)])
    return jnp.where(some[:, None, None, None], every[kind, jnp.arange(count)], images)


@partial(jax.jit, static_argnums=0)
def _corrupt_all(corrupt: Corruption, keys: PRNGKeyArray, images: jax.Array, strength: ArrayLike) -> jax.Array:
    return jax.vmap(corrupt, (0, 0, None))(keys, images, strength)


def add_wave(key: PRNGKeyArray, image: Image, strength: ArrayLike = 1.0) -> Image:
    """A plane wave of any direction, length and phase, with an amplitude of 0.02 to 0.2 times the strength.

    Its edges are soft, as a sine's, to hard. It has a colour, or is alike in all channels in half of the cases: on grey
    images, of which the network knows no other, that is what it answers to.
    """
    length_key, phase_key, colour_key, grey_key, amplitude_key, edge_key, direction_key = jax.random.split(key, 7)
    height, width, channels = image.shape
    colour = jax.random.uniform(colour_key, (1, 1, channels), minval=-1, maxval=1)
    colour = jnp.where(jax.random.bernoulli(grey_key), 1.0, colour / jnp.abs(colour).max())
    amplitude = strength * jax.random.uniform(amplitude_key, minval=0.02, maxval=0.2)
    longest = np.log(min(height, width) / 2)
    cycles = jnp.exp(jax.random.uniform(length_key, minval=0.0, maxval=longest))  # over the image
    direction = jnp.pi * jax.random.uniform(direction_key)
    rows, columns = (jnp.arange(size, dtype=jnp.float32) / size for size in (height, width))
    along = jnp.sin(direction) * rows[:, None] + jnp.cos(direction) * columns[None]
    wave = jnp.sin(2 * jnp.pi * (cycles * along + jax.random.uniform(phase_key)))
    hard = jnp.exp(jax.random.uniform(edge_key, minval=0.0, maxval=3.0))
    return jnp.clip(image + amplitude * (jnp.tanh(hard * wave) / jnp.tanh(hard))[:, :, None] * colour, 0, 1)


def warp_smoothly(key: PRNGKeyArray, image: Image, strength: ArrayLike = 1.0) -> Image:
    """A smooth displacement of all pixels, by 0.3 to 1 pixels times the strength along each axis on average."""
    grid_key, length_key = jax.random.split(key)
    coarse = jax.random.uniform(grid_key, (4, 4, 2), minval=-1, maxval=1)
    field = jax.image.resize(coarse, (*image.shape[:2], 2), "bicubic")
    length = strength * jax.random.uniform(length_key, minval=0.3, maxval=1.0)
    return warp(image[None], length * field / jnp.abs(field).mean())[0]


def coarsen_colours(key: PRNGKeyArray, image: Image, strength: ArrayLike = 1.0) -> Image:
    """2 to 16 values a channel, fewer the greater the strength, with dithering in half of the cases."""
    level_key, some_key, noise_key = jax.random.split(key, 3)
    steps = jnp.ceil(jax.random.choice(level_key, jnp.asarray(_LEVELS, jnp.float32)) / strength)
    noise = jax.random.bernoulli(some_key).astype(jnp.float32) * (jax.random.uniform(noise_key, image.shape) - 0.5)
    return jnp.clip(jnp.round(image * steps + noise) / steps, 0, 1)


def cover_with_patch(key: PRNGKeyArray, image: Image, strength: ArrayLike = 1.0) -> Image:
    """A rectangle at any place, of one colour or of black and white pixels.

    Its sides are a sixteenth to a quarter of the image's, times the strength, and three quarters at most.
    """
    side_key, place_key, kind_key, colour_key, pixel_key = jax.random.split(key, 5)
    height, width, channels = image.shape
    sides = jnp.asarray([height, width])
    limits = jnp.minimum((strength * (sides // 4).astype(jnp.float32)).astype(jnp.int32), sides * 3 // 4)
    size = jax.random.randint(side_key, (2,), jnp.maximum(1, sides // 16), jnp.maximum(2, limits))
    top, left = jax.random.randint(place_key, (2,), 0, sides - size + 1)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]
    inside = (rows >= top) & (rows < top + size[0]) & (columns >= left) & (columns < left + size[1])
    plain = jnp.round(jax.random.uniform(colour_key, (1, 1, channels)))
    pixels = jnp.round(jax.random.uniform(pixel_key, (height, width, 1)))
    return jnp.where(inside[:, :, None], jnp.where(jax.random.bernoulli(kind_key), plain, pixels), image)


def blend_with_noise(key: PRNGKeyArray, image: Image, strength: ArrayLike = 1.0) -> Image:
    """A weighted mean with noise, smooth or of single pixels.

    The noise weighs 0.05 to 0.3 times the strength, and 0.9 at most.
    """
    smooth_key, kind_key, pixel_key, weight_key = jax.random.split(key, 4)
    smooth = jax.image.resize(jax.random.uniform(smooth_key, (8, 8, image.shape[2])), image.shape, "linear")
    noise = jnp.where(jax.random.bernoulli(kind_key), smooth, jax.random.uniform(pixel_key, image.shape))
    weight = jnp.minimum(strength * jax.random.uniform(weight_key, minval=0.05, maxval=0.3), 0.9)
    return (1 - weight) * image + weight * noise


def change_colours(key: PRNGKeyArray, image: Image, strength: ArrayLike = 1.0) -> Image:
    """Channels mixed, scaled and shifted alike at all pixels.

    An entry of the matrix of channels moves by up to 0.25 times the strength, and a channel by up to 0.15 times it.
    """
    matrix_key, shift_key = jax.random.split(key)
    channels = image.shape[2]
    moved = 0.25 * strength * jax.random.uniform(matrix_key, (channels, channels), minval=-1, maxval=1)
    shift = 0.15 * strength * jax.random.uniform(shift_key, (1, 1, channels), minval=-1, maxval=1)
    return jnp.clip(image + image @ moved + shift, 0, 1)


CORRUPTIONS = (add_wave, warp_smoothly, coarsen_colours, cover_with_patch, blend_with_noise, change_colours)
