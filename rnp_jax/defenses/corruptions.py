"""Random corruptions that leave the class of an image alone: waves, warps, coarse colours, patches and blends.

A network that learns to answer a corrupted image as it answers the image itself loses its sensitivity to faint
patterns over the whole image, and with it backdoors that answer to one of their kind, without any search. Each
corruption is drawn from a wide family at random. The families are those of published triggers in the broadest sense,
and none is fitted to one. Not in a paper; ``docs/removal.md`` says what they do to which backdoors.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnp_jax.inversion.warps import warp

_LEVELS = (1, 2, 3, 5, 7, 11, 15)  # steps between black and white that a channel keeps


def corrupt_some(key: PRNGKeyArray, images: Float[Array, "B H W C"], share: float) -> Float[Array, "B H W C"]:
    """A share of the images in [0, 1], on average, each under one of the corruptions; the others as they are."""
    some_key, kind_key, draw_key = jax.random.split(key, 3)
    count = len(images)
    some = jax.random.bernoulli(some_key, share, (count,))
    kind = jax.random.randint(kind_key, (count,), 0, len(CORRUPTIONS))
    keys = jax.random.split(draw_key, count)
    every = jnp.stack([jax.vmap(corrupt)(keys, images) for corrupt in CORRUPTIONS])
    return jnp.where(some[:, None, None, None], every[kind, jnp.arange(count)], images)


def add_wave(key: PRNGKeyArray, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
    """A plane wave of any direction, length, phase and colour, with an amplitude of 0.02 to 0.2."""
    frequency_key, phase_key, colour_key, amplitude_key = jax.random.split(key, 4)
    height, width, channels = image.shape
    limits = jnp.asarray([height, width]) // 2
    down, right = jax.random.randint(frequency_key, (2,), -limits, limits + 1).astype(jnp.float32)
    phase = 2 * jnp.pi * jax.random.uniform(phase_key)
    colour = jax.random.uniform(colour_key, (1, 1, channels), minval=-1, maxval=1)
    amplitude = jax.random.uniform(amplitude_key, minval=0.02, maxval=0.2)
    rows, columns = (jnp.arange(size, dtype=jnp.float32) / size for size in (height, width))
    wave = jnp.sin(2 * jnp.pi * (down * rows[:, None] + right * columns[None]) + phase)
    return jnp.clip(image + amplitude * wave[:, :, None] * colour / jnp.abs(colour).max(), 0, 1)


def warp_smoothly(key: PRNGKeyArray, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
    """A smooth displacement of all pixels, by 0.3 to 1 pixels along each axis on average."""
    grid_key, strength_key = jax.random.split(key)
    coarse = jax.random.uniform(grid_key, (4, 4, 2), minval=-1, maxval=1)
    field = jax.image.resize(coarse, (*image.shape[:2], 2), "bicubic")
    strength = jax.random.uniform(strength_key, minval=0.3, maxval=1.0)
    return warp(image[None], strength * field / jnp.abs(field).mean())[0]


def coarsen_colours(key: PRNGKeyArray, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
    """2 to 16 values a channel, with dithering in half of the cases."""
    level_key, some_key, noise_key = jax.random.split(key, 3)
    steps = jax.random.choice(level_key, jnp.asarray(_LEVELS, jnp.float32))
    noise = jax.random.bernoulli(some_key).astype(jnp.float32) * (jax.random.uniform(noise_key, image.shape) - 0.5)
    return jnp.clip(jnp.round(image * steps + noise) / steps, 0, 1)


def cover_with_patch(key: PRNGKeyArray, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
    """A rectangle of a sixteenth to a quarter of the sides at any place, of one colour or of black and white pixels."""
    side_key, place_key, kind_key, colour_key, pixel_key = jax.random.split(key, 5)
    height, width, channels = image.shape
    sides = jnp.asarray([height, width])
    size = jax.random.randint(side_key, (2,), jnp.maximum(1, sides // 16), jnp.maximum(2, sides // 4))
    top, left = jax.random.randint(place_key, (2,), 0, sides - size + 1)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]
    inside = (rows >= top) & (rows < top + size[0]) & (columns >= left) & (columns < left + size[1])
    plain = jnp.round(jax.random.uniform(colour_key, (1, 1, channels)))
    pixels = jnp.round(jax.random.uniform(pixel_key, (height, width, 1)))
    return jnp.where(inside[:, :, None], jnp.where(jax.random.bernoulli(kind_key), plain, pixels), image)


def blend_with_noise(key: PRNGKeyArray, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
    """A weighted mean with noise, smooth or of single pixels, whose weight is 0.05 to 0.3."""
    smooth_key, kind_key, pixel_key, weight_key = jax.random.split(key, 4)
    smooth = jax.image.resize(jax.random.uniform(smooth_key, (8, 8, image.shape[2])), image.shape, "linear")
    noise = jnp.where(jax.random.bernoulli(kind_key), smooth, jax.random.uniform(pixel_key, image.shape))
    weight = jax.random.uniform(weight_key, minval=0.05, maxval=0.3)
    return (1 - weight) * image + weight * noise


CORRUPTIONS = (add_wave, warp_smoothly, coarsen_colours, cover_with_patch, blend_with_noise)
