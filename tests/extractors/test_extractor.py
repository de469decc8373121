"""The one interface: chunks, checks, and heads on top."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.data import Dataset
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.extractors import feature_set, from_function
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Batch
from tests.compiled import count_compiled

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 4, 3, 3), np.uint8)
MEANS = IMAGES.mean(axis=(1, 2), dtype=np.float32)


def means(images) -> jax.Array:
    return jnp.asarray(images).astype(jnp.float32).mean((1, 2))


@pytest.mark.parametrize("batch_size", [None, 1, 3, 10, 64])
def test_features_do_not_depend_on_the_chunks(batch_size):
    found = from_function(means, 3, "means")(IMAGES, batch_size=batch_size)
    np.testing.assert_allclose(found, MEANS, rtol=1e-6)
    assert (found.dtype, found.shape) == (np.float32, (10, 3))


def test_one_program_whatever_n():
    jitted = jax.jit(lambda images: images.astype(jnp.float32).mean((1, 2)))
    extract = from_function(jitted, 3, "means")
    for count in (10, 7, 1):
        np.testing.assert_allclose(extract(IMAGES[:count], batch_size=4), MEANS[:count], rtol=1e-6)
    assert count_compiled(jitted) == 1


def test_progress_counts_images():
    seen = []
    from_function(means, 3, "means")(IMAGES, batch_size=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_functions_get_images_of_the_size_they_state():
    extract = from_function(lambda images: images.reshape(len(images), -1), 12, "pixels", image_shape=(2, 2, 3))
    flat = np.full((5, 8, 8, 1), 7, np.uint8)
    assert (extract(flat) == 7).all()
    assert extract.image_shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (IMAGES[0], r"shape \(4, 3, 3\).*images\[None\]"),
        (IMAGES[:0], "at least one"),
        (IMAGES / np.float32(255), "float32, expected pixels from 0 to 255"),
        (IMAGES.tolist(), "object, expected"),
        (IMAGES[..., :2], "2 channels, but the extractor takes 3"),
        (IMAGES.transpose(0, 3, 1, 2)[:, :, :, :2], "channels come last"),
    ],
)
def test_images_that_cannot_be_used(images, reason):
    with pytest.raises(DataError, match=reason):
        from_function(means, 3, "means", image_shape=(4, 3, 3))(images)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda images: means(images)[:, :2], r"10 images gave features of shape \(10, 2\).*expected shape \(10, 3\)"),
        (lambda images: means(images)[:-1], r"shape \(9, 3\)"),
        (lambda _: np.array([["a"] * 3] * 10), "type <U1"),
        (lambda _: None, "type object"),
    ],
)
def test_functions_that_give_something_else(call, reason):
    with pytest.raises(DataError, match=reason):
        from_function(call, 3, "odd")(IMAGES, batch_size=10)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite(value):
    def call(images):
        features = np.array(means(images))
        features[images[:, 0, 0, 0] == IMAGES[7, 0, 0, 0], 1] = value
        return features

    with pytest.raises(DataError, match=r"odd: the features of image 7 are not finite \(1 such"):
        from_function(call, 3, "odd")(IMAGES, batch_size=4)


def test_options_that_make_no_sense():
    with pytest.raises(ConfigError, match="batch_size 0"):
        from_function(means, 3, "means")(IMAGES, batch_size=0)
    with pytest.raises(ConfigError, match="0 features per image"):
        from_function(means, 0, "means")
    with pytest.raises(ConfigError, match="cannot be called"):
        from_function("means", 3, "means")  # pyright: ignore[reportArgumentType]


def test_functions_are_of_unknown_provenance():
    extract = from_function(means, 3, "means")
    assert extract.provenance == {"kind": "function", "poisoned": "unknown"}
    assert extract.caution is None


@pytest.mark.parametrize("as_batch", [False, True])
def test_a_feature_set_is_what_a_head_reads(as_batch):
    labels = np.arange(10, dtype=np.int32) % 2
    data = Dataset(IMAGES, labels, ("a", "b"), "random")
    found = feature_set(from_function(means, 3, "means"), data.batch if as_batch else data)
    assert (found.images.shape, found.images.dtype) == ((10, 1, 1, 3), np.float32)
    np.testing.assert_array_equal(found.labels, labels)
    head = Network(Architecture("mlp", 2, 0, (("0", 2),), (1, 1, 3)), (0.0,) * 3, (1.0,) * 3)
    params = {"0": {"kernel": jnp.eye(3, 2), "bias": jnp.zeros(2)}}
    logits, _ = head({**head.init(jax.random.key(0)), "params": params}, found.images)
    np.testing.assert_allclose(logits, MEANS[:, :2], rtol=1e-6)


def test_a_feature_set_needs_a_label_an_image():
    with pytest.raises(DataError, match=r"10 images with labels of shape \(9,\)"):
        feature_set(from_function(means, 3, "means"), Batch(IMAGES, np.zeros(9, np.int32)))
