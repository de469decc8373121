import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from rnp_jax.evaluation.metrics import (
    Metrics,
    Proportion,
    accuracy_lost,
    attack_metrics,
    class_accuracy,
    clean_metrics,
    known_share,
    share,
    with_effectiveness,
)


@given(st.integers(1, 2000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
@settings(deadline=None, derandomize=True)
def test_interval_is_wilson_s(pair):
    proportion = Proportion.of(*pair)
    low, high = proportion.interval
    expected = binomtest(*pair).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= proportion.value + 1e-15
    assert proportion.value - 1e-15 <= high <= 1


def test_known_intervals():
    """p = 0.5 of 10: the usual textbook example; and the ends, where the normal approximation has no width."""
    assert Proportion.of(5, 10).interval == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert Proportion.of(0, 10).interval == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert Proportion.of(10, 10).interval == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_nothing_is_known_of_no_images():
    nothing = np.zeros(0, np.bool_)
    assert share(nothing) is None
    assert clean_metrics(np.array([1, 0]), np.array([1, 1]), 1).acc_without_target is None
    empty = np.zeros(0, np.int64)
    unknown = attack_metrics(clean_metrics(np.array([1]), np.array([1])), empty, empty, empty)
    assert (unknown.asr, unknown.ra) == (None, None)


def test_share_counts_true_entries():
    hits = np.array([True, False, True, True])
    assert share(hits) == known_share(hits) == Proportion.of(3, 4)
    assert share(np.zeros(2, np.bool_)) == Proportion.of(0, 2)


def test_accuracy_lost_counts_the_images_on_which_two_networks_differ():
    """Of 100 images, 5 are lost and 2 won: with half an image more of each kind 5.5 and 2.5 of 102."""
    before, after = np.ones(100, np.bool_), np.ones(100, np.bool_)
    after[:5] = before[5:7] = False
    found = accuracy_lost(before, after)
    half = 1.959963984540054 * np.sqrt((5.5 + 2.5) - 3**2 / 102) / 102
    assert (found.value, found.low, found.high) == pytest.approx((0.03, 3 / 102 - half, 3 / 102 + half))
    assert str(found) == f"3.0 points (95 % interval {100 * found.low:.1f} to {100 * found.high:.1f})"
    other = accuracy_lost(after, before)
    assert (other.value, other.low, other.high) == pytest.approx((-found.value, -found.high, -found.low))
    nothing = accuracy_lost(before, before)
    assert nothing.low < nothing.value == 0 < nothing.high


def test_the_interval_of_the_accuracy_lost_holds_the_truth_as_often_as_it_says():
    """Of so many draws of 100 images, the networks differ on 8 % one way and on 3 % the other."""
    drawn = np.random.default_rng(0).choice(3, (2000, 100), p=[0.89, 0.08, 0.03])
    found = [accuracy_lost(row != 2, row != 1) for row in drawn]
    assert 0.93 < np.mean([each.low <= 0.05 <= each.high for each in found]) < 0.98


def test_a_proportion_in_a_document_has_its_ends_and_counts():
    found = Proportion.of(3, 4)
    low, high = found.interval
    assert found.model_dump() == {"value": 0.75, "low": low, "high": high, "count": 3, "total": 4}
    assert Proportion.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("counts", [(-1, 4), (5, 4)])
def test_counts_that_are_no_share_are_refused(counts):
    with pytest.raises((ValueError, ArithmeticError)):
        Proportion.of(*counts)


LABELS = np.array([0, 0, 1, 1, 2, 2])
PREDICTED = np.array([0, 1, 1, 1, 0, 0])


def test_clean_accuracy_with_and_without_the_target_class():
    assert clean_metrics(PREDICTED, LABELS).acc == Proportion.of(3, 6)
    assert clean_metrics(PREDICTED, LABELS).acc_without_target is None
    assert clean_metrics(PREDICTED, LABELS, 0).acc_without_target == Proportion.of(2, 4)
    assert clean_metrics(PREDICTED, LABELS, 2).acc_without_target == Proportion.of(3, 4)


def test_accuracy_by_class():
    assert class_accuracy(PREDICTED, LABELS) == tuple(Proportion.of(count, 2) for count in (1, 2, 0))


def test_a_class_without_images_has_no_accuracy():
    """Classes are listed up to the last that has images."""
    found = class_accuracy(np.array([3, 1, 9]), np.array([3, 1, 3]))
    assert found == (None, Proportion.of(1, 1), None, Proportion.of(1, 2))
    assert class_accuracy(np.zeros(0, np.int32), np.zeros(0, np.int32)) == ()


def test_attack_success_and_robust_accuracy_over_the_triggered_images():
    clean = clean_metrics(PREDICTED, LABELS, 0)
    metrics = attack_metrics(clean, np.array([0, 1, 0, 1]), np.array([1, 1, 2, 2]), np.zeros(4, np.int64))
    two, one = Proportion.of(2, 4), Proportion.of(1, 4)
    assert metrics == Metrics(acc=clean.acc, acc_without_target=clean.acc_without_target, asr=two, ra=one)
    assert metrics.shares == {
        "acc": clean.acc, "acc_without_target": clean.acc_without_target, "asr": two, "ra": one
    }  # fmt: skip


def metrics(acc: float, asr: float | None) -> Metrics:
    return Metrics(
        acc=Proportion.of(round(acc * 1000), 1000),
        asr=None if asr is None else Proportion.of(round(asr * 1000), 1000),
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
    found = with_effectiveness(metrics(*before), metrics(*after))
    assert found.der == pytest.approx(expected, abs=1e-9)
    assert (found.acc, found.asr) == (metrics(*after).acc, metrics(*after).asr)


def test_defense_effectiveness_of_an_unknown_attack():
    assert with_effectiveness(metrics(0.9, None), metrics(0.9, 0.1)).der is None
    assert with_effectiveness(metrics(0.9, 0.1), metrics(0.9, None)).der is None
