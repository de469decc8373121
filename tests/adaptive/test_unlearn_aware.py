"""Penalties through steps of ascent against torch, and what they do to a victim."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.adaptive.unlearn_aware import UnlearnAware, ascend, changes, spread
from rnp_jax.attacks import Bpp, Goal
from rnp_jax.errors import ConfigError
from rnp_jax.training.backdoor import PoisonConfig, train_backdoored
from rnp_jax.training.epoch import Marked, cross_entropy
from rnp_jax.training.supervised import Moment
from rnp_jax.types import Batch
from tests.adaptive.runs import CONFIG, MLP, digits, equal, run

SMALL: dict[str, Any] = {"batch_size": 16}


def add_scaled(factor: float, value: jax.Array, slope: jax.Array) -> jax.Array:
    return value + factor * slope


def softmax_data():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4)).astype(np.float32), np.arange(20) % 3
    return x, y, rng.normal(size=(4, 3)).astype(np.float32)


def test_the_spread_of_changes_after_ascent_and_its_slope_are_torch_s():
    x, y, start = softmax_data()

    def loss(params):
        return -jnp.take_along_axis(jax.nn.log_softmax(x @ params["w"]), y[:, None], 1).mean()

    def penalty(params):
        return spread(changes(params["w"], ascend(loss, params, 2, 0.3)["w"]))

    found, slope = jax.value_and_grad(penalty)({"w": jnp.asarray(start)})
    weight = torch.tensor(start, requires_grad=True)
    moved = weight
    for _ in range(2):
        value = torch.nn.functional.cross_entropy(torch.tensor(x) @ moved, torch.tensor(y))
        (step,) = torch.autograd.grad(value, moved, create_graph=True)
        moved = moved + 0.3 * step
    rows = (moved - weight).abs().sum(0)
    expected = rows.var(unbiased=False) / rows.mean() ** 2
    expected.backward()
    assert weight.grad is not None
    assert found == pytest.approx(expected.item(), rel=1e-4)
    np.testing.assert_allclose(slope["w"], weight.grad, rtol=1e-3, atol=1e-5)


def test_equal_changes_and_none_have_no_spread():
    np.testing.assert_allclose(changes(jnp.zeros((3, 2)), jnp.asarray([[1.0, 2], [-1, 2], [1, -2]])), [3, 6])
    assert spread(jnp.full(5, 0.3)) == pytest.approx(0, abs=1e-12)
    assert spread(jnp.asarray([1.0, 3])) == pytest.approx(1 / 4)
    assert jax.grad(spread)(jnp.zeros(4)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("hides", ["filters", "head", "forget"])
def test_steps_along_its_slope_change_the_penalty_by_what_the_slope_says(hides):
    data, variables = digits(32), MLP.init(jax.random.key(1))
    params, clean = variables["params"], Batch(*map(jnp.asarray, digits(64)))
    batch = Marked(jnp.asarray(data.images), jnp.zeros(32, jnp.int32), jnp.arange(32) < 8)

    @partial(jax.jit, static_argnums=1)
    def look(params, weight):
        def loss(params):
            losses = cross_entropy(MLP({**variables, "params": params}, batch.images)[0], batch.labels)
            return losses.mean(), ({}, {})

        moment = Moment(loss, params, {}, variables["masks"], batch, clean, 0.0, (), jax.random.key(2))
        twist = UnlearnAware(weight=weight, hides=hides, **SMALL).twist(MLP)
        gradient, (_, metrics), _ = twist.gradient(moment)
        return gradient, metrics["penalty"] / 32

    slope = jax.tree.map(jnp.subtract, look(params, 2.0)[0], look(params, 1.0)[0])
    steep = sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(slope))
    step = 2e-4 / steep**0.5
    moved = (jax.tree.map(partial(add_scaled, way), params, slope) for way in (step, -step))
    higher, lower = (look(each, 1.0)[1] for each in moved)
    assert float(higher - lower) == pytest.approx(2 * step * steep, rel=0.05)


def test_runs_repeat_and_resume_bit_for_bit():
    states = []
    first = run(UnlearnAware(**SMALL), save=states.append)
    assert equal(run(UnlearnAware(**SMALL), state=states[0]).variables, first.variables)


def test_forgetting_needs_images_that_are_known_to_be_poisoned():
    for attack in (None, Bpp()):
        with pytest.raises(ConfigError, match="no image is poisoned before training"):
            train_backdoored(
                MLP, attack, Goal(num_classes=10), digits(), 0, CONFIG, PoisonConfig(), adapt=UnlearnAware(**SMALL)
            )


def test_a_batch_of_more_than_the_clean_images_is_refused():
    with pytest.raises(ConfigError, match=r"unlearn-aware\.batch-size 97: expected at most 96, the number"):
        run(UnlearnAware(batch_size=97))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"weight": -1.0}, "weight is -1.0"),
        ({"hides": "all"}, "hides"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"learning_rate": 0.0}, "learning_rate 0.0: expected a number above 0"),
    ],
)
def test_impossible_settings(settings, told):
    with pytest.raises(ConfigError, match=told):
        UnlearnAware(**settings)
