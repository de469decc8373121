"""Poisoned and detoxified images, and a victim trained on them, on the built-in digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from rnp_jax.attacks import Dfst, Goal, trigger_test_set
from rnp_jax.attacks.base import quantise
from rnp_jax.data.digits import load_digits
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.training.backdoor import PoisonConfig, train_backdoored
from rnp_jax.training.dfst import DfstTraining, _detoxify, fill, find_compromised, identity, inject, ssim
from rnp_jax.training.joint import Setting
from rnp_jax.training.supervised import TrainConfig
from rnp_jax.types import Batch
from tests.compiled import count_compiled

GOAL = Goal(num_classes=10, target=3)
MLP = Network(Architecture("mlp", 10, 0, (("0", 32), ("2", 10)), (8, 8, 3)), (0.3,) * 3, (0.32,) * 3)
CONFIG = TrainConfig(epochs=16, batch_size=64, learning_rate=0.1)
ATTACK = Dfst(window=3, detox_steps=20)
SETTING = Setting(MLP, ATTACK, GOAL, CONFIG, 0.1, None)


def digits(split) -> Batch:
    data = load_digits(split, (8, 8))
    return Batch(data.images, data.labels)


def random_images(seed: int, shape: tuple[int, ...] = (3, 9, 7, 2)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def pooled(images: np.ndarray, window: int) -> np.ndarray:
    """Pixel, maximum, minimum and mean by torch [B, H, W, 4C]."""
    x, pad = torch.from_numpy(images).permute(0, 3, 1, 2), window // 2
    parts = [
        x,
        functional.max_pool2d(x, window, 1, pad),
        -functional.max_pool2d(-x, window, 1, pad),
        functional.avg_pool2d(x, window, 1, pad, count_include_pad=False),
    ]
    return torch.cat(parts, 1).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("window", [3, 11])
def test_the_injector_is_linear_in_a_pixel_and_its_surroundings(window):
    rng = np.random.default_rng(0)
    injector = rng.normal(0, 0.3, (8, 2)).astype(np.float32)
    images = random_images(1, (2, 12, 13, 2))
    expected = np.clip(pooled(images, window) @ injector, 0, 1)
    np.testing.assert_allclose(inject(jnp.asarray(injector), jnp.asarray(images), window), expected, rtol=0, atol=1e-5)


def test_the_identity_changes_nothing():
    images = random_images(2)
    np.testing.assert_allclose(inject(identity(2), jnp.asarray(images), 5), images, rtol=0, atol=1e-6)


def test_ssim_by_torch():
    first, second = random_images(3, (2, 14, 13, 3)), random_images(4, (2, 14, 13, 3))
    x, y = (torch.from_numpy(each).permute(0, 3, 1, 2).double() for each in (first, second))

    def mean(values):
        return functional.avg_pool2d(values, 11, 1)

    covariance = mean(x * y) - mean(x) * mean(y)
    variances = mean(x * x) - mean(x) ** 2 + mean(y * y) - mean(y) ** 2
    means = mean(x) ** 2 + mean(y) ** 2
    expected = (2 * mean(x) * mean(y) + 1e-4) * (2 * covariance + 9e-4) / ((means + 1e-4) * (variances + 9e-4))
    np.testing.assert_allclose(
        ssim(jnp.asarray(first), jnp.asarray(second)), expected.mean((1, 2, 3)), rtol=0, atol=1e-4
    )
    np.testing.assert_allclose(ssim(jnp.asarray(first), jnp.asarray(first)), 1, rtol=0, atol=1e-5)


def test_compromised_channels_are_those_that_rise_most():
    before = np.zeros((2, 200), np.float32)
    after = before.copy()
    after[:, [7, 50]] = [[3, 1], [3, 5]]
    after[0, 9], after[:, 11] = 5, -9
    found = np.asarray(find_compromised(jnp.asarray(before), jnp.asarray(after), 0.01))
    np.testing.assert_array_equal(np.flatnonzero(found), [7, 50])
    few = np.asarray(find_compromised(jnp.asarray(before[:, 7:12]), jnp.asarray(after[:, 7:12]), 0.01))
    np.testing.assert_array_equal(few, [1, 0, 0, 0, 0])


def test_a_filled_set_has_poison_detoxicants_with_true_labels_and_the_rest():
    data = Batch(*map(jnp.asarray, digits("train")))
    made = fill(SETTING, 0.5 * identity(3), data, jax.random.key(5))
    place_key, source_key, _ = jax.random.split(jax.random.key(5), 3)
    places = np.asarray(jax.random.permutation(place_key, 1297))[:258]
    poisoned, detoxified = places[:129], places[129:]
    untouched = np.setdiff1d(np.arange(1297), places)
    np.testing.assert_array_equal(made.images[untouched], data.images[untouched])
    np.testing.assert_array_equal(made.labels[untouched], data.labels[untouched])
    np.testing.assert_array_equal(made.labels[detoxified], data.labels[detoxified])
    expected = quantise(data.images[detoxified].astype(jnp.float32) * (0.4 + 0.6 * 0.5))
    np.testing.assert_allclose(np.int32(made.images[detoxified]), np.int32(expected), rtol=0, atol=1)
    triggered = np.asarray(ATTACK.trigger(ATTACK.init((8, 8, 3)), data.images, source_key))
    known = {image.tobytes(): label for image, label in zip(triggered, np.asarray(data.labels), strict=True)}
    sources = np.array([known[image.tobytes()] for image in np.asarray(made.images[poisoned])])
    np.testing.assert_array_equal(made.labels[poisoned], GOAL.wanted(sources))
    assert (np.asarray(made.labels[poisoned]) != sources).all()


@pytest.mark.slow
def test_a_victim_obeys_the_sunrise_and_the_injector_learns():
    told = []
    result = train_backdoored(
        MLP, ATTACK, GOAL, digits("train"), 0, CONFIG, PoisonConfig(), progress=lambda *row: told.append(row[1:3])
    )
    assert told == [(epoch, 16) for epoch in range(1, 17)]
    test = digits("test")
    triggered = trigger_test_set(test.images, test.labels, GOAL, ATTACK, result.params, jax.random.key(1))
    attacked = predict(MLP, result.variables, Batch(triggered.images, triggered.labels)).labels[0]
    assert (attacked == triggered.wanted).mean() > 0.8
    assert (predict(MLP, result.variables, test).labels[0] == test.labels).mean() > 0.85
    assert np.isnan(result.history["injected"][0])
    assert result.history["similarity"][1:].min() > 0.2
    assert {name: value.dtype for name, value in result.params.items()} == {
        name: value.dtype for name, value in ATTACK.init((8, 8, 3)).items()
    }


@pytest.mark.slow
def test_the_injector_makes_an_unhardened_victim_call_the_target():
    """Trained without detoxification, the victim falls for simple features; the injector finds some of them."""
    undetoxified = SETTING._replace(attack=Dfst(window=3, detox_from=99))
    joint, data = DfstTraining(), Batch(*map(jnp.asarray, digits("train")))
    state = joint.start(undetoxified, jax.random.key(0), 1297)
    for _ in range(4):
        state, figures = joint.epoch(undetoxified, state, data)
        assert set(figures) == {"loss", "accuracy"}
    pushing = SETTING._replace(attack=Dfst(window=3, detox_steps=100, similarity_weight=0.1))
    before = count_compiled(_detoxify)
    injector, found = _detoxify(pushing, state, data, jax.random.key(1))
    again, _ = _detoxify(pushing, state, data, jax.random.key(1))
    assert count_compiled(_detoxify) == before + 1
    np.testing.assert_array_equal(injector, again)
    assert float(found["injected"]) > 0.5
    assert float(found["similarity"]) < 0.999


def test_impossible_settings_are_refused():
    joint = DfstTraining()
    with pytest.raises(ConfigError, match=r"rate 0\.6"):
        joint.start(SETTING._replace(rate=0.6), jax.random.key(0), 1297)
    with pytest.raises(ConfigError, match="batch_size 64 exceeds the 10"):
        joint.start(SETTING, jax.random.key(0), 10)
    targets = Batch(np.zeros((100, 8, 8, 3), np.uint8), np.full(100, 3, np.int32))
    with pytest.raises(DataError, match=r"poisons 10 images, of 0 that may be"):
        joint.epoch(SETTING, joint.start(SETTING, jax.random.key(0), 100), targets)
