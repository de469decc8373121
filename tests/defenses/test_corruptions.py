"""Random corruptions: what each does to an image, and that a share of the images gets one of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.defenses.corruptions import (
    CORRUPTIONS,
    STRENGTHS,
    add_wave,
    blend_with_noise,
    change_colours,
    coarsen_colours,
    corrupt_some,
    cover_with_patch,
    find_strengths,
    warp_smoothly,
)
from rnp_jax.models import Architecture, Network

KEY = jax.random.key(3)
GREY = jnp.full((32, 24, 3), 0.5)
WEAK = jnp.ones(len(CORRUPTIONS))
NOISE = jnp.asarray(np.random.default_rng(1).random((32, 24, 3), np.float32))


def draw(corrupt, image: jax.Array, count: int = 40, strength: float = 1.0) -> np.ndarray:
    return np.asarray(jax.vmap(lambda key: corrupt(key, image, strength))(jax.random.split(KEY, count)))


def test_a_share_of_the_images_is_corrupted_and_the_others_are_as_they_were():
    images = jnp.broadcast_to(NOISE, (300, *NOISE.shape))
    found = np.asarray(corrupt_some(KEY, images, 0.5, WEAK))
    touched = np.abs(found - np.asarray(images)).max((1, 2, 3)) > 0
    assert 0.4 < touched.mean() < 0.6
    np.testing.assert_array_equal(corrupt_some(KEY, images, 0.0, WEAK), images)
    np.testing.assert_array_equal(found, corrupt_some(KEY, images, 0.5, WEAK))


@pytest.mark.parametrize("corrupt", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(32, 24, 3), (28, 28, 1), (8, 8, 3)])
@pytest.mark.parametrize("strength", [STRENGTHS[0], STRENGTHS[-1]])
def test_images_stay_in_range_and_change_with_the_key(corrupt, shape: tuple[int, ...], strength: float):
    image = jnp.asarray(np.random.default_rng(2).random(shape, np.float32))
    found = draw(corrupt, image, 12, strength)
    assert found.shape == (12, *shape)
    assert (found >= 0).all()
    assert (found <= 1).all()
    assert len({each.tobytes() for each in found}) > 6


def test_a_wave_has_one_shape_in_all_channels_a_bounded_amplitude_and_soft_to_hard_edges():
    waves = draw(add_wave, GREY) - 0.5
    assert np.abs(waves).max() <= 0.2 + 1e-6
    for each in waves:
        first, second, _ = np.linalg.svd(each.reshape(-1, 3), compute_uv=False)
        assert second < 1e-4 * first, "each channel is a multiple of the same wave"
    alike = np.ptp(waves, axis=-1).max((1, 2)) < 1e-6
    assert 0.3 < alike.mean() < 0.7
    strongest = np.abs(waves).max(-1)
    near_the_top = (strongest > 0.9 * strongest.max((1, 2), keepdims=True)).mean((1, 2))
    assert near_the_top.min() < 0.4, "a sine is there for 29 % of its length"
    assert near_the_top.max() > 0.8


def test_waves_point_everywhere_and_long_ones_are_as_frequent_as_short_ones():
    plane = jnp.full((64, 64, 1), 0.5)
    power = np.abs(np.fft.fft2(draw(add_wave, plane, 200)[..., 0] - 0.5))
    places = [np.unravel_index(each[:, :33].argmax(), (64, 33)) for each in power]
    down, right = np.array([((row + 32) % 64 - 32, column) for row, column in places]).T
    cycles = np.hypot(down, right)
    assert 0.35 < (cycles < np.sqrt(32)).mean() < 0.65, "uniform in the logarithm from 1 to 32"
    assert 0.3 < (np.abs(down) > right).mean() < 0.7
    assert 0.3 < (down[down != 0] > 0).mean() < 0.7


def test_a_warp_leaves_plain_images_alone_and_moves_a_ramp_by_a_pixel_on_average():
    np.testing.assert_allclose(draw(warp_smoothly, GREY, 3), 0.5, atol=1e-6)
    ramp = jnp.broadcast_to(jnp.arange(32.0)[:, None, None] / 64, (32, 24, 1))
    moved = np.abs(draw(warp_smoothly, ramp) - np.asarray(ramp)).mean((1, 2, 3)) * 64
    assert moved.min() > 0.2
    assert moved.max() < 1.6


def test_colours_are_coarse():
    counts = [len(np.unique(found)) for found in draw(coarsen_colours, NOISE)]
    assert set(counts) <= {2, 3, 4, 6, 8, 12, 16}
    assert len(set(counts)) > 3


def test_a_patch_covers_a_small_rectangle():
    for found in draw(cover_with_patch, GREY):
        changed = np.abs(found - 0.5).max(-1) > 0
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert changed.sum() == len(rows) * len(columns)
        assert 2 <= len(rows) < 8
        assert 1 <= len(columns) < 6
        assert set(np.unique(found[changed])) <= {0.0, 1.0}


def test_a_blend_moves_every_pixel_by_at_most_its_weight():
    found = draw(blend_with_noise, GREY)
    assert np.abs(found - 0.5).max() <= 0.3 * 0.5 + 1e-6


def test_new_colours_depend_on_the_old_ones_alone_and_grey_moves_within_bounds():
    two = jnp.asarray(np.random.default_rng(4).random((2, 3), np.float32))
    image = two[jnp.asarray([[0, 1, 0], [1, 1, 0]])]
    for found in draw(change_colours, image, 6):
        assert len(np.unique(found.reshape(-1, 3), axis=0)) == 2
    moved = np.abs(draw(change_colours, GREY) - 0.5)
    assert 0.1 < moved.max() <= 3 * 0.25 * 0.5 + 0.15 + 1e-6


@pytest.mark.parametrize("corrupt", CORRUPTIONS)
def test_a_stronger_corruption_changes_more(corrupt):
    weak, strong = (np.abs(draw(corrupt, NOISE, strength=each) - np.asarray(NOISE)).mean() for each in (1.0, 4.0))
    assert strong > 1.2 * weak


def test_a_strength_is_the_largest_that_the_answers_bear():
    network = Network(Architecture("mlp", 2, 0, (("0", 4), ("2", 2)), (16, 16, 3)))
    images = np.random.default_rng(5).integers(0, 256, (40, 16, 16, 3), np.uint8)
    stubborn = jax.tree.map(jnp.zeros_like, network.init(KEY))  # gives every image the same answer
    np.testing.assert_array_equal(
        find_strengths(network, stubborn, images, KEY, 1.0), np.full(len(CORRUPTIONS), STRENGTHS[-1])
    )
    nervous = network.init(jax.random.key(1))
    found = find_strengths(network, nervous, images, KEY, 0.85)
    np.testing.assert_array_equal(found, find_strengths(network, nervous, images, KEY, 0.85))
    assert (found <= find_strengths(network, nervous, images, KEY, 0.6)).all()
    assert (find_strengths(network, nervous, images, KEY, 1.1) == 1).all()
