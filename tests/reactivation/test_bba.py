"""Black-box re-activation: its bound, its squares, and that a query never makes things worse."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.errors import ConfigError
from rnp_jax.reactivation import bba
from rnp_jax.reactivation.bba import BbaConfig, ask, run_bba, run_round, search_squares
from rnp_jax.types import Batch
from tests.compiled import count_compiled

QUICK = BbaConfig(epsilon=0.3, queries=40, images=30)
KEY = jax.random.key(5)


@pytest.fixture
def data(problem) -> Batch:
    return Batch(problem.triggered.images[:30], problem.triggered.wanted[:30])


def test_a_square_has_one_sign_a_channel_and_the_rest_stays():
    delta = jnp.zeros((8, 8, 3))
    for seed in range(5):
        found = np.asarray(bba._try_square(delta, 0.5, jnp.float32(0.25), jax.random.key(seed)))
        rows, columns = (np.flatnonzero(found.any(axis)) for axis in ((1, 2), (0, 2)))
        assert len(rows) == len(columns) == 4  # a quarter of the image
        inside = found[rows][:, columns]
        assert np.abs(inside).min() == 0.5
        assert np.ptp(inside, axis=(0, 1)).max() == 0
        assert np.abs(found).sum() == pytest.approx(0.5 * 16 * 3)


def test_no_query_makes_it_worse_and_each_pixel_changes_by_epsilon(problem, data):
    network, variables = problem.reference
    config, losses = replace(QUICK, enough=1.0), []
    state = ask(config, network, variables, jnp.full((8, 8, 3), 0.3), data)
    for until in (5, 10, 40):
        losses.append(float(state.loss))
        state = run_round(config, network, variables, state, data, KEY, jnp.int32(until))
        assert int(state.asked) <= until
        np.testing.assert_allclose(np.abs(state.delta), 0.3, rtol=1e-6)
    assert losses == sorted(losses, reverse=True)
    assert float(state.loss) < losses[0]


def test_it_ends_once_enough_are_turned(problem, data):
    found = search_squares(problem.original, data, KEY, replace(QUICK, enough=1e-6, epsilon=0.01))
    assert found.asked == 1


def test_one_program_serves_all_numbers(problem, data):
    before = count_compiled(run_round)
    for epsilon, share in ((0.1, 0.1), (0.2, 0.3)):
        search_squares(problem.reference, data, KEY, BbaConfig(epsilon, queries=33, share=share))
    assert count_compiled(run_round) - before == 1


def test_without_room_it_is_the_plain_trigger(problem):
    attempt = run_bba(problem, replace(QUICK, epsilon=0.0))
    assert attempt.after.asr == problem.judge(problem.purified).asr
    assert attempt.floor.asr == problem.judge(problem.reference).asr
    assert attempt.budget == {"triggered images": 30, "epsilon": 0, "queries": 40}
    assert set(attempt.figures) == {"queries, purified", "queries, reference"}


def test_the_defaults_are_the_release_s():
    assert BbaConfig() == BbaConfig(epsilon=0.05, queries=10_000, images=500, share=0.1, enough=0.99)


@pytest.mark.parametrize("change", [{"queries": 0}, {"epsilon": -0.1}, {"share": 0.0}])
def test_impossible_settings(change):
    with pytest.raises(ConfigError, match="expected"):
        BbaConfig(**change)
