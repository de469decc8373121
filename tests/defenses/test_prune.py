"""Which filters are pruned, and how many: rankings and choices whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.defenses.prune import THRESHOLDS, PruneConfig, choose, measure_damage, rank
from rnp_jax.defenses.result import Candidates, prune, tolerate
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import predict
from rnp_jax.types import Batch

RECOVERED = {
    "bn1": np.array([0.0, 0.4, 0.0, 1.0], np.float32),
    "layer2.0.bn1": np.array([0.42, 0.90004, 0.90006], np.float32),
    "layer10.0.bn1": np.array([0.0], np.float32),
}
DAMAGE = np.array([3.0, 1.0, 2.0, np.nan, 0.5, 9.0, np.nan, -1.0])
PATH = np.array([[0.5, 0.9, 0.1, 1, 0.8, 1, 1, 0.3], [0.0, 0.4, 0.0, 1, 0.42, 0.9, 0.9, 0.0]])


@pytest.mark.parametrize(
    ("ranking", "order"),
    [
        ("release", [0, 2, 7, 1, 4, 5]),  # by value; ties in the network's order
        ("damage", [7, 2, 0, 1, 4, 5]),  # 0.4 lies in the step up to 0.40, 0.42 in the one up to 0.45
        ("path", [2, 7, 0, 4, 1, 5]),  # lowest mean over the epochs first, whatever the last value
    ],
)
def test_rankings_of_hand_made_scores(ranking, order):
    candidates = rank(ranking, RECOVERED, PATH, DAMAGE)
    assert candidates.order.tolist() == order
    np.testing.assert_array_equal(candidates.values, masks.flatten(RECOVERED)[order])
    np.testing.assert_array_equal(candidates.damage, DAMAGE[order])


def test_damage_orders_within_a_step_only():
    """0.41 and 0.44 share the step up to 0.45: the harmless one goes first, though its mask is higher."""
    recovered = {"bn1": np.array([0.41, 0.44, 0.39], np.float32)}
    candidates = rank("damage", recovered, np.zeros((1, 3)), np.array([5.0, 1.0, 9.0]))
    assert candidates.order.tolist() == [2, 1, 0]
    assert rank("release", recovered, np.zeros((1, 3))).order.tolist() == [2, 0, 1]


def test_unmeasured_damage():
    assert np.isnan(rank("release", RECOVERED, PATH).damage).all()
    with pytest.raises(ConfigError, match="'damage' needs the measured damage"):
        rank("damage", RECOVERED, PATH)


def test_thresholds_are_the_release_s():
    np.testing.assert_allclose(THRESHOLDS, 0.05 * np.arange(19), atol=1e-12)


@pytest.mark.parametrize(
    ("threshold", "count"),
    [(0.0, 3), (0.39, 3), (0.4, 4), (0.41, 4), (0.42, 5), (0.9, 6), (THRESHOLDS[18], 6), (1.0, 6)],
)
def test_counts_at_a_threshold_include_equality_after_four_decimals(threshold, count):
    for ranking in ("release", "damage", "path"):
        assert rank(ranking, RECOVERED, PATH, DAMAGE).count_at(threshold) == count


def test_pruning_zeroes_the_first_candidates_and_keeps_all_others(features):
    like = masks.filters(features.variables["masks"])
    half = masks.apply_filters(features.variables, {name: mask * 0.5 for name, mask in like.items()})
    candidates = Candidates(np.array([20, 3, 5]), np.zeros(3), np.zeros(3))
    pruned = prune(half, candidates, 2)
    row = masks.flatten(masks.filters(pruned["masks"]))
    assert np.flatnonzero(row == 0).tolist() == [3, 20]
    assert set(row.tolist()) == {0, 1}
    assert pruned["params"] is half["params"]


def test_damage_is_the_rise_of_the_loss_of_each_exposed_filter_alone(features):
    like = masks.filters(features.variables["masks"])
    row, exposed = np.full(24, 0.91, np.float32), list(range(0, 24, 2))
    row[exposed] = np.linspace(0, 0.9, 12)
    damage = measure_damage(features.network, features.variables, masks.unflatten(row, like), features.data)
    assert np.flatnonzero(~np.isnan(damage)).tolist() == exposed
    whole = predict(features.network, features.variables, features.data).loss.mean()
    for position in exposed:
        alone = masks.apply_filters(features.variables, masks.keep(like, [position]))
        expected = predict(features.network, alone, features.data).loss.mean() - whole
        assert damage[position] == pytest.approx(expected, abs=1e-6)
    assert np.unique(damage[exposed]).size > 3


def every_filter(features) -> Candidates:
    order = np.random.default_rng(3).permutation(24)
    return Candidates(order, np.linspace(0, 0.9, 24), np.full(24, np.nan))


def accuracies(features, candidates: Candidates) -> np.ndarray:
    """Accuracy on the held-out images at every number of pruned filters."""
    rows = [prune(features.variables, candidates, count) for count in range(25)]
    return np.array(
        [(predict(features.network, row, features.holdout).labels[0] == features.holdout.labels).mean() for row in rows]
    )


@pytest.mark.parametrize("budget", [0.0, 0.03, 0.3, 0.65, 1.0])
def test_the_most_filters_within_the_budget(features, budget):
    """With 24 candidates every number is looked at, but for one: the known answer is the last within the budget."""
    candidates = every_filter(features)
    curve = accuracies(features, candidates)
    choice = choose(
        features.network, features.variables, candidates, features.holdout, PruneConfig(accuracy_budget=budget)
    )
    expected = int(np.flatnonzero(curve >= curve[0] - budget - 1e-9)[-1])
    assert choice.pruned == expected
    assert choice.holdout_acc_before is not None
    assert choice.holdout_acc_after is not None
    assert choice.holdout_acc_before.value == pytest.approx(curve[0])
    assert choice.holdout_acc_after.value == pytest.approx(curve[expected])
    assert f"{budget:.1%} of the 60 held-out" in choice.rule
    assert (choice.ranking, choice.threshold, choice.budget) == ("path", None, budget)


def test_the_curve_has_something_to_choose(features):
    """Else the test above could not fail."""
    curve = accuracies(features, every_filter(features))
    assert curve[0] > 0.95
    assert curve[-1] < 0.5
    assert len(np.unique(curve)) > 3


def test_classes_are_spared_where_the_settings_say_so(features):
    """Three classes of 20: none may lose more than the budget explains, so fewer filters go than accuracy allows."""
    candidates, labels = every_filter(features), np.asarray(features.holdout.labels)
    plain, sparing = (
        choose(features.network, features.variables, candidates, features.holdout, config)
        for config in (PruneConfig(accuracy_budget=0.4), PruneConfig(accuracy_budget=0.4, spare_classes=True))
    )

    def lost(pruned: int) -> np.ndarray:
        found = predict(features.network, prune(features.variables, candidates, pruned), features.holdout).labels[0]
        whole = predict(features.network, features.variables, features.holdout).labels[0]
        return np.bincount(labels, (whole == labels).astype(float) - (found == labels), minlength=3)

    most = tolerate(np.full(3, 20), 0.4)
    assert (lost(plain.pruned) > most).any()
    assert (lost(sparing.pruned) <= most).all()
    assert 0 < sparing.pruned < plain.pruned


def test_a_number_or_a_threshold_needs_no_images(features):
    candidates = every_filter(features)
    config = PruneConfig()
    by_number = choose(features.network, features.variables, candidates, None, replace(config, number=7))
    assert (by_number.pruned, by_number.rule, by_number.holdout_acc_before) == (7, "7 filters, as requested", None)
    assert (by_number.ranking, by_number.threshold, by_number.budget) == ("path", None, None)
    by_threshold = choose(
        features.network, features.variables, candidates, None, replace(config, ranking="release", threshold=0.45)
    )
    assert by_threshold.pruned == 12
    assert "mask of 0.45 or less" in by_threshold.rule
    assert (by_threshold.ranking, by_threshold.threshold, by_threshold.budget) == ("release", 0.45, None)
    assert choose(features.network, features.variables, candidates, None, replace(config, number=0)).pruned == 0
    assert (
        choose(
            features.network, features.variables, candidates, None, replace(config, ranking="release", threshold=0.0)
        ).pruned
        == 1
    )


def test_the_release_s_rule_looks_at_no_class(features):
    candidates, release = every_filter(features), PruneConfig("release", threshold=0.3)
    plain, sparing = (
        choose(features.network, features.variables, candidates, features.holdout, config)
        for config in (release, replace(release, spare_classes=True))
    )
    assert plain == sparing
    assert PruneConfig() == PruneConfig("path", 0.03, spare_classes=False)


def test_too_many_filters_and_nothing_to_choose_by(features):
    candidates = every_filter(features)
    empty = Batch(features.holdout.images[:0], features.holdout.labels[:0])
    with pytest.raises(ConfigError, match="number 25: only 24 filters"):
        choose(features.network, features.variables, candidates, None, PruneConfig(number=25))
    for holdout in (None, empty):
        with pytest.raises(ConfigError, match="no held-out images"):
            choose(features.network, features.variables, candidates, holdout, PruneConfig())


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.5, "number": 3}, {"threshold": 1.5}, {"threshold": -0.1}, {"threshold": float("nan")},
        {"number": -1}, {"accuracy_budget": 2.0}, {"accuracy_budget": -0.01},
    ],
)  # fmt: skip
def test_impossible_settings(options):
    with pytest.raises(ConfigError):
        PruneConfig(**options)
