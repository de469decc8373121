"""MCR: the path in closed form, statistics against torch, and the choice of a point."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.checkpoints import from_state_dict, to_state_dict
from rnp_jax.defenses import phase
from rnp_jax.defenses.finetune import FinetuneConfig, finetune
from rnp_jax.defenses.mcr import (
    Ends,
    McrConfig,
    _At,
    _Connecting,
    _divided_by_momentum,
    _estimate,
    estimate_statistics,
    falling,
    mcr,
    point,
)
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.models import Architecture, Network
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.defenses.twin import TorchTwin, Twin, twin_data, variables_of
from tests.networks import CLASSES, build_random, images_for, network_of, state_of
from tests.oracle import models, rnp

KEY = jax.random.key(0)
QUICK = McrConfig(finetune=FinetuneConfig(epochs=2, batch_size=16), epochs=2, batch_size=16)


def connecting(config: McrConfig = QUICK) -> _Connecting:
    return _Connecting("path", Twin(), config.epochs, config.batch_size, False, None, config)


@pytest.fixture
def path() -> SimpleNamespace:
    """Three sets of weights."""
    first, middle, last = (variables_of(TorchTwin(seed)) for seed in range(3))
    return SimpleNamespace(variables=first, ends=Ends(first["params"], last["params"]), middle=middle["params"])


def test_the_ends_are_met_bit_for_bit(path):
    for t, end in ((0.0, path.ends.suspicious), (1.0, path.ends.tuned)):
        found = point(path.ends, path.middle, jnp.float32(t))
        assert jax.tree.all(jax.tree.map(np.array_equal, found, end))


@pytest.mark.parametrize("t", [0.0, 0.1, 0.37, 0.5, 0.9, 1.0])
def test_the_coefficients_are_bernstein_s_and_sum_to_1(t):
    units = [{"w": jnp.eye(3)[i]} for i in range(3)]
    found = point(Ends(units[0], units[2]), units[1], jnp.float32(t))["w"]
    np.testing.assert_allclose(found, [(1 - t) ** 2, 2 * t * (1 - t), t**2], rtol=1e-6, atol=1e-7)
    assert float(found.sum()) == pytest.approx(1)


def test_a_path_between_equal_ends_stays_where_it_is(path):
    same = path.ends.suspicious
    found = point(Ends(same, same), same, jnp.float32(0.3))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("t", [0.25, 0.8])
def test_the_middle_s_gradient_is_the_path_s_times_its_coefficient(path, t):
    decay, data = 0.03, twin_data()
    run = connecting(replace(QUICK, weight_decay=decay))
    stats, masks = path.variables["batch_stats"], path.variables["masks"]
    fixed = {"ends": path.ends, "masks": masks}
    batch = Batch(_At(jnp.asarray(data.images), jnp.float32(t)), jnp.asarray(data.labels))
    gradient, (moved, metrics) = jax.grad(run.loss, has_aux=True)(path.middle, fixed, stats, batch)

    def loss(params):
        logits, stats_here = Twin()({"params": params, "batch_stats": stats, "masks": masks}, data.images, train=True)
        return cross_entropy(logits, batch.labels).mean(), stats_here

    here = point(path.ends, path.middle, jnp.float32(t))
    slopes, expected = jax.grad(loss, has_aux=True)(here)
    for found, slope, weight in zip(*map(jax.tree.leaves, (gradient, slopes, here)), strict=True):
        np.testing.assert_allclose(found, 2 * t * (1 - t) * (slope + decay * weight), rtol=1e-3, atol=1e-6)
    for one, other in zip(jax.tree.leaves(moved), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert float(metrics["loss"]) == pytest.approx(10 * float(loss(here)[0]), rel=1e-5)


def test_every_batch_draws_one_t_and_is_augmented():
    data = twin_data()
    run = replace(connecting(), augment=lambda _, images: images[:, ::-1])
    drawn = [run.prepare(data, {}, jax.random.key(seed)) for seed in range(200)]
    assert all(batch.images.t.shape == () for batch in drawn)
    np.testing.assert_array_equal(drawn[0].images.images, data.images[:, ::-1])
    ts = np.array([batch.images.t for batch in drawn])
    assert (ts >= 0).all()
    assert (ts < 1).all()
    assert ts.mean() == pytest.approx(0.5, abs=0.06)


def test_the_learning_rate_is_garipov_s():
    shares = jnp.array([0.0, 0.5, 0.7, 0.9, 0.99])
    np.testing.assert_allclose(falling(shares), [1, 1, 1 - 0.99 / 2, 0.01, 0.01], rtol=1e-5)


def test_statistics_are_torch_s_over_batches():
    module, network = build_random("resnet18"), network_of("resnet18")
    variables = from_state_dict(network, state_of(module))
    data = Batch(images_for("resnet18", 10), np.arange(10, dtype=np.int32) % CLASSES)
    found = to_state_dict(network, estimate_statistics(network, variables, data, 6))
    norms, batches = models.batch_norms(module), rnp.make_batches(data.images, data.labels, 6)
    sums = {}
    module.train()
    for norm in norms.values():
        norm.momentum = 1.0
    with torch.no_grad():
        for x, _ in batches:
            module(x)
            for name, norm in norms.items():
                for key in ("running_mean", "running_var"):
                    sums[f"{name}.{key}"] = sums.get(f"{name}.{key}", 0) + len(x) * getattr(norm, key).clone()
    for key, total in sums.items():
        np.testing.assert_allclose(found[key], total / 10, rtol=2e-3, atol=1e-4, err_msg=key)
    for key, value in state_of(module).items():
        if "running" not in key and "tracked" not in key:
            np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_each_layer_s_own_momentum_counts():
    layers = {"a.bn": SimpleNamespace(momentum=0.01), "b": SimpleNamespace(momentum=0.5)}
    stats = {"a": {"bn": {"mean": jnp.ones(2)}}, "b": {"mean": jnp.ones(2)}}
    found = _divided_by_momentum(SimpleNamespace(layers=layers), stats)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(found["a"]["bn"]["mean"], 100)
    np.testing.assert_allclose(found["b"]["mean"], 2)


def test_a_fixed_point_may_be_an_end(features):
    arguments = (features.network, features.variables, features.data, KEY)
    copy, _ = finetune(features.network, features.variables, features.data, jax.random.split(KEY)[0], QUICK.finetune)
    for t, expected in ((0.0, features.variables), (1.0, copy)):
        found = mcr(*arguments, replace(QUICK, t=t))
        assert jax.tree.all(jax.tree.map(np.array_equal, found.variables["params"], expected["params"]))
        assert found.choice.rule.startswith(f"The network is the point t = {t:g} of a path")
        assert found.choice.rule.endswith("as requested.")
        assert found.choice.holdout_acc_before is None
        assert (found.kind, list(found.history)) == ("weights", ["finetune", "path"])
        assert list(found.timing) == ["finetune", "path", "choose"]


def test_the_point_is_the_farthest_within_the_budget(features):
    config = replace(QUICK, accuracy_budget=1.0)
    found = mcr(features.network, features.variables, features.data, KEY, config, holdout=features.holdout)
    assert "t = 0.9 " in found.choice.rule
    assert "farthest from the suspicious network that lowers accuracy on held-out clean images" in found.choice.rule
    assert found.choice.budget == 1.0
    fixed = mcr(features.network, features.variables, features.data, KEY, replace(config, t=0.9))
    assert jax.tree.all(jax.tree.map(np.array_equal, found.variables, fixed.variables))


def test_the_network_is_unchanged_where_no_point_is_within_the_budget(features):
    """A path that learns other labels leaves its start at once: only the end itself is right."""
    wrong = Batch(features.data.images, (features.data.labels + 1) % 3)
    config = replace(QUICK, accuracy_budget=0.0, epochs=60, learning_rate=0.3)
    config = replace(config, finetune=FinetuneConfig(epochs=60, batch_size=16, learning_rate=0.3))
    found = mcr(features.network, features.variables, wrong, KEY, config, holdout=features.holdout)
    assert found.choice.rule in found.warnings
    assert found.choice.rule.startswith("No point of the path lowers accuracy")
    assert jax.tree.all(jax.tree.map(np.array_equal, found.variables, features.variables))
    assert found.choice.holdout_acc_before == found.choice.holdout_acc_after


def test_statistics_are_estimated_anew_at_the_point():
    network = Network(Architecture("wanet_mnist", 3, 2, image_shape=(28, 28, 1)), (0.5,), (0.3,))
    variables, rng = network.init(KEY), np.random.default_rng(0)
    data = Batch(rng.integers(0, 256, (6, 28, 28, 1), np.uint8), np.arange(6, dtype=np.int32) % 3)
    config = McrConfig(t=0.0, finetune=FinetuneConfig(epochs=1, batch_size=6), epochs=1, batch_size=6)
    before = count_compiled(phase._run_until), count_compiled(_estimate)
    found = mcr(network, variables, data, KEY, config)
    expected = estimate_statistics(network, variables, data, 6)
    assert jax.tree.all(jax.tree.map(np.array_equal, found.variables, expected))
    kept = network(variables, data.images)[0]
    assert np.abs(np.asarray(network(found.variables, data.images)[0] - kept)).max() > 0.1
    mcr(network, variables, data, jax.random.key(1), replace(config, t=0.5))
    assert count_compiled(phase._run_until) - before[0] == 2  # the copy's and the path's
    assert count_compiled(_estimate) - before[1] == 1


def test_nothing_is_held_out_to_choose_by(features):
    with pytest.raises(ConfigError, match="choose t by: hold some out, or give t"):
        mcr(features.network, features.variables, features.data, KEY, QUICK)


def test_a_loss_that_diverges(features):
    params = jax.tree.map(lambda leaf: leaf * 1e30, features.variables["params"])
    with pytest.raises(DefenseError, match="diverged"):
        mcr(features.network, {**features.variables, "params": params}, features.data, KEY, replace(QUICK, t=0.5))


@pytest.mark.parametrize("options", [{"epochs": 0}, {"t": 1.5}, {"t": -0.5}, {"accuracy_budget": -1.0}])
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected"):
        McrConfig(**options)
