import colorsys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.errors import ConfigError
from rnp_jax.training import views
from rnp_jax.training.views import Views, resample

jitted = jax.jit(Views.__call__, static_argnums=0)
STILL = Views(scale=(1.0, 1.0), aspect=1.0, flip=False, jitter=0.0, grayscale=0.0)


def random_images(count: int, height: int = 6, width: int = 5, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)


def test_nothing_to_change_gives_the_image():
    images = random_images(4)
    out = jitted(STILL, jax.random.key(0), images)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, images / np.float32(255), atol=1e-6)
    np.testing.assert_allclose(jitted(STILL, jax.random.key(0), images / np.float32(255)), out, atol=1e-6)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.floats(0.1, 1), st.floats(0.1, 1), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_a_crop_is_torch_s_bilinear_grid_sample(height, width, top, left, mirrored):
    pixels = random_images(1, 7, 5) / np.float32(255)
    top, left = top * (1 - height), left * (1 - width)
    begin, extent = (left + width, -width) if mirrored else (left, width)
    rows, columns = (
        views._taps(jnp.array([at], jnp.float32), jnp.array([size], jnp.float32), length)
        for at, size, length in ((top, height, 7), (begin, extent, 5))
    )
    # An affine map of [-1, 1], the outer edges of the image.
    theta = torch.tensor([[[extent, 0, 2 * begin + extent - 1], [0, height, 2 * top + height - 1]]])
    grid = torch.nn.functional.affine_grid(theta, [1, 3, 7, 5], align_corners=False)
    expected = torch.nn.functional.grid_sample(
        torch.tensor(pixels).permute(0, 3, 1, 2), grid, padding_mode="border", align_corners=False
    )
    found = resample(jnp.asarray(pixels), rows, columns)
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1), atol=2e-5)


def test_crop_areas_and_aspects_stay_in_range():
    """On an image of column and row numbers, a crop's extent can be read off."""
    ramp = np.stack(np.broadcast_arrays(np.arange(64)[:, None], np.arange(64)[None], 0), -1).astype(np.float32) / 63
    config = Views(scale=(0.25, 0.5), aspect=2.0, flip=False, jitter=0.0, grayscale=0.0)
    out = np.asarray(jitted(config, jax.random.key(2), np.broadcast_to(ramp, (600, 64, 64, 3))))
    # Between two inner pixels, away from edges that are repeated, lies 1/64 of the extent.
    height = (out[:, 33, 32, 0] - out[:, 31, 32, 0]) / 2 * 63
    width = (out[:, 32, 33, 1] - out[:, 32, 31, 1]) / 2 * 63
    area, aspect = height * width, width / height
    assert area.min() == pytest.approx(0.25, abs=0.01)
    assert area.max() == pytest.approx(0.5, abs=0.01)
    assert area.mean() == pytest.approx(0.375, abs=0.01)
    assert aspect.min() == pytest.approx(0.5, abs=0.02)
    assert aspect.max() == pytest.approx(2, abs=0.05)
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.05)
    assert (height <= 1.001).all()
    assert (width <= 1.001).all()


def test_a_crop_may_touch_every_edge_but_never_leaves_the_image():
    images = np.full((500, 8, 8, 1), 77, np.uint8)
    out = jitted(Views(jitter=0.0), jax.random.key(0), images)
    np.testing.assert_allclose(out, 77 / 255, atol=1e-6)
    edges = np.zeros((500, 8, 8, 1), np.uint8)
    edges[:, :, 0] = 255
    shares = np.asarray(jitted(Views(jitter=0.0, flip=False), jax.random.key(0), edges))
    assert 0.01 < (shares[:, :, 0] > 0.5).all((1, 2)).mean() < 0.9
    assert (shares[:, :, -1] == 0).all()


def test_half_of_the_images_are_mirrored():
    image = random_images(1)
    config = Views(scale=(1.0, 1.0), aspect=1.0, flip=True, jitter=0.0, grayscale=0.0)
    out = np.asarray(jitted(config, jax.random.key(0), np.repeat(image, 1000, 0)))
    plain, mirrored = (np.abs(out - source / 255).max((1, 2, 3)) < 1e-5 for source in (image, image[:, :, ::-1]))
    assert (plain ^ mirrored).all()
    assert 0.45 < mirrored.mean() < 0.55


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.tuples(*[st.floats(0, 1)] * 3), st.floats(0, 2), st.floats(-0.5, 0.5))
def test_saturation_and_hue_are_scaling_and_turning_in_yiq(colour, saturation, turns):
    y, i, q = colorsys.rgb_to_yiq(*colour)
    chroma = saturation * (i + 1j * q) * np.exp(2j * np.pi * turns)
    # colorsys clips, and its coefficients are rounded: what is compared is taken back to YIQ where neither acts.
    matrix = np.asarray(views._chroma_matrix(jnp.array([saturation], jnp.float32), jnp.array([turns], jnp.float32)))[0]
    found = views._YIQ @ matrix.astype(np.float64) @ np.array(colour)
    np.testing.assert_allclose(found, [y, chroma.real, chroma.imag], atol=0.01)


def test_brightness_and_contrast_of_one_channel_are_the_two_factors():
    """out = b·(c·x + (1 − c)·mean) is affine in x, and its mean is b times the image's."""
    images = np.random.default_rng(0).uniform(0.3, 0.5, (400, 6, 5, 1)).astype(np.float32)
    config = Views(scale=(1.0, 1.0), aspect=1.0, flip=False, jitter=0.5)
    out = np.asarray(jitted(config, jax.random.key(1), images))
    brightness = out.mean((1, 2, 3)) / images.mean((1, 2, 3))
    slope = out.std((1, 2, 3)) / images.std((1, 2, 3))
    contrast = slope / brightness
    unchanged = np.abs(brightness - 1) < 1e-5
    assert 0.1 < unchanged.mean() < 0.3
    for factor in (brightness, contrast):
        assert 0.6 - 1e-3 <= factor.min() < 0.65
        assert 1.35 < factor.max() <= 1.4 + 1e-3
    assert abs(np.corrcoef(brightness[~unchanged], contrast[~unchanged])[0, 1]) < 0.2


def test_grey_images():
    images = random_images(300)
    config = Views(scale=(1.0, 1.0), aspect=1.0, flip=False, jitter=0.0, grayscale=0.3)
    out = np.asarray(jitted(config, jax.random.key(0), images))
    luma = (images @ np.array([0.299, 0.587, 0.114]) / 255)[..., None]
    grey = np.abs(out - luma).max((1, 2, 3)) < 1e-5
    assert 0.2 < grey.mean() < 0.4
    np.testing.assert_allclose(out[~grey], images[~grey] / 255, atol=1e-5)


def test_pixels_stay_in_range_and_the_key_decides():
    images = random_images(200)
    first, again, other = (np.asarray(jitted(Views(jitter=1.0), jax.random.key(seed), images)) for seed in (0, 0, 1))
    assert first.min() == 0
    assert first.max() == 1
    np.testing.assert_array_equal(first, again)
    assert (first != other).any((1, 2, 3)).all()


def test_the_two_halves_of_a_doubled_batch_differ():
    images = random_images(50)
    out = np.asarray(jitted(Views(), jax.random.key(0), np.concatenate([images, images])))
    assert (out[:50] != out[50:]).any((1, 2, 3)).all()


def test_one_trace_serves_every_key():
    step = jax.jit(chex.assert_max_traces(Views.__call__, n=1), static_argnums=0)
    for seed in range(3):
        step(Views(), jax.random.key(seed), random_images(4))


@pytest.mark.parametrize(
    "options",
    [
        {"scale": (0.0, 1.0)},
        {"scale": (0.5, 0.2)},
        {"scale": (0.5, 1.2)},
        {"aspect": 0.5},
        {"jitter": -0.1},
        {"jitter": 2.0},
        {"jitter_probability": 1.1},
        {"grayscale": -0.1},
    ],
)
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Views(**options)
