import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.detection.separation import judge_scores
from rnp_jax.errors import DataError


def test_perfect_reversed_and_constant_scores():
    truth = np.arange(50) < 10
    assert judge_scores(truth.astype(float), truth).auroc == 1
    assert judge_scores(truth.astype(float), truth).interval == (1, 1)
    assert judge_scores(truth.astype(float), truth).tpr == 1
    assert judge_scores(-truth.astype(float), truth).auroc == 0
    constant = judge_scores(np.zeros(50), truth)
    assert (constant.auroc, constant.interval, constant.tpr) == (0.5, (0.5, 0.5), 0)
    assert (constant.poisoned, constant.clean) == (10, 40)


def test_true_positives_at_one_percent_false_ones():
    """Of 200 clean samples two may be listed: the poisoned ones above the third highest clean one are found."""
    scores = np.concatenate([np.arange(200.0), [250.0, 198.5, 197.5, 196.5]])
    judged = judge_scores(scores, np.arange(204) >= 200)
    assert judged.tpr == 0.75
    assert judged.auroc == pytest.approx((200 + 199 + 198 + 197) / 800)


@settings(deadline=None, derandomize=True, max_examples=10)
@given(seed=st.integers(0, 100))
def test_the_area_is_how_many_pairs_are_in_order(seed):
    rng = np.random.default_rng(seed)
    scores, truth = rng.integers(0, 6, 40).astype(float), rng.permutation(40) < 8
    pairs = scores[truth][:, None] - scores[~truth][None]
    judged = judge_scores(scores, truth)
    assert judged.auroc == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    low, high = judged.interval
    assert 0 <= low <= judged.auroc <= high <= 1
    assert judge_scores(3 * scores - 1, truth) == judged


def test_the_interval_is_as_wide_as_theory_has_it():
    """Hanley and McNeil (1982), for normal scores a deviation apart: areas Q1 and Q2 near A/(2-A) and 2A²/(1+A)."""
    rng = np.random.default_rng(0)
    n = 400
    truth = np.arange(2 * n) < n
    judged = judge_scores(rng.standard_normal(2 * n) + truth, truth)
    a = judged.auroc
    variance = (a * (1 - a) + (n - 1) * (a / (2 - a) - a**2) + (n - 1) * (2 * a**2 / (1 + a) - a**2)) / n**2
    low, high = judged.interval
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.15)


@pytest.mark.parametrize(
    ("scores", "truth"),
    [
        (np.zeros(3), np.ones(3, bool)),
        (np.zeros(3), np.zeros(3, bool)),
        (np.zeros(3), np.ones(2, bool)),
        (np.array([0, np.nan, 1]), np.array([True, False, False])),
        (np.zeros((2, 2)), np.eye(2, dtype=bool)),
    ],
)
def test_what_cannot_be_judged(scores, truth):
    with pytest.raises(DataError, match="expected"):
        judge_scores(scores, truth)
