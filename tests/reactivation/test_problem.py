"""What attempts are given: which images are looked at, which networks may be compared, what is missing."""

from dataclasses import replace

import numpy as np
import pytest

from rnp_jax.attacks import TriggeredSet
from rnp_jax.errors import ConfigError
from rnp_jax.inversion.stamps import scale
from rnp_jax.reactivation import Party
from rnp_jax.reactivation.problem import are_alike, check_alike, spread


@pytest.mark.parametrize(("count", "chosen"), [(1, [0]), (3, [0, 2, 5]), (6, range(6)), (100, range(6))])
def test_some_triggered_images_are_spread_over_all(count, chosen):
    numbers = np.arange(6)
    found = spread(TriggeredSet(numbers, numbers, numbers, numbers), count)
    assert found.indices.tolist() == found.wanted.tolist() == list(chosen)


def test_networks_that_normalise_otherwise_are_not_alike(problem):
    party = problem.original
    other = Party(replace(party.network, mean=(0.1, 0.1, 0.1)), party.variables)
    assert are_alike(party, problem.reference)
    assert not are_alike(other, party)
    with pytest.raises(ConfigError, match=r"--by lmc: the reference network and the original .* or another normalisat"):
        check_alike("lmc", other, party, "the reference network")


def test_a_network_that_is_not_given_is_asked_for(problem):
    assert problem.need("original", "lmc") is problem.original
    with pytest.raises(ConfigError, match="--by qra: it needs --reference; give that file, or leave qra out"):
        replace(problem, reference=None).need("reference", "qra")


def test_images_with_the_trigger_alone_are_turned_as_often_as_asr_says(problem):
    images = np.asarray(scale(problem.judged.images))
    assert problem.count_turned(problem.original, images) == problem.judge(problem.original).asr


def test_the_seconds_of_a_stage_add_up(problem):
    timed = replace(problem, timing={}, keep=lambda _, compute: (compute(), 2.0))
    for _ in range(2):
        with timed.work_on(timed.original, "lmc") as task:
            assert task.do("lmc", max, 1, 3) == 3
    assert timed.timing == {"lmc": 4.0}
