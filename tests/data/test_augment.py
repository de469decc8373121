import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.data.augment import Augmentation
from rnp_jax.errors import ConfigError

jitted = jax.jit(Augmentation.__call__, static_argnums=0)


def distinct_images(shape, dtype=np.uint8):
    """Images without a zero and with every pixel of a row or column different from its neighbours."""
    return (np.arange(np.prod(shape)) % 250 + 1).reshape(shape).astype(dtype)


def enumerate_variants(image, padding, flip):
    """Every crop and flip that can come out of one image [H, W, C], as bytes."""
    H, W, _ = image.shape
    variants = []
    for source in [image, image[:, ::-1]] if flip else [image]:
        padded = np.pad(source, ((padding, padding), (padding, padding), (0, 0)))
        variants += [
            padded[y : y + H, x : x + W].tobytes() for y in range(2 * padding + 1) for x in range(2 * padding + 1)
        ]
    return variants


def test_no_padding_and_no_flip_is_the_identity():
    images = distinct_images((4, 5, 6, 3))
    np.testing.assert_array_equal(Augmentation(padding=0, flip=False)(jax.random.key(0), images), images)


@pytest.mark.parametrize(
    ("shape", "padding", "flip"),
    [
        ((40, 6, 6, 3), 4, True),
        ((40, 3, 9, 1), 2, False),
        ((40, 9, 3, 4), 0, True),
        ((40, 5, 4, 2), 7, True),  # more padding than image
        ((1, 1, 1, 1), 1, True),
    ],
)
def test_every_output_is_a_crop_or_flip_of_its_input(shape, padding, flip):
    images = distinct_images(shape)
    outputs = np.asarray(jitted(Augmentation(padding, flip), jax.random.key(0), images))
    assert outputs.dtype == np.uint8
    for image, output in zip(images, outputs, strict=True):
        assert output.tobytes() in enumerate_variants(image, padding, flip)


@pytest.mark.parametrize("flip", [True, False])
def test_crops_and_flips_are_uniform_and_independent(flip):
    image = distinct_images((4, 4, 1))
    variants = enumerate_variants(image, 1, flip)
    assert len(set(variants)) == len(variants) == (18 if flip else 9)
    B = 9000
    outputs = np.asarray(jitted(Augmentation(1, flip), jax.random.key(3), jnp.tile(image, (B, 1, 1, 1))))
    counts = np.array([sum(output.tobytes() == variant for output in outputs) for variant in variants])
    assert counts.sum() == B
    expected = B / len(variants)
    assert ((counts - expected) ** 2 / expected).sum() < 40.8  # chi-square, 17 degrees of freedom, p = 0.001


def test_pixels_keep_their_type_and_the_key_decides():
    images = distinct_images((8, 6, 6, 3), np.float32) / 255
    first = jitted(Augmentation(), jax.random.key(0), jnp.asarray(images))
    assert first.dtype == jnp.float32
    np.testing.assert_array_equal(first, jitted(Augmentation(), jax.random.key(0), jnp.asarray(images)))
    assert not np.array_equal(first, jitted(Augmentation(), jax.random.key(1), jnp.asarray(images)))


def test_one_trace_serves_every_key_and_equals_the_uncompiled_result():
    step = jax.jit(chex.assert_max_traces(Augmentation.__call__, n=1), static_argnums=0)
    images = jnp.asarray(distinct_images((4, 8, 8, 3)))
    outputs = [np.asarray(step(Augmentation(), jax.random.key(seed), images)) for seed in range(3)]
    np.testing.assert_array_equal(outputs[2], Augmentation()(jax.random.key(2), images))
    assert not np.array_equal(outputs[0], outputs[1])


def test_vmap_over_keys_equals_a_loop():
    images = jnp.asarray(distinct_images((4, 8, 8, 3)))
    keys = jax.random.split(jax.random.key(5), 3)
    config = Augmentation(padding=2)
    batched = jax.jit(jax.vmap(lambda key: config(key, images)))(keys)
    np.testing.assert_array_equal(batched, jnp.stack([jitted(config, key, images) for key in keys]))


def test_negative_padding_is_refused():
    with pytest.raises(ConfigError, match="padding is -1"):
        Augmentation(padding=-1)
