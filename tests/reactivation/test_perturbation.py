"""One perturbation for all images: its bound, its start, and that one program finds it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.errors import ConfigError
from rnp_jax.reactivation.perturbation import PerturbationConfig, find_perturbation, run_pass
from rnp_jax.types import Batch
from tests.compiled import count_compiled

QUICK = PerturbationConfig(epsilon=0.3, epochs=3, inner_steps=2, batch_size=32, learning_rate=0.5)
KEY = jax.random.key(3)


@pytest.fixture
def data(problem) -> Batch:
    return Batch(problem.triggered.images, problem.triggered.wanted)


def measure(delta: np.ndarray, norm: str) -> float:
    return float(np.abs(delta).max() if norm == "inf" else np.linalg.norm(delta))


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_it_is_within_the_bound_after_every_step(problem, data, norm):
    config = replace(QUICK, norm=norm, epochs=1, inner_steps=1, batch_size=len(data.labels), learning_rate=1e4)
    delta, reached = jnp.zeros(data.images.shape[1:]), []
    for number in range(3):
        key = jax.random.fold_in(KEY, number)
        delta, _ = run_pass(config, (problem.purified.network,), (problem.purified.variables,), delta, data, key)
        reached.append(measure(np.asarray(delta), norm))
    assert max(reached) <= config.epsilon * (1 + 1e-6)
    assert max(reached) > 0.99 * config.epsilon  # steps of this size reach it


def test_it_is_one_change_for_all_images_and_lowers_the_loss(problem, data):
    found = find_perturbation((problem.purified,), data, KEY, replace(QUICK, epochs=6))
    assert found.delta.shape == data.images.shape[1:]
    assert found.loss[-1] < found.loss[0]


def test_the_losses_of_several_networks_are_summed(problem, data):
    config = replace(QUICK, epochs=1, inner_steps=1, learning_rate=1e-9)  # stays where it starts
    parties = (problem.purified, problem.original)
    apart = sum(find_perturbation((party,), data, KEY, config).loss for party in parties)
    np.testing.assert_allclose(find_perturbation(parties, data, KEY, config).loss, apart, rtol=1e-5)


def test_without_room_nothing_changes(problem, data):
    assert not find_perturbation((problem.purified,), data, KEY, replace(QUICK, epsilon=0.0)).delta.any()


def test_one_program_serves_all_numbers(problem, data):
    before = count_compiled(run_pass)
    for epsilon, rate, epochs in ((0.1, 0.1, 1), (0.2, 0.3, 2)):
        config = PerturbationConfig(epsilon, epochs=epochs, inner_steps=3, batch_size=50, learning_rate=rate)
        # the number of passes is not the program's: it is made anew for another
        find_perturbation((problem.purified,), data, KEY, replace(config, epochs=2))
    assert count_compiled(run_pass) - before == 1


def test_the_defaults_are_the_release_s():
    config = PerturbationConfig()
    assert (config.epsilon, config.norm, config.epochs, config.inner_steps) == (0.05, "inf", 50, 5)
    assert (config.batch_size, config.learning_rate, config.wanted, config.other) == (128, 0.05, 1, 1)


@pytest.mark.parametrize(("change", "said"), [({"epochs": 0}, "learning_rate > 0"), ({"epsilon": -1.0}, "no epsilon")])
def test_impossible_settings(change, said):
    with pytest.raises(ConfigError, match=said):
        PerturbationConfig(**change)
