"""Training against torch's SGD, resumed training, and how often it compiles."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.errors import ConfigError
from rnp_jax.training import supervised
from rnp_jax.training.supervised import TrainConfig, optimizer, start, train
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.linear import Linear, linear_data, linear_variables

FULL = TrainConfig(epochs=7, batch_size=12, learning_rate=0.5, momentum=0.9, weight_decay=0.05)


@pytest.mark.parametrize(("nesterov", "smoothing"), [(False, 0.0), (True, 0.2)])
def test_sgd_is_torch_s_with_coupled_decay_and_the_cosine_schedule(nesterov, smoothing):
    """One full batch an epoch, so that the order of the images has no say."""
    variables, data = linear_variables(), linear_data(12)
    model = torch.nn.Linear(12, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(np.asarray(variables["params"]["fc"]["kernel"]).T))
        model.bias.zero_()
    sgd = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.05, nesterov=nesterov)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=7)
    x, y = torch.tensor(data.images).reshape(12, -1) / 255, torch.tensor(data.labels).long()
    losses, accuracies = [], []
    for _ in range(7):
        sgd.zero_grad()
        logits = model(x)
        loss = torch.nn.functional.cross_entropy(logits, y)
        torch.nn.functional.cross_entropy(logits, y, label_smoothing=smoothing).backward()
        sgd.step()
        schedule.step()
        losses.append(loss.item())
        accuracies.append((logits.argmax(1) == y).double().mean().item())
    config = replace(FULL, nesterov=nesterov, label_smoothing=smoothing)
    trained, history = train(Linear(), variables, data, jax.random.key(0), config)
    np.testing.assert_allclose(trained["params"]["fc"]["kernel"], model.weight.detach().T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(trained["params"]["fc"]["bias"], model.bias.detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(history["accuracy"], accuracies, atol=1e-6)
    assert trained["batch_stats"]["steps"] == 7
    assert trained["masks"] is variables["masks"]


def rates(config: TrainConfig, steps: int) -> list[float]:
    """The learning rate of every step: what plain SGD moves a parameter by under a gradient of one."""
    tx = optimizer(config, steps)
    params = {"w": jnp.zeros(())}
    state, moved = tx.init(params), []
    for _ in range(steps):
        updates, state = tx.update({"w": jnp.ones(())}, state, params)
        moved.append(-float(jax.tree.leaves(updates)[0]))
    return moved


PLAIN: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "learning_rate": 2.0}


def test_one_cycle_rises_linearly_for_three_tenths_and_falls_as_a_cosine():
    found = rates(TrainConfig(schedule="one_cycle", **PLAIN), 20)
    rise = np.linspace(2 / 25, 2, 7)
    fall = 1 + np.cos(np.pi * np.arange(1, 14) / 14)
    np.testing.assert_allclose(found, [*rise, *fall], rtol=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_schedules_of_very_few_steps(schedule, steps):
    found = rates(TrainConfig(schedule=schedule, **PLAIN), steps)
    assert all(0 < rate <= 2 for rate in found)


SHORT = TrainConfig(epochs=4, batch_size=5, learning_rate=0.1)


def run(config: TrainConfig = SHORT, apply: Linear = Linear(), seed: int = 0, **options):  # noqa: B008 (frozen)
    return train(apply, linear_variables(), linear_data(17), jax.random.key(seed), config, **options)


def assert_equal_trees(actual, expected) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    assert all(map(np.array_equal, jax.tree.leaves(actual), jax.tree.leaves(expected)))


def test_resuming_equals_an_uninterrupted_run_bit_for_bit():
    states = []
    whole, history = run(save=states.append)
    assert [int(state.epoch) for state in states] == [1, 2, 3, 4]
    from_disk = jax.tree.map(np.asarray, states[1]._replace(key=jax.random.key_data(states[1].key)))
    state = from_disk._replace(key=jax.random.wrap_key_data(from_disk.key))
    resumed, rest = run(state=state)
    assert_equal_trees(resumed, whole)
    np.testing.assert_array_equal(rest["loss"], history["loss"][2:])
    assert rest["accuracy"].shape == (2,)


def test_the_same_key_gives_the_same_weights_and_another_does_not():
    first, again, other = (run(seed=seed)[0]["params"] for seed in (0, 0, 1))
    assert_equal_trees(first, again)
    assert not np.array_equal(first["fc"]["kernel"], other["fc"]["kernel"])


def test_one_compilation_for_all_epochs_and_runs():
    apply = Linear(classes=-1)  # compiled by no other test
    before = count_compiled(supervised.train_epoch)
    seen = []
    _, history = run(apply=apply, phase="head", progress=lambda *row: seen.append(row))
    run(apply=apply, seed=3)
    run(apply=apply, config=replace(SHORT, learning_rate=0.02, momentum=0.3))  # numbers are arguments of the program
    assert count_compiled(supervised.train_epoch) - before == 1
    assert [row[:3] for row in seen] == [("head", epoch, 4) for epoch in (1, 2, 3, 4)]
    assert [metrics["loss"] for *_, metrics in seen] == history["loss"].tolist()


def test_images_that_do_not_fill_a_batch_wait():
    trained, _ = run()
    assert trained["batch_stats"]["steps"] == 4 * (17 // 5)


@dataclass(frozen=True)
class Poison:
    """Brightens every pixel by one and labels everything 2."""

    def __call__(self, images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        del key
        return images + jnp.uint8(1), jnp.full_like(labels, 2)


@dataclass(frozen=True)
class Double:
    """An augmentation that does not commute with ``Poison``."""

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        del key
        return images * jnp.uint8(2)


def test_batches_are_poisoned_inside_the_step_and_augmented_thereafter():
    data = linear_data(12)
    dark = Batch(data.images // 4, data.labels)
    expected_data = Batch((dark.images + 1) * 2, np.full_like(dark.labels, 2))
    run = partial(train, Linear(), linear_variables(), key=jax.random.key(0), config=FULL)
    poisoned, history = run(data=dark, poison=Poison(), augment=Double())
    expected, _ = run(data=expected_data)
    np.testing.assert_allclose(
        poisoned["params"]["fc"]["kernel"], expected["params"]["fc"]["kernel"], rtol=1e-5, atol=1e-6
    )
    assert history["accuracy"][-1] == 1


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0.0}, {"label_smoothing": 1.1}]
)
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        TrainConfig(**options)


def test_fewer_images_than_a_batch():
    with pytest.raises(ConfigError, match="batch_size 18 exceeds the 17 training images"):
        run(TrainConfig(batch_size=18))


def test_a_fresh_state_counts_from_zero():
    variables = linear_variables()
    state = start(variables, jax.random.key(0), SHORT, 17)
    assert state.epoch == 0
    assert state.params is variables["params"]
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(state.opt_state))
