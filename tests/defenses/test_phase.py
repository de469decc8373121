"""One compiled program a phase: how often it compiles, when it stops, and what it tells on the way."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.defenses import UnlearnConfig, phase, unlearn
from rnp_jax.defenses.phase import check_finite
from rnp_jax.errors import DefenseError
from tests.compiled import count_compiled
from tests.linear import Linear, linear_data, linear_variables

CONFIG = UnlearnConfig(max_epochs=6, batch_size=5, learning_rate=0.1, stop_accuracy=0.0)
KEY = jax.random.key(0)


def run(apply: Linear, config: UnlearnConfig = CONFIG, seed: int = 0, **options):
    return unlearn(apply, linear_variables(), linear_data(12), jax.random.key(seed), config, **options)


def assert_equal_trees(actual, expected) -> None:
    assert all(map(np.array_equal, jax.tree.leaves(actual), jax.tree.leaves(expected)))


def test_progress_changes_nothing_and_does_not_compile_again():
    apply = Linear(classes=-2)  # compiled by no other test
    before = count_compiled(phase._run_until)
    silent = run(apply)
    calls = []
    shown = run(apply, progress=lambda *call: calls.append(call))
    assert count_compiled(phase._run_until) - before == 1
    run(apply, seed=1)
    run(Linear(classes=-2), replace(CONFIG))  # equal settings of an equal network
    run(apply, replace(CONFIG, learning_rate=0.03, momentum=0.7, weight_decay=0.1))  # numbers are its arguments
    assert count_compiled(phase._run_until) - before == 1
    assert_equal_trees((shown.variables, shown.history), (silent.variables, silent.history))
    assert [call[:3] for call in calls] == [("unlearn", epoch, 6) for epoch in range(1, 7)]
    assert [call[3]["loss"] for call in calls] == silent.history["loss"].tolist()
    assert [call[3]["accuracy"] for call in calls] == silent.history["accuracy"].tolist()


def test_an_early_stop_is_seen_by_progress_too():
    calls = []
    config = replace(CONFIG, max_epochs=40, learning_rate=0.2, stop_accuracy=0.4)
    silent, shown = run(Linear(), config), run(Linear(), config, progress=lambda *call: calls.append(call[1]))
    epochs = len(silent.history["loss"])
    assert 1 < epochs < 40
    assert calls == list(range(1, epochs + 1))
    assert_equal_trees((shown.variables, shown.history), (silent.variables, silent.history))


def test_without_progress_the_host_waits_for_one_call_only(monkeypatch):
    calls = []
    run_until = phase._run_until
    monkeypatch.setattr(phase, "_run_until", lambda *args: calls.append(int(args[-1])) or run_until(*args))
    run(Linear())
    assert calls == [6]


def test_an_epoch_is_reported_while_the_next_one_runs(monkeypatch):
    events, run_until = [], phase._run_until
    monkeypatch.setattr(phase, "_run_until", lambda *args: events.append(("run", int(args[-1]))) or run_until(*args))
    run(Linear(), replace(CONFIG, max_epochs=3), progress=lambda *call: events.append(("told", call[1])))
    assert events == [("run", 1), ("run", 2), ("told", 1), ("run", 3), ("told", 2), ("told", 3)]


def test_a_loss_that_is_not_finite_stops():
    result = run(Linear(), replace(CONFIG, learning_rate=1e38))
    assert 1 <= len(result.history["loss"]) < 6
    assert not np.isfinite(result.history["loss"][-1])


class Darken:
    """An augmentation that takes all information away."""

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        del key
        return jnp.zeros_like(images)


def test_batches_are_augmented():
    """Of black images only the bias learns; without weight decay the kernel stays."""
    config = replace(CONFIG, weight_decay=0.0)
    augmented = run(Linear(), config, augment=Darken()).variables["params"]["fc"]
    np.testing.assert_array_equal(augmented["kernel"], linear_variables()["params"]["fc"]["kernel"])
    assert np.abs(augmented["bias"]).max() > 0


def test_a_loss_that_is_not_finite_is_told_with_its_epoch():
    check_finite("tuning", {"loss": np.array([1.0, 0.5])})
    with pytest.raises(DefenseError, match="tuning diverged: the loss became nan in epoch 2"):
        check_finite("tuning", {"loss": np.array([1.0, np.nan])})
