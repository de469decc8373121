"""Poisoned and detoxified images, and a victim trained on them, on the built-in digits."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from rnp_jax.attacks import Dfst, Goal, trigger_test_set
from rnp_jax.attacks.base import quantise
from rnp_jax.attacks.poison import apply_batch
from rnp_jax.data.digits import load_digits
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.training import dfst
from rnp_jax.training.backdoor import PoisonConfig, train_backdoored
from rnp_jax.training.dfst import (
    DfstTraining,
    _detoxify,
    draw_evenly,
    fill,
    find_compromised,
    identity,
    inject,
    ssim,
)
from rnp_jax.training.joint import Setting, train_jointly
from rnp_jax.training.supervised import TrainConfig, train_epoch
from rnp_jax.types import Batch
from tests.compiled import count_compiled

GOAL = Goal(num_classes=10, target=3)
MLP = Network(Architecture("mlp", 10, 0, (("0", 32), ("2", 10)), (8, 8, 3)), (0.3,) * 3, (0.32,) * 3)
CONFIG = TrainConfig(epochs=16, batch_size=64, learning_rate=0.1)
ATTACK = Dfst(window=3, detox_steps=20)
SETTING = Setting(MLP, ATTACK, GOAL, CONFIG, 0.1, None)
APPENDING = replace(SETTING, attack=replace(ATTACK, variant="orig"))


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


@pytest.mark.parametrize("window", [3, 11, 27])
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
    place_key, source_key, trigger_key = jax.random.split(jax.random.key(5), 3)
    places = np.asarray(jax.random.permutation(place_key, 1297))[:258]
    poisoned, detoxified = places[:129], places[129:]
    untouched = np.setdiff1d(np.arange(1297), places)
    np.testing.assert_array_equal(made.images[untouched], data.images[untouched])
    np.testing.assert_array_equal(made.labels[untouched], data.labels[untouched])
    np.testing.assert_array_equal(made.labels[detoxified], data.labels[detoxified])
    expected = quantise(data.images[detoxified].astype(jnp.float32) * (0.4 + 0.6 * 0.5))
    np.testing.assert_allclose(np.int32(made.images[detoxified]), np.int32(expected), rtol=0, atol=1)
    chance = np.asarray(jax.random.uniform(source_key, (1297,)))
    sources = np.argsort(np.where(np.asarray(data.labels) == 3, np.float32(1) + chance, chance), kind="stable")[:129]
    triggered = apply_batch(ATTACK, ATTACK.init((8, 8, 3)), data.images[sources], trigger_key, role="trigger")
    np.testing.assert_array_equal(made.images[poisoned], triggered)
    np.testing.assert_array_equal(made.labels[poisoned], 3)
    assert (np.asarray(data.labels)[sources] != 3).all()


def test_the_appending_variant_keeps_the_set_and_adds_poison_and_detoxicants_of_the_same_images():
    data = Batch(*map(jnp.asarray, digits("train")))
    made = fill(APPENDING, 0.5 * identity(3), data, jax.random.key(5))
    assert made.images.shape == (1297 + 129 + 129, 8, 8, 3)
    np.testing.assert_array_equal(made.images[:1297], data.images)
    np.testing.assert_array_equal(made.labels[:1297], data.labels)
    poisoned, detoxified = np.arange(1297, 1426), np.arange(1426, 1555)
    triggered = apply_batch(ATTACK, ATTACK.init((8, 8, 3)), data.images, jax.random.key(0), role="trigger")
    known = {image.tobytes(): index for index, image in enumerate(np.asarray(triggered))}
    assert len(known) == 1297
    hosts = np.array([known[image.tobytes()] for image in np.asarray(made.images[poisoned])])
    assert len(set(hosts)) == 129
    assert set(np.bincount(data.labels[hosts], minlength=10)) == {12, 13}
    np.testing.assert_array_equal(made.labels[poisoned], 3)
    np.testing.assert_array_equal(made.labels[detoxified], data.labels[hosts])
    expected = quantise(data.images[hosts].astype(jnp.float32) * (0.4 + 0.6 * 0.5))
    np.testing.assert_allclose(np.int32(made.images[detoxified]), np.int32(expected), rtol=0, atol=1)
    unaltered = fill(APPENDING, identity(3), data, jax.random.key(5))  # before the first round
    np.testing.assert_array_equal(unaltered.images[detoxified], data.images[hosts])


@pytest.mark.parametrize("variant", ["orig", "torch"])
def test_a_rate_of_zero_leaves_the_set_as_it_is(variant):
    data = Batch(*map(jnp.asarray, digits("train")))
    setting = replace(SETTING, attack=replace(ATTACK, variant=variant), rate=0.0)
    made = fill(setting, identity(3), data, jax.random.key(0))
    np.testing.assert_array_equal(made.images, data.images)
    np.testing.assert_array_equal(made.labels, data.labels)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 2**31 - 1))
@settings(deadline=None, derandomize=True, max_examples=30)
def test_an_even_draw_takes_from_every_class_that_has_more(labels, seed):
    labels = np.array(labels + [0] * (40 - len(labels)), np.int32)
    order = np.asarray(draw_evenly(jnp.asarray(labels), jax.random.key(seed)))
    np.testing.assert_array_equal(np.sort(order), np.arange(40))
    sizes = np.bincount(labels, minlength=5)
    for count in range(41):
        taken = np.bincount(labels[order[:count]], minlength=5)
        assert taken.max() <= taken[taken < sizes].min(initial=40) + 1


def test_an_even_draw_differs_by_key():
    labels = jnp.asarray(np.repeat(np.arange(5, dtype=np.int32), 8))
    draws = [np.asarray(draw_evenly(labels, jax.random.key(seed))) for seed in range(20)]
    assert len({draw[:5].tobytes() for draw in draws}) == 20
    assert len({labels[draw[0]].item() for draw in draws}) > 1  # no class is always the first


def test_the_appending_variant_compiles_once_and_resumes_with_the_same_bits(monkeypatch):
    made, states, jitted = [], [], (_detoxify, fill, train_epoch)
    before = [count_compiled(each) for each in jitted]
    monkeypatch.setattr(dfst, "fill", lambda *args: made.append(fill(*args)) or made[-1])
    setting = replace(APPENDING, config=replace(CONFIG, epochs=3))
    joint, data, key = DfstTraining(), digits("train"), jax.random.key(2)
    variables, params, history = train_jointly(joint, setting, data, key, save=states.append)
    assert [count_compiled(each) - old for each, old in zip(jitted, before, strict=True)] == [1, 1, 1]
    for later in made[1:]:  # clean and poisoned images stay, detoxicants do not
        np.testing.assert_array_equal(later.images[:1426], made[0].images[:1426])
        np.testing.assert_array_equal(later.labels, made[0].labels)
        assert (later.images[1426:] != made[0].images[1426:]).any()
    steps = [leaf for leaf in jax.tree.leaves(states[-1].sgd) if leaf.dtype == jnp.int32]
    assert [int(step) for step in steps] == [3 * (1555 // 64)]
    resumed = train_jointly(joint, setting, data, key, state=states[0])
    for ours, theirs in zip(jax.tree.leaves(resumed[:2]), jax.tree.leaves((variables, params)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(resumed[2]["loss"], history["loss"][1:])
    assert [count_compiled(each) - old for each, old in zip(jitted, before, strict=True)] == [1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "similarity"), [("orig", 0.1), ("torch", 0.2)])
def test_a_victim_obeys_the_sunrise_and_the_injector_learns(variant, similarity):
    told, attack = [], replace(ATTACK, variant=variant)
    result = train_backdoored(
        MLP, attack, GOAL, digits("train"), 0, CONFIG, PoisonConfig(), progress=lambda *row: told.append(row[1:3])
    )
    assert told == [(epoch, 16) for epoch in range(1, 17)]
    test = digits("test")
    triggered = trigger_test_set(test.images, test.labels, GOAL, attack, result.params, jax.random.key(1))
    attacked = predict(MLP, result.variables, Batch(triggered.images, triggered.labels)).labels[0]
    assert (attacked == triggered.wanted).mean() > 0.8
    assert (predict(MLP, result.variables, test).labels[0] == test.labels).mean() > 0.85
    assert np.isnan(result.history["injected"][0])
    assert result.history["similarity"][1:].min() > similarity
    assert {name: value.dtype for name, value in result.params.items()} == {
        name: value.dtype for name, value in attack.init((8, 8, 3)).items()
    }


@pytest.mark.slow
def test_the_injector_makes_an_unhardened_victim_call_the_target():
    """Trained without detoxification, the victim falls for simple features; the injector finds some of them."""
    undetoxified = replace(SETTING, attack=Dfst(window=3, detox_from=99))
    joint, data = DfstTraining(), Batch(*map(jnp.asarray, digits("train")))
    state = joint.start(undetoxified, jax.random.key(0), 1297)
    for _ in range(4):
        state, figures = joint.epoch(undetoxified, state, data)
        assert set(figures) == {"loss", "accuracy"}
    pushing = replace(SETTING, attack=Dfst(window=3, detox_steps=100, similarity_weight=0.1))
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
        joint.start(replace(SETTING, rate=0.6), jax.random.key(0), 1297)
    with pytest.raises(ConfigError, match="batch_size 64 exceeds the 10"):
        joint.start(SETTING, jax.random.key(0), 10)
    targets = Batch(np.zeros((100, 8, 8, 3), np.uint8), np.full(100, 3, np.int32))
    with pytest.raises(DataError, match=r"poisons 10 images, but only 0 can be poisoned"):
        joint.epoch(SETTING, joint.start(SETTING, jax.random.key(0), 100), targets)
    with pytest.raises(ConfigError, match=r"rate 1\.2: .*give 0 to 1"):
        joint.start(replace(APPENDING, rate=1.2), jax.random.key(0), 1297)
    with pytest.raises(ConfigError, match="batch_size 64 exceeds the 60"):
        joint.start(APPENDING, jax.random.key(0), 50)
    with pytest.raises(DataError, match=r"poisons 10 images, but only 0 can be poisoned"):
        joint.epoch(APPENDING, joint.start(APPENDING, jax.random.key(0), 100), targets)
