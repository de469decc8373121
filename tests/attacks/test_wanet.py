import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from rnp_jax.attacks.goal import Goal
from rnp_jax.attacks.poison import poison_batch
from rnp_jax.attacks.resample import grid_sample
from rnp_jax.attacks.wanet import WaNet
from rnp_jax.errors import ConfigError

KEY = jax.random.key(0)
SHAPE = (32, 32, 3)
GOAL = Goal(num_classes=10, target=7)


def trigger(attack, images):
    return np.asarray(attack.trigger(attack.init(images.shape[1:]), images, KEY))


def upsampled_field(attack, size):
    """The authors' warping field, by torch: [2, size, size], (x, y) first."""
    field = np.random.default_rng(attack.seed).uniform(-1, 1, (1, 2, attack.grid_size, attack.grid_size))
    field = torch.from_numpy(field / np.abs(field).mean())
    return functional.interpolate(field, size, mode="bicubic", align_corners=True)[0].numpy()


@pytest.mark.parametrize("attack", [WaNet(), WaNet(grid_size=8, strength=0.75, seed=3), WaNet(rescale=0.9)])
def test_grid_agrees_with_the_authors_construction(attack):
    axis = np.linspace(-1, 1, 32)
    identity = np.stack(np.meshgrid(axis, axis), -1)
    warped = identity + attack.strength * np.moveaxis(upsampled_field(attack, 32), 0, -1) / 32
    expected = np.clip(warped * attack.rescale, -1, 1)
    np.testing.assert_allclose(attack.init(SHAPE)["grid"], expected, rtol=0, atol=3e-6)


def test_trigger_agrees_with_torch_warping_normalised_floats(digits):
    attack, images = WaNet(), digits[0][:16]
    mean, std = np.float32([0.4914, 0.4822, 0.4465]), np.float32([0.2023, 0.1994, 0.2010])
    normalised = torch.from_numpy((images / np.float32(255) - mean) / std).permute(0, 3, 1, 2)
    grid = torch.from_numpy(attack.init(SHAPE)["grid"]).expand(16, -1, -1, -1)
    warped = functional.grid_sample(normalised, grid, align_corners=True).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(trigger(attack, images), (warped * std + mean) * 255, rtol=0, atol=0.501)


def test_strength_zero_is_the_identity(digits):
    np.testing.assert_array_equal(trigger(WaNet(strength=0.0), digits[0][:8]), digits[0][:8])


@given(seed=st.integers(0, 2**31), strength=st.floats(0, 8), level=st.integers(0, 255))
@settings(deadline=None, derandomize=True, max_examples=8)
def test_constant_images_stay(seed, strength, level):
    images = np.full((1, 16, 16, 1), level, np.uint8)
    attack = WaNet(seed=seed, strength=strength)
    np.testing.assert_array_equal(trigger(attack, images), images)
    np.testing.assert_array_equal(attack.cover(attack.init((16, 16, 1)), images, KEY), images)


def test_ramps_return_the_sampling_positions():
    grid = WaNet().init(SHAPE)["grid"]
    ramp = np.broadcast_to(np.arange(32, dtype=np.float32), (1, 32, 32))
    ramps = jnp.asarray(np.stack([ramp, ramp.transpose(0, 2, 1)], -1))
    positions = grid_sample(ramps, jnp.asarray(grid))[0]
    np.testing.assert_allclose(positions, (grid + 1) / 2 * 31, rtol=0, atol=1e-5)


def test_largest_shift_is_strength_times_the_field():
    attack = WaNet()
    grid = attack.init(SHAPE)["grid"].astype(np.float64)
    axis = np.linspace(-1, 1, 32)
    shift = np.abs(grid - np.stack(np.meshgrid(axis, axis), -1))[1:-1, 1:-1] * 15.5
    field = np.abs(upsampled_field(attack, 32)).transpose(1, 2, 0)[1:-1, 1:-1]
    assert shift.max() == pytest.approx(attack.strength * field.max() / 32 * 15.5, rel=1e-5)
    assert 0.3 < shift.max() < 0.9


def test_grid_never_leaves_the_image_and_scales_each_axis():
    grid = WaNet(strength=4.0).init((16, 64, 1))["grid"]
    assert grid.shape == (16, 64, 2)
    assert np.abs(grid).max() == 1
    square = WaNet(strength=4.0).init((64, 64, 1))["grid"]
    np.testing.assert_allclose(grid[0, :, 0], square[0, :, 0], atol=1e-6)


def test_cover_jitters_each_image_anew_within_half_a_pixel():
    attack = WaNet()
    params = attack.init(SHAPE)
    column = np.broadcast_to(8 * np.arange(32, dtype=np.uint8)[:, None], (4, *SHAPE))
    noisy = np.asarray(attack.cover(params, column, KEY)).astype(np.int32)
    away = np.abs(noisy - np.asarray(attack.trigger(params, column, KEY)))
    assert 2 < away.max() <= np.ceil(8 * 15.5 / 32) + 1
    assert all((noisy[i] != noisy[0]).any() for i in range(1, 4))
    other = np.asarray(attack.cover(params, column, jax.random.key(1)))
    assert (noisy != other).any()


@pytest.mark.parametrize("mapping", ["all_to_one", "all_to_all"])
def test_poison_batch_triggers_then_jitters_then_leaves(digits, mapping):
    attack, goal = WaNet(), Goal(num_classes=10, target=7, mapping=mapping)
    images, labels = digits[0][:64], digits[1][:64]
    params = attack.init(SHAPE)
    batch = poison_batch(attack, params, images, labels, KEY, goal=goal, rate=0.1)
    np.testing.assert_array_equal(batch.images[:6], attack.trigger(params, images[:6], KEY))
    np.testing.assert_array_equal(batch.images[6:18], attack.cover(params, images[6:18], KEY))
    np.testing.assert_array_equal(batch.images[18:], images[18:])
    np.testing.assert_array_equal(batch.labels[:6], 7 if mapping == "all_to_one" else (labels[:6] + 1) % 10)
    np.testing.assert_array_equal(batch.labels[6:], labels[6:])
    assert batch.images.dtype == jnp.uint8
    assert batch.labels.dtype == jnp.int32


def test_poison_batch_traces_once_and_draws_fresh_noise(digits):
    attack = WaNet()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, images, labels, key):
        return poison_batch(attack, params, images, labels, key, goal=GOAL)

    params, images, labels = attack.init(SHAPE), digits[0][:32], digits[1][:32]
    first, again, other = (step(params, images, labels, jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first.images, again.images)
    assert (first.images[3:9] != other.images[3:9]).any((1, 2, 3)).all()


def test_poison_batch_at_rate_zero_changes_nothing(digits):
    attack = WaNet()
    batch = poison_batch(attack, attack.init(SHAPE), digits[0][:8], digits[1][:8], KEY, goal=GOAL, rate=0.0)
    np.testing.assert_array_equal(batch.images, digits[0][:8])
    np.testing.assert_array_equal(batch.labels, digits[1][:8])


def test_poison_batch_refuses_a_rate_without_room_for_noise(digits):
    attack = WaNet()
    with pytest.raises(ConfigError, match=r"asks for 12 of 10 images; lower rate to at most 0\.333"):
        poison_batch(attack, attack.init(SHAPE), digits[0][:10], digits[1][:10], KEY, goal=GOAL, rate=0.4)
    with pytest.raises(ConfigError, match=r"rate is 1\.5"):
        poison_batch(attack, attack.init(SHAPE), digits[0][:10], digits[1][:10], KEY, goal=GOAL, rate=1.5)


@pytest.mark.parametrize(
    ("option", "value"), [("grid_size", 1), ("strength", -1), ("rescale", -1), ("noise_ratio", -1), ("seed", -1)]
)
def test_impossible_constants_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option} is {value}"):
        WaNet(**{option: value})
