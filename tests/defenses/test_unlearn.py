"""Unlearning against torch, step for step, and what its settings do."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax.checkpoints import to_state_dict
from rnp_jax.defenses import UnlearnConfig, unlearn
from rnp_jax.errors import ConfigError
from tests.linear import Linear, linear_data, linear_variables
from tests.oracle import models, rnp
from tests.oracle.tiny import BATCH, CLASSES, UNLEARN_EPOCHS, WIDTH, copy_state

ORDERED = UnlearnConfig(max_epochs=UNLEARN_EPOCHS, batch_size=BATCH, stop_accuracy=0.0, shuffle=False)
KEY = jax.random.key(0)


def relative_errors(network, variables, expected: dict[str, np.ndarray]) -> dict[str, float]:
    """Of each tensor, relative to its largest entry."""
    ours = to_state_dict(network, variables)
    return {
        key: float(np.abs(value - expected[key]).max() / np.abs(expected[key]).max()) for key, value in ours.items()
    }


def test_every_epoch_s_loss_and_accuracy_are_torch_s(golden):
    variables = golden.load(golden.run.state)
    result = unlearn(golden.network, variables, golden.data, KEY, ORDERED)
    np.testing.assert_allclose(result.history["loss"], golden.run.unlearn_loss, rtol=1e-3)
    np.testing.assert_allclose(result.history["accuracy"], golden.run.unlearn_accuracy, atol=1.5 / 96)
    assert not result.reached
    errors = relative_errors(golden.network, result.variables, golden.run.unlearned)
    assert max(errors.values()) < 1e-2, max(errors, key=errors.__getitem__)
    assert result.variables["masks"] is variables["masks"]


def test_it_stops_at_torch_s_epoch_with_torch_s_weights(golden):
    """Stopped after the first epoch, by the accuracy that torch recorded for it."""
    accuracy = float(golden.run.unlearn_accuracy[0])
    assert accuracy > golden.run.unlearn_accuracy[1]
    config = replace(ORDERED, stop_accuracy=accuracy + 1e-3)
    result = unlearn(golden.network, golden.load(golden.run.state), golden.data, KEY, config)
    assert result.reached
    np.testing.assert_allclose(result.history["accuracy"], [accuracy], atol=1e-6)
    errors = relative_errors(golden.network, result.variables, golden.run.unlearn_epoch0)
    assert max(errors.values()) < 1e-4, max(errors, key=errors.__getitem__)


def test_relative_steps_with_frozen_statistics_are_torch_s(golden):
    """Two steps in torch's evaluation mode, each tensor's gradient scaled to the tensor's norm."""
    model = models.resnet(18, width=WIDTH, num_classes=CLASSES)
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in golden.run.state.items()})
    model.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.5)
    batches = rnp.make_batches(golden.data.images[: 2 * BATCH], golden.data.labels[: 2 * BATCH], BATCH)
    losses = []
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        (-loss).backward()
        for weights in model.parameters():
            assert weights.grad is not None
            weights.grad *= weights.detach().norm() / weights.grad.norm().clamp_min(1e-30)
        optimizer.step()
    config = UnlearnConfig(
        1, BATCH, 0.02, 0.5, 0.0, milestones=(), stop_accuracy=0, shuffle=False, batch_norm="frozen", relative=True
    )
    variables = golden.load(golden.run.state)
    data = type(golden.data)(golden.data.images[: 2 * BATCH], golden.data.labels[: 2 * BATCH])
    result = unlearn(golden.network, variables, data, KEY, config)
    np.testing.assert_allclose(result.history["loss"], [np.mean(losses)], rtol=1e-3)
    expected = {name: value for name, value in copy_state(model).items() if value.ndim}
    errors = relative_errors(golden.network, result.variables, expected)
    assert max(errors.values()) < 1e-3, max(errors, key=errors.__getitem__)
    jax.tree.map(np.testing.assert_array_equal, result.variables["batch_stats"], variables["batch_stats"])


def test_a_relative_step_moves_each_tensor_by_the_rate_times_its_norm_however_flat_the_loss():
    variables = linear_variables()
    kernel = variables["params"]["fc"]["kernel"] * 16  # sure of itself: the loss is nearly 0
    variables["params"]["fc"] = {"kernel": kernel, "bias": jnp.zeros(3)}
    one = replace(HAND, max_epochs=1, learning_rate=0.03, weight_decay=0, milestones=())
    plain, relative = (ascend(each, variables) for each in (one, replace(one, relative=True)))
    moved = [np.linalg.norm(each.variables["params"]["fc"]["kernel"] - kernel) for each in (plain, relative)]
    assert plain.history["loss"][0] < 1e-3
    assert moved[0] < 1e-3 * moved[1]
    np.testing.assert_allclose(moved[1], 0.03 * np.linalg.norm(kernel), rtol=1e-3)
    np.testing.assert_array_equal(relative.variables["params"]["fc"]["bias"], 0)


def test_statistics_move_only_in_training_mode():
    assert ascend(HAND).variables["batch_stats"]["steps"] == 3
    assert ascend(replace(HAND, batch_norm="frozen")).variables["batch_stats"]["steps"] == 0
    with pytest.raises(ConfigError, match="batch_norm 'eval': expected train or frozen"):
        replace(HAND, batch_norm="eval")


def ascend(config: UnlearnConfig, variables=None, seed: int = 0):
    return unlearn(Linear(), variables or linear_variables(), linear_data(12), jax.random.key(seed), config)


HAND = UnlearnConfig(
    max_epochs=3, batch_size=12, learning_rate=0.5, weight_decay=0.1, milestones=(1, 2), stop_accuracy=0
)


def test_ascent_with_coupled_decay_momentum_and_milestones_by_hand():
    """v ← 0.9 v − g + wd·θ; θ ← θ − lr·v, at rates 0.5, 0.05 and 0.005."""
    data = linear_data(12)
    x = np.hstack([data.images.reshape(12, -1) / 255, np.ones((12, 1))])
    theta = np.vstack([np.asarray(linear_variables()["params"]["fc"]["kernel"], np.float64), np.zeros((1, 3))])
    velocity = np.zeros_like(theta)
    for rate in (0.5, 0.05, 0.005):
        scores = np.exp(x @ theta)
        residual = scores / scores.sum(1, keepdims=True) - np.eye(3)[data.labels]
        velocity = 0.9 * velocity - x.T @ residual / 12 + 0.1 * theta
        theta = theta - rate * velocity
    params = ascend(HAND).variables["params"]["fc"]
    np.testing.assert_allclose(params["kernel"], theta[:-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(params["bias"], theta[-1], rtol=1e-4, atol=1e-5)


def test_no_milestones_keep_the_rate():
    late = ascend(replace(HAND, milestones=(50,))).variables["params"]["fc"]["kernel"]
    np.testing.assert_array_equal(ascend(replace(HAND, milestones=())).variables["params"]["fc"]["kernel"], late)
    assert not np.array_equal(ascend(HAND).variables["params"]["fc"]["kernel"], late)


def test_neurons_whose_mask_is_0_do_not_move_even_by_weight_decay():
    variables = linear_variables()
    variables["masks"] = {"fc": {"neuron": jnp.array([1.0, 0.0, 1.0])}}
    variables["params"]["fc"]["bias"] = jnp.array([1.0, 2.0, 3.0])
    before, after = (
        variables["params"]["fc"],
        ascend(replace(HAND, weight_decay=0.3), variables).variables["params"]["fc"],
    )
    np.testing.assert_array_equal(after["kernel"][:, 1], before["kernel"][:, 1])
    assert after["bias"][1] == 2
    assert (np.asarray(after["kernel"]) != np.asarray(before["kernel"]))[:, [0, 2]].all()
    assert after["bias"][0] != 1


def test_the_last_epoch_is_the_first_at_or_below_the_stop_accuracy():
    config = replace(HAND, max_epochs=30, learning_rate=0.2, milestones=(), batch_size=5)
    whole = ascend(config).history["accuracy"]
    stop = sorted(set(whole.tolist()))[len(set(whole.tolist())) // 2]
    expected = int(np.flatnonzero(whole <= stop)[0]) + 1
    assert 1 < expected < 30
    result = ascend(replace(config, stop_accuracy=float(np.float32(stop))))
    assert result.reached
    np.testing.assert_array_equal(result.history["accuracy"], whole[:expected])
    assert result.variables["batch_stats"]["steps"] == expected * 3  # twelve images in batches of five: the rest counts


def test_it_halts_before_the_first_step_whose_loss_is_a_multiple_of_that_of_guessing():
    config = replace(HAND, max_epochs=30, learning_rate=0.2, milestones=())  # an epoch is one step
    loss = ascend(config).history["loss"] / np.log(3)
    limit = float((loss[3] + loss[4]) / 2)
    halted, before = ascend(replace(config, stop_loss=limit)), ascend(replace(config, max_epochs=4))
    assert halted.reached
    assert len(halted.history["loss"]) == 5
    assert jax.tree.all(jax.tree.map(np.array_equal, halted.variables, before.variables))


def test_it_halts_inside_an_epoch():
    config = replace(HAND, max_epochs=1, batch_size=4, learning_rate=0.2, milestones=())
    whole, start = ascend(config), linear_variables()["params"]["fc"]["kernel"]
    at_once = ascend(replace(config, stop_loss=1e-6))
    np.testing.assert_array_equal(at_once.variables["params"]["fc"]["kernel"], start)
    assert at_once.reached
    last = ascend(replace(config, stop_loss=1e6))
    assert not last.reached
    assert jax.tree.all(jax.tree.map(np.array_equal, last.variables, whole.variables))


def test_order_follows_the_key_only_where_shuffled():
    config = replace(HAND, batch_size=4)
    kernels = {
        (shuffle, seed): np.asarray(
            ascend(replace(config, shuffle=shuffle), seed=seed).variables["params"]["fc"]["kernel"]
        )
        for shuffle in (True, False)
        for seed in (0, 1)
    }
    assert np.array_equal(kernels[False, 0], kernels[False, 1])
    assert not np.array_equal(kernels[True, 0], kernels[True, 1])
    assert np.array_equal(kernels[True, 0], ascend(config).variables["params"]["fc"]["kernel"])


@pytest.mark.parametrize(
    "options",
    [{"max_epochs": 0}, {"batch_size": 1}, {"learning_rate": 0.0}, {"stop_accuracy": 1.0}, {"stop_accuracy": -0.1}],
)
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected max_epochs >= 1"):
        UnlearnConfig(**options)
