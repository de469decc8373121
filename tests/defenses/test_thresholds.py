"""Every rule on scores whose answer is known; invariance under rescaling; scores that have nothing to say."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.defenses.thresholds import Rule, ThresholdConfig, select, standardize
from rnp_jax.errors import ConfigError, DefenseError

NORMAL = np.array([NormalDist().inv_cdf((i + 0.5) / 64) for i in range(64)])
"""64 quantiles of a standard normal: a sample as unsuspicious as can be."""

BY_LAYER: tuple[Rule, ...] = ("std", "mad", "valley", "mixture")


def selected(row, rule: Rule, **options) -> list[int]:
    return select({"layer": np.asarray(row)}, ThresholdConfig(rule, **options)).selected["layer"].tolist()


def threshold(row, rule: Rule, **options) -> float:
    return select({"layer": np.asarray(row)}, ThresholdConfig(rule, **options)).thresholds["layer"]


def test_std_by_hand():
    row = [1.0] * 15 + [2.0, 9.0]
    cut = np.mean(row) + 3 * np.std(row, ddof=1)
    assert threshold(row, "std") == pytest.approx(cut)
    assert selected(row, "std") == [16]
    assert selected(row, "std", u=0.3) == [16]
    assert selected(row, "std", u=0.2) == [15, 16]


@pytest.mark.parametrize(("filters", "fires"), [(2, False), (10, False), (11, True), (40, True)])
def test_three_deviations_need_eleven_filters(filters, fires):
    """The largest of n standardised scores is at most (n − 1)/√n, which is below 3 up to n = 10."""
    row = np.r_[np.ones(filters - 1), 1e9]
    assert ((row.max() - row.mean()) / row.std(ddof=1)) == pytest.approx((filters - 1) / np.sqrt(filters))
    assert bool(selected(row, "std")) is fires


def test_std_is_strict():
    row = np.r_[np.ones(8), 10.0]  # of nine scores the last is exactly (9 − 1)/√9 deviations above the mean
    assert selected(row, "std", u=8 / 3) == []
    assert selected(row, "std", u=8 / 3 - 1e-6) == [8]


def test_mad_by_hand():
    """Log scores −2 … 2 and 9: median 0.5, MAD 1.5."""
    row = np.exp([-2.0, -1, 0, 1, 2, 9])
    assert np.log(threshold(row, "mad", u=2.0)) == pytest.approx(0.5 + 2 * 1.4826 * 1.5)
    assert selected(row, "mad", u=2.0) == [5]
    assert selected(row, "mad", u=4.0) == []


def test_mad_is_not_moved_by_what_it_looks_for():
    """A third of the layer is far off; the deviation about the mean does not see it, the one about the median does."""
    row = np.exp(np.r_[0.1 * NORMAL[::2], np.full(16, 5.0)])
    assert selected(row, "mad") == list(range(32, 48))
    assert selected(row, "std") == []


@pytest.mark.parametrize("rule", ["valley", "mixture"])
def test_two_groups_are_told_apart(rule):
    row = np.exp(np.r_[0.3 * NORMAL, 4 + 0.1 * NORMAL[::8]])
    assert selected(row, rule) == list(range(64, 72))
    assert np.exp(0.3 * NORMAL[-1]) < threshold(row, rule) < np.exp(4 + 0.1 * NORMAL[0])


@pytest.mark.parametrize("rule", BY_LAYER[1:])  # to a mean and a deviation, a log-normal's tail is suspicious
def test_one_group_is_left_alone(rule):
    assert selected(np.exp(0.3 * NORMAL), rule) == []
    assert threshold(np.exp(0.3 * NORMAL), rule) > np.exp(0.3 * NORMAL[-1])


def test_the_deepest_of_several_valleys():
    """A shallow dip at 2 and a gap at 6; and of two gaps the first, so that both groups beyond it are selected."""
    main, near, far = 0.5 * NORMAL, 2.6 + 0.5 * NORMAL[::2], 9 + 0.2 * NORMAL[::8]
    assert selected(np.exp(np.r_[main, near, far]), "valley") == list(range(96, 104))
    groups = np.r_[main, 6 + 0.1 * NORMAL[::16], 12 + 0.1 * NORMAL[::16]]
    assert selected(np.exp(groups), "valley") == list(range(64, 72))


def test_a_valley_left_of_the_main_mode_is_no_reason():
    """Dead filters have low scores; they are not suspicious."""
    row = np.exp(np.r_[0.3 * NORMAL, -6 + 0.1 * NORMAL[::4]])
    assert selected(row, "valley") == []
    assert selected(row, "mixture") == []


def test_the_mixture_wants_a_minority_well_apart():
    assert selected(np.exp(np.r_[0.3 * NORMAL, 4 + 0.1 * NORMAL, 4 + 0.1 * NORMAL]), "mixture") == []
    assert selected(np.exp(np.r_[NORMAL, 1 + NORMAL[::8]]), "mixture") == []
    heavy = np.exp(np.r_[0.1 * NORMAL, NORMAL[::2]])  # BIC prefers two components, of one centre
    assert selected(heavy, "mixture") == []


def test_few_filters_have_no_density():
    row = np.exp(np.r_[0.1 * NORMAL[::5], 5.0])
    assert len(row) == 14
    for rule in ("valley", "mixture"):
        assert selected(row, rule) == []
        assert selected(np.r_[row, row[:2]], rule) == [13]


@pytest.mark.parametrize("rule", BY_LAYER)
@pytest.mark.parametrize(
    "row",
    [
        np.zeros(20), np.full(20, 0.1), np.full(20, 0.1, np.float32), np.ones(1), np.zeros(1), np.empty(0),
        np.r_[np.zeros(19), np.full(18, 3.0)], np.full(32, 1e-30), np.full(32, 1e30), np.array([1.0, 1e6]),
        np.full(30, 0.7) * (1 + 1e-16 * np.arange(30)),
    ],
)  # fmt: skip
def test_scores_that_say_nothing(row, rule):
    if rule == "std" and row.any() and row.min() == 0:
        return  # zeros are values to a mean
    assert selected(row, rule) == []


def test_more_than_half_equal_leaves_the_mad_nothing_to_measure_by():
    row = np.r_[np.ones(19), 9.0]
    assert selected(row, "mad") == []
    assert selected(row, "valley") == selected(row, "mixture") == [19]


@pytest.mark.parametrize("rule", BY_LAYER[1:])
def test_zeros_are_left_out(rule):
    """Dead filters change nothing for the others, and are never selected."""
    row = np.exp(np.r_[0.3 * NORMAL, 4.0, 4.2])
    assert selected(row, rule) == [64, 65]
    assert selected(np.r_[np.zeros(300), row], rule) == [364, 365]


def test_the_highest_of_each_layer():
    scores = {"a": np.array([0.5, 0.9, 0.9, 0.1]), "b": np.array([0.0, 2.0]), "unscored": np.zeros(1)}
    found = select(scores, ThresholdConfig("number", number=2))
    assert {name: rows.tolist() for name, rows in found.selected.items()} == {"a": [1, 2], "b": [0, 1], "unscored": []}
    assert found.thresholds == {"a": 0.5, "b": -np.inf, "unscored": np.inf}
    assert select(scores, ThresholdConfig("number", number=0)).selected["a"].tolist() == []
    with pytest.raises(ConfigError, match="number 3 for layer b: it has 2 filters"):
        select(scores, ThresholdConfig("number", number=3))


def test_a_number_for_each_layer():
    scores = {"a": np.array([0.5, 0.9, 0.1]), "b": np.zeros(2)}
    found = select(scores, {"a": 1, "b": 1}).selected
    assert (found["a"].tolist(), found["b"].tolist()) == ([1], [0])
    assert select(scores, {"a": 3}).selected["b"].tolist() == []
    with pytest.raises(ConfigError, match=r"layers \['c'\]: there are scores for layers \['a', 'b'\]"):
        select(scores, {"c": 1})
    with pytest.raises(ConfigError, match="number -1 for layer a"):
        select(scores, {"a": -1})


LOGS = st.lists(st.integers(-40, 40), min_size=2, max_size=40)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(LOGS, st.floats(-60, 60), st.sampled_from([*BY_LAYER, "number"]))
def test_rescaled_scores_give_the_same_answer(logs, shift, rule):
    row = np.exp(np.asarray(logs) / 7)
    options = {"number": 2} if rule == "number" else {}
    assert selected(row * np.exp(shift), rule, **options) == selected(row, rule, **options)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(LOGS, st.integers(0, 5), st.floats(-60, 60))
def test_standardised_scores(logs, zeros, shift):
    """Rescaling changes nothing, order stays, the median is 0, zeros lie below everything."""
    row = np.r_[np.zeros(zeros), np.exp(np.asarray(logs) / 7)]
    found = standardize(row)
    np.testing.assert_allclose(standardize(row * np.exp(shift)), found, atol=1e-9)
    assert np.isneginf(found[:zeros]).all()
    assert np.median(found[zeros:]) == pytest.approx(0, abs=1e-9)
    assert (np.diff(found[np.argsort(row)][zeros:]) >= -1e-12).all()


def test_standardised_scores_by_hand():
    np.testing.assert_allclose(
        standardize(np.exp([0.0, 1, 2, 3, 10])), [-2 / 1.4826, -1 / 1.4826, 0, 1 / 1.4826, 8 / 1.4826]
    )
    np.testing.assert_allclose(standardize(np.exp([0.0, 0, 0, 4])), [0, 0, 0, 4 / np.sqrt(np.pi / 2)], atol=1e-12)
    assert standardize(np.full(3, 0.2)).tolist() == [0, 0, 0]
    assert standardize(np.empty(0)).shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_scores_that_are_none(bad):
    with pytest.raises(
        DefenseError, match=r"score of filter 1 of layer bn1 is .*: expected a finite value of 0 or more"
    ):
        select({"bn1": np.array([1.0, bad])}, ThresholdConfig())


def test_a_budget_is_not_a_layer_s():
    with pytest.raises(ConfigError, match="use prune_by_score"):
        select({"a": np.ones(3)}, ThresholdConfig("budget"))


@pytest.mark.parametrize(
    "options",
    [
        {"rule": "median"}, {"rule": "number"}, {"rule": "std", "number": 3}, {"rule": "number", "number": -1},
        {"u": 0.0}, {"u": float("nan")}, {"accuracy_budget": 1.5}, {"accuracy_budget": -0.1},
    ],
)  # fmt: skip
def test_impossible_settings(options):
    with pytest.raises(ConfigError):
        ThresholdConfig(**options)
