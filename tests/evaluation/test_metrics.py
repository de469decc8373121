import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from rnp_jax.evaluation.metrics import (
    Metrics,
    Proportion,
    attack_metrics,
    clean_metrics,
    defense_effectiveness,
    share,
)


@given(st.integers(1, 2000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
@settings(deadline=None, derandomize=True)
def test_interval_is_wilson_s(pair):
    proportion = Proportion(*pair)
    low, high = proportion.interval
    expected = binomtest(*pair).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= proportion.value + 1e-15
    assert proportion.value - 1e-15 <= high <= 1


def test_known_intervals():
    """p = 0.5 of 10: the usual textbook example; and the ends, where the normal approximation has no width."""
    assert Proportion(5, 10).interval == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert Proportion(0, 10).interval == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert Proportion(10, 10).interval == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_nothing_is_known_of_no_images():
    assert math.isnan(Proportion(0, 0).value)
    assert Proportion(0, 0).interval == (0, 1)


def test_share_counts_true_entries():
    assert share(np.array([True, False, True, True])) == Proportion(3, 4)


LABELS = np.array([0, 0, 1, 1, 2, 2])
PREDICTED = np.array([0, 1, 1, 1, 0, 0])


def test_clean_accuracy_with_and_without_the_target_class():
    assert clean_metrics(PREDICTED, LABELS).acc == Proportion(3, 6)
    assert clean_metrics(PREDICTED, LABELS).acc_without_target is None
    assert clean_metrics(PREDICTED, LABELS, 0).acc_without_target == Proportion(2, 4)
    assert clean_metrics(PREDICTED, LABELS, 2).acc_without_target == Proportion(3, 4)


def test_attack_success_and_robust_accuracy_over_the_triggered_images():
    clean = clean_metrics(PREDICTED, LABELS, 0)
    metrics = attack_metrics(clean, np.array([0, 1, 0, 1]), np.array([1, 1, 2, 2]), np.zeros(4, np.int64))
    assert metrics == Metrics(clean.acc, clean.acc_without_target, Proportion(2, 4), Proportion(1, 4))


def metrics(acc: float, asr: float | None) -> Metrics:
    return Metrics(
        Proportion(round(acc * 1000), 1000), None, None if asr is None else Proportion(round(asr * 1000), 1000)
    )


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((0.9, 1.0), (0.9, 0.0), 1.0),  # perfect
        ((0.9, 1.0), (0.9, 1.0), 0.5),  # nothing done
        ((0.9, 1.0), (0.0, 1.0), 0.05),  # ruined for nothing
        ((0.9132, 0.950), (0.8996, 0.015), (0.935 - 0.013 + 1) / 2),  # figures are rounded to a thousandth
        ((0.8, 0.1), (0.9, 0.5), 0.5),  # rises do not count
    ],
)
def test_defense_effectiveness(before, after, expected):
    assert defense_effectiveness(metrics(*before), metrics(*after)) == pytest.approx(expected, abs=1e-9)


def test_defense_effectiveness_of_an_unknown_attack():
    assert defense_effectiveness(metrics(0.9, None), metrics(0.9, 0.1)) is None
    assert defense_effectiveness(metrics(0.9, 0.1), metrics(0.9, None)) is None
