"""Scores by name, on a small victim trained on digits with a patch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.attacks import BadNets
from rnp_jax.data.digits import load_digits
from rnp_jax.defenses.unlearn import UnlearnConfig, unlearn
from rnp_jax.detection.samples import SAMPLE_SCORES, SampleConfig, judge_scores, score_samples
from rnp_jax.errors import ConfigError, DataError, DefenseError
from rnp_jax.training.backdoor import PoisonConfig, poison_once
from rnp_jax.types import Batch, Variables
from tests.victims import GOAL, IMAGE, MLP, attack_mlp

KEY, CONFIG = jax.random.key(0), SampleConfig()


class Victim(NamedTuple):
    variables: Variables
    unlearned: Variables
    data: Batch
    poisoned: np.ndarray
    clean: Batch


@pytest.fixture(scope="module")
def victim() -> Victim:
    train, test = (load_digits(split, IMAGE[:2]).batch for split in ("train", "test"))
    variables = attack_mlp(BadNets(), epochs=8).result.variables
    made = poison_once(BadNets(), GOAL, train, 0, PoisonConfig(rate=0.1))
    clean = Batch(test.images[:200], test.labels[:200])
    unlearned = unlearn(MLP, variables, clean, KEY, UnlearnConfig(batch_size=50))
    return Victim(variables, unlearned.variables, made.data, made.poisoned, clean)


def score(victim: Victim, method: str, **changes) -> np.ndarray:
    given = {**victim._asdict(), **changes}
    return score_samples(
        method, MLP, given["variables"], given["unlearned"], given["data"], KEY, CONFIG, clean=given["clean"]
    )


@pytest.mark.parametrize("method", SAMPLE_SCORES)
def test_every_score_is_one_finite_number_a_sample_and_says_something(victim, method):
    scores = score(victim, method)
    assert scores.shape == (1297,)
    assert scores.dtype == np.float64
    np.testing.assert_array_equal(scores, score(victim, method))
    judged = judge_scores(scores, victim.poisoned)
    assert judged.poisoned == 130
    low, high = judged.interval
    assert not low <= 0.5 <= high


def test_scores_that_need_nothing_do_not_ask_for_it(victim):
    score(victim, "loss", unlearned=None, clean=None)
    with pytest.raises(ConfigError, match="unlearned_difference needs unlearned, but got None"):
        score(victim, "unlearned_difference", unlearned=None)
    with pytest.raises(ConfigError, match="strip needs clean, but got None"):
        score(victim, "strip", clean=None)
    with pytest.raises(ConfigError, match="unknown sample score 'stripe'; choose one of unlearned, "):
        score(victim, "stripe")


def test_samples_that_do_not_belong_together(victim):
    images, labels = victim.data
    for data in (Batch(images[:0], labels[:0]), Batch(images, labels[:5])):
        with pytest.raises(DataError, match="expected one or more samples, one label each"):
            score(victim, "loss", data=data)


def test_a_model_that_gives_no_numbers_is_told(victim):
    broken = {
        **victim.variables,
        "params": jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), victim.variables["params"]),
    }
    with pytest.raises(DefenseError, match="loss gives 1297 of 1297 samples a score that is not finite"):
        score(victim, "loss", variables=broken)


def test_impossible_settings():
    with pytest.raises(ConfigError, match="batch_size 0: expected 1 or more"):
        SampleConfig(batch_size=0)
