"""The straight way in weight space: its ends, its barrier, and how far it must be walked."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.reactivation import lmc
from rnp_jax.reactivation.lmc import LmcConfig, explain, find_way, measure_barrier, run_lmc, walk
from rnp_jax.reactivation.problem import Party
from rnp_jax.types import Batch
from tests.compiled import count_compiled


def test_the_ends_are_the_networks(problem):
    start, end, judged = problem.purified, problem.original, problem.judged
    before = count_compiled(lmc._mix)
    found = walk(start, end, problem.clean, judged, problem.test, LmcConfig(points=3))
    assert count_compiled(lmc._mix) - before <= 1
    assert found["t"].tolist() == [0, 0.5, 1]
    for place, party in ((0, start), (-1, end)):
        told = predict(*party, Batch(judged.images, judged.wanted))
        assert found["loss"][place] == pytest.approx(told.loss.mean(), rel=1e-5)
        np.testing.assert_array_equal(found["turned"][place], told.labels[0] == judged.wanted)
        right = predict(*party, problem.test).labels[0] == problem.test.labels
        np.testing.assert_array_equal(found["right"][place], right)
    mixed = lmc._mix(start.variables["params"], end.variables["params"], np.float32(1))
    jax.tree.map(np.testing.assert_array_equal, mixed, end.variables["params"])


def test_a_way_between_equal_networks_is_flat(problem):
    found = walk(problem.original, problem.original, problem.clean, problem.judged, problem.test, LmcConfig(points=3))
    assert np.ptp(found["loss"]) < 1e-5
    assert measure_barrier(found["t"], found["loss"]) < 1e-5


@pytest.mark.parametrize(
    ("loss", "barrier"), [([2, 1, 0], 0), ([2, 0.1, 0], 0), ([2, 1.5, 0], 0.5), ([0, 3, 0], 3), ([1, 1, 1], 0)]
)
def test_the_barrier_is_the_height_above_the_straight_line_between_the_ends(loss, barrier):
    assert measure_barrier(np.asarray([0, 0.5, 1]), np.asarray(loss, float)) == pytest.approx(barrier)


@pytest.mark.parametrize(("asr", "way"), [([0.9, 0, 0], 0), ([0, 0.5, 1], 0.5), ([0, 0.4, 0.1], None)])
def test_the_way_is_to_the_first_point_at_which_half_of_the_images_are_turned(asr, way):
    assert find_way(np.asarray([0, 0.5, 1]), np.asarray(asr)) == way


def test_it_explains_and_decides_nothing(problem):
    attempt = run_lmc(problem, LmcConfig(points=3))
    assert (attempt.after, attempt.floor) == (None, None)
    assert {curve.figure for curve in attempt.curves} == {"path", "barrier"}
    names = {"ASR, purified", "ACC, purified", "purified", "ASR, reference", "ACC, reference", "reference"}
    assert {curve.name for curve in attempt.curves} == names
    told = explain(attempt)
    assert told.startswith("From this network, the backdoor's loss has a barrier of ")
    assert "From the clean reference, the backdoor's loss has a barrier of " in told
    alone = run_lmc(replace(problem, reference=None), LmcConfig(points=2))
    assert "reference" not in explain(alone)


def test_networks_of_two_kinds_have_no_straight_way(problem):
    network = Network(Architecture("mlp", 10, 0, (("0", 6), ("2", 10)), (8, 8, 3)))
    other = Party(network, network.init(jax.random.key(0)))
    with pytest.raises(
        ConfigError, match="--by lmc: the purified network and the original network have weights of diff"
    ):
        run_lmc(replace(problem, purified=other), LmcConfig())


def test_settings_that_make_no_way():
    with pytest.raises(ConfigError, match="expected points >= 2 and batch_size >= 2"):
        LmcConfig(points=1)
