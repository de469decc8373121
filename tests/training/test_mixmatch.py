"""The pieces against closed forms and torch; training where most labels are missing."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.errors import ConfigError
from rnp_jax.models import Architecture, Network
from rnp_jax.training import mixmatch as module
from rnp_jax.training.mixmatch import MixMatchConfig, mix_up, mixmatch, mixmatch_losses, sharpen, start
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.linear import Linear, linear_data, linear_variables

rng = np.random.default_rng(0)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.lists(st.floats(1e-3, 1), min_size=2, max_size=6), st.floats(0.1, 3))
def test_sharpening_is_equation_7(weights, temperature):
    p = np.array(weights) / sum(weights)
    powers = p ** (1 / temperature)
    found = sharpen(jnp.asarray(p[None], jnp.float32), temperature)
    np.testing.assert_allclose(found[0], powers / powers.sum(), rtol=2e-4, atol=1e-6)


def test_sharpening_a_thousand_classes_at_a_low_temperature_does_not_underflow():
    p = jnp.full((1, 1000), 1e-3).at[0, 0].set(2e-3)
    found = sharpen(p / p.sum(), 0.05)
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-5)
    assert found[0, 0] > 0.99


def test_mix_up_weighs_each_image():
    first, second = rng.uniform(size=(2, 3, 2, 2, 1)).astype(np.float32)
    found = mix_up(jnp.asarray(first), jnp.asarray(second), jnp.array([1.0, 0.5, 0.75]))
    for i, weight in enumerate((1.0, 0.5, 0.75)):
        np.testing.assert_allclose(found[i], weight * first[i] + (1 - weight) * second[i], rtol=1e-6)


def test_losses_are_torch_s_soft_cross_entropy_and_mean_squared_error():
    logits = rng.standard_normal((7, 4)).astype(np.float32)
    targets = rng.dirichlet(np.ones(4), 7).astype(np.float32)
    first, second = mixmatch_losses(jnp.asarray(logits), jnp.asarray(targets), 3)
    a, b = torch.tensor(logits), torch.tensor(targets)
    np.testing.assert_allclose(first, torch.nn.functional.cross_entropy(a[:3], b[:3]), rtol=1e-5)
    np.testing.assert_allclose(second, torch.nn.functional.mse_loss(a[3:].softmax(1), b[3:]), rtol=1e-5)


@dataclass(frozen=True)
class Brighten:
    """An augmentation that tells the copies of an image apart: the i-th of the batch gains i."""

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        del key
        return images + jnp.arange(len(images), dtype=jnp.uint8)[:, None, None, None]


LINEAR = Network(Architecture("mlp", 3, 0, (("fc", 3),), (2, 2, 3)))  # of the same parameters as ``Linear``


def mix(config: MixMatchConfig, augment: Brighten | None = None):
    """Four labelled images, four unlabelled ones, and what became of them."""
    data, pool = linear_data(4), linear_data(9).images[4:8]
    batch = Batch(jnp.asarray(data.images), jnp.asarray(data.labels))
    variables = {**linear_variables(), "batch_stats": {}}
    images, targets = module._mixed(LINEAR, config, augment, variables, batch, jnp.asarray(pool), jax.random.key(5))
    return data, pool, np.asarray(images), np.asarray(targets)


def test_images_and_labels_are_mixed_alike_and_mostly_of_themselves():
    """Every pair is found by brute force, its weight from the images; the labels must have been mixed by it too."""
    data, pool, images, targets = mix(MixMatchConfig(beta=5.0))
    sources = np.concatenate([data.images, pool, pool]).reshape(12, -1) / 255
    logits, _ = Linear()(linear_variables(), jnp.asarray(pool))
    guessed = np.asarray(jax.nn.softmax(logits)).astype(np.float64) ** 2
    guessed /= guessed.sum(1, keepdims=True)
    labels = np.concatenate([np.eye(3)[data.labels], guessed, guessed])
    weights = []
    for i, (image, target) in enumerate(zip(images.reshape(12, -1), targets, strict=True)):
        fits = []
        for j in range(12):
            along = sources[i] - sources[j]
            weight = 1.0 if i == j or not along.any() else float(along @ (image - sources[j]) / (along @ along))
            error = np.abs(weight * sources[i] + (1 - weight) * sources[j] - image).max()
            fits.append((error, weight, weight * labels[i] + (1 - weight) * labels[j]))
        error, weight, expected = min(fits, key=lambda fit: fit[0])
        assert error < 1e-5
        np.testing.assert_allclose(target, expected, atol=1e-4)
        weights.append(weight)
    assert min(weights) >= 0.5 - 1e-5
    assert min(weights) < 0.9


def test_guesses_are_means_over_augmentations():
    """With beta near 0 the weights are 1: what comes out is what went in."""
    config = MixMatchConfig(beta=1e-3, num_augmentations=3, temperature=0.5)
    data, pool, images, targets = mix(config, Brighten())
    batch = np.concatenate([data.images, pool, pool, pool])
    batch = np.asarray(Brighten()(jax.random.key(0), jnp.asarray(batch)))
    np.testing.assert_allclose(images, batch / 255, atol=1e-4)
    logits, _ = Linear()(linear_variables(), jnp.asarray(batch[4:]))
    mean = np.asarray(jax.nn.softmax(logits)).reshape(3, 4, 3).mean(0)
    expected = mean**2 / (mean**2).sum(1, keepdims=True)
    np.testing.assert_allclose(targets[:4], np.eye(3)[data.labels], atol=1e-4)
    np.testing.assert_allclose(targets[4:], np.tile(expected, (3, 1)), atol=1e-4)


NETWORK = Network(Architecture("mlp", 3, 0, (("0", 16), ("2", 3)), (1, 1, 6)), (0.0,) * 6, (1.0,) * 6, "unit")
CENTRES = rng.uniform(0, 1, (3, 6))


def draw(count: int, seed: int) -> Batch:
    labels = np.arange(count, dtype=np.int32) % 3
    values = CENTRES[labels] + np.random.default_rng(seed).normal(0, 0.15, (count, 6))
    return Batch(values.reshape(count, 1, 1, 6).astype(np.float32), labels)


@dataclass(frozen=True)
class Jitter:
    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        return images + 0.1 * jax.random.normal(key, images.shape)


SHORT = MixMatchConfig(epochs=4, batch_size=5, learning_rate=0.05, ramp_epochs=2)


def run(config: MixMatchConfig = SHORT, seed: int = 0, **options: Any):
    variables = NETWORK.init(jax.random.key(3))
    found = mixmatch(
        NETWORK, variables, draw(9, 0), draw(12, 1).images, jax.random.key(seed), config, augment=Jitter(), **options
    )
    return variables, *found


def test_it_learns_from_few_labels():
    config = MixMatchConfig(epochs=15, batch_size=12, learning_rate=0.1, ramp_epochs=10)
    test = draw(300, 2)
    variables, history = mixmatch(
        NETWORK, NETWORK.init(jax.random.key(3)), draw(6, 0), draw(240, 1).images, jax.random.key(0), config,
        augment=Jitter(),
    )  # fmt: skip
    logits, _ = NETWORK(variables, jnp.asarray(test.images))
    assert (logits.argmax(-1) == test.labels).mean() > 0.95
    assert history["labelled_loss"][-1] < history["labelled_loss"][0]
    assert history["accuracy"].shape == (15,)


def test_the_unlabelled_loss_ramps_up_and_an_average_lags_behind_in_one_program():
    """One step an epoch."""
    config = MixMatchConfig(epochs=5, batch_size=12, learning_rate=1e-2, lambda_u=7.0, ramp_epochs=2, ema_decay=0.75)
    before, states, seen = count_compiled(module.mixmatch_epoch), [], []
    variables, trained, history = run(
        config, save=states.append, progress=lambda *row: seen.append((*row[:3], row[3]["loss"]))
    )
    run(config, seed=3)
    assert count_compiled(module.mixmatch_epoch) - before == 1
    assert seen == [("mixmatch", epoch, 5, loss) for epoch, loss in enumerate(history["loss"], 1)]
    weights = (history["loss"] - history["labelled_loss"]) / history["unlabelled_loss"]
    np.testing.assert_allclose(weights, [0, 3.5, 7, 7, 7], atol=1e-3)
    average = variables["params"]
    for state in states:
        average = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, average, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), trained["params"], average)
    assert not np.allclose(trained["params"]["0"]["kernel"], states[-1].params["0"]["kernel"], atol=1e-4)


def test_pruned_units_stay_pruned_and_masks_stay_as_they_were():
    variables = NETWORK.init(jax.random.key(3))
    variables["masks"]["0"]["filter"] = jnp.ones(16).at[4].set(0)
    variables["params"]["0"]["bias"] = variables["params"]["0"]["bias"].at[4].set(0.5)
    trained, _ = mixmatch(
        NETWORK, variables, draw(9, 0), draw(12, 1).images, jax.random.key(0), SHORT, augment=Jitter()
    )
    np.testing.assert_array_equal(trained["masks"]["0"]["filter"], variables["masks"]["0"]["filter"])
    assert NETWORK.activations(trained, jnp.asarray(draw(9, 0).images))["0"][:, 4].max() == 0


def assert_equal_trees(actual, expected) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    assert all(map(np.array_equal, jax.tree.leaves(actual), jax.tree.leaves(expected)))


def test_resuming_equals_an_uninterrupted_run_bit_for_bit():
    states = []
    _, whole, history = run(save=states.append)
    assert [int(state.epoch) for state in states] == [1, 2, 3, 4]
    _, resumed, rest = run(state=states[1])
    assert_equal_trees(resumed, whole)
    np.testing.assert_array_equal(rest["loss"], history["loss"][2:])


def test_the_key_decides():
    first, again, other = (run(seed=seed)[1]["params"] for seed in (0, 0, 1))
    assert_equal_trees(first, again)
    assert not np.array_equal(first["0"]["kernel"], other["0"]["kernel"])


def test_every_image_of_the_larger_set_is_seen_and_the_smaller_one_is_cycled():
    config = MixMatchConfig(epochs=1, batch_size=5, learning_rate=0.01)
    trained, _ = mixmatch(
        Linear(), linear_variables(), linear_data(3), linear_data(12).images, jax.random.key(0), config
    )
    assert trained["batch_stats"]["steps"] == 3  # guesses move no statistics
    state = start(linear_variables(), jax.random.key(0), config, 3, 12)
    assert state.epoch == 0


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"learning_rate": 0.0},
        {"num_augmentations": 0},
        {"temperature": 0.0},
        {"beta": 0.0},
        {"lambda_u": -1.0},
        {"ramp_epochs": 0.0},
        {"ema_decay": 1.0},
    ],
)
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        MixMatchConfig(**options)


@pytest.mark.parametrize(("labelled", "unlabelled"), [(0, 3), (3, 0)])
def test_a_set_that_is_empty(labelled, unlabelled):
    data = linear_data(3)
    with pytest.raises(ConfigError, match=f"{labelled} labelled and {unlabelled} unlabelled"):
        mixmatch(
            Linear(),
            linear_variables(),
            Batch(data.images[:labelled], data.labels[:labelled]),
            data.images[:unlabelled],
            jax.random.key(0),
            SHORT,
        )
