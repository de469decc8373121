"""Scores on their way to the filters, and to a pruned network."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict
from rnp_jax.defenses.method import Task
from rnp_jax.defenses.scores import (
    chooses_by_score,
    count_pruned,
    prune_by_score,
    prune_by_site_scores,
    scores_by_filter,
)
from rnp_jax.defenses.thresholds import ThresholdConfig
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network, Placement
from rnp_jax.types import Variables
from tests.networks import build_random, network_of, state_of

SCORES = {
    "0": np.r_[np.linspace(1, 2, 15), 50.0].astype(np.float32),
    "2": np.array([0, 1.0, 1.1, 300.0, 1.2, 1.3, 1.4, 400.0], np.float32),
}
MAD = ThresholdConfig("mad")


def random_network(name: str, placement: Placement) -> tuple[Network, Variables]:
    network = network_of(name, placement)
    return network, from_state_dict(network, state_of(build_random(name)))


def site_scores(network: Network, variables) -> dict[str, np.ndarray]:
    """Scores at every site of the network: the site's number, and behind the point its filter's."""
    sizes = {
        layer: len(leaves["neuron"])
        for layer, leaves in masks.layers(variables["masks"])
        if layer in {site.layer for site in network.sites}
    }
    return {site.layer: i + np.arange(sizes[site.layer]) / 100 for i, site in enumerate(network.sites)}


@pytest.mark.parametrize(
    ("name", "placement"), [("preactresnet18", "bn_scale"), ("resnet18", "channel"), ("mlp", "unit")]
)
def test_scores_stay_where_masks_live_at_the_sites(name, placement):
    network, variables = random_network(name, placement)
    scores = site_scores(network, variables)
    found = scores_by_filter(network, variables, scores)
    assert set(found) == set(scores)
    for layer, row in scores.items():
        np.testing.assert_array_equal(found[layer], row)


def test_a_convolution_has_the_highest_score_of_the_sites_it_feeds():
    network, variables = random_network("preactresnet18", "conv_output")
    scores = site_scores(network, variables)
    found = scores_by_filter(network, variables, scores)
    assert set(found) == set(masks.filters(variables["masks"]))
    np.testing.assert_array_equal(found["layer1.0.conv1"], scores["layer1.0.bn2"])  # feeds that one alone
    np.testing.assert_array_equal(found["conv1"], scores["layer2.0.bn1"])  # through two blocks' identity shortcuts
    np.testing.assert_array_equal(found["layer2.0.shortcut.0"], scores["layer3.0.bn1"])
    assert not found["layer4.1.conv2"].any()  # nothing normalises what it adds to


def test_scores_that_do_not_fit_the_network():
    network, variables = random_network("mlp", "unit")
    with pytest.raises(DefenseError, match=r"layers \['4'\]: expected sites of the network, 0, 2"):
        scores_by_filter(network, variables, {"4": np.ones(5)})
    with pytest.raises(DefenseError, match=r"shape \(3,\) for layer 0: expected \(7,\)"):
        scores_by_filter(network, variables, {"0": np.ones(3)})
    assert not scores_by_filter(network, variables, {"0": np.ones(7)})["2"].any()
    with pytest.raises(DefenseError, match=r"\+ \['0 \(3,\)'\] - \['0 \(7,\)', '2 \(6,\)'\]"):
        prune_by_score(network, variables, {"0": np.ones(3)}, MAD)


def run(features: SimpleNamespace, config, scores=SCORES, **options):
    return prune_by_score(features.network, features.variables, scores, config, **options)


def pruned_rows(result) -> list[int]:
    return np.flatnonzero(masks.flatten(masks.filters(result.variables["masks"])) == 0).tolist()


def test_selected_filters_come_first_and_are_pruned(features):
    result = run(features, MAD)
    assert pruned_rows(result) == [15, 19, 23]
    assert (result.kind, result.choice.pruned) == ("score", 3)
    assert result.candidates.order[:2].tolist() == [23, 19]  # of two layers, the further above its own first
    np.testing.assert_array_equal(result.candidates.values, masks.flatten(SCORES)[result.candidates.order])
    assert result.candidates.order[2] == 15
    assert "3 robust standard deviations" in result.choice.rule
    assert result.warnings == ()
    assert list(result.timing) == ["choose"]
    assert result.timing["choose"] > 0
    assert result.variables["params"] is features.variables["params"]


def test_every_filter_but_each_layer_s_last_is_a_candidate(features):
    order = run(features, MAD).candidates.order
    assert sorted(order) == [i for i in range(24) if i not in (0, 16)]
    values = masks.flatten(SCORES)
    for layer in (range(16), range(16, 24)):
        inside = [i for i in order if i in layer]
        assert (np.diff(values[inside]) <= 0).all()


def test_no_layer_is_lost(features):
    result = run(features, {"2": 8, "0": 1})
    assert pruned_rows(result) == [15, *range(17, 24)]
    assert result.warnings == ("Layer 2 would have lost every filter, so its lowest score was kept.",)
    assert "9 filters in all" in result.choice.rule
    one = Network(Architecture("mlp", 3, 0, (("0", 1), ("2", 3)), (1, 1, 6)), (0.0,) * 6, (1.0,) * 6)
    alone = prune_by_score(one, one.init(jax.random.key(0)), {"0": np.ones(1)}, ThresholdConfig("number", number=1))
    assert (alone.choice.pruned, len(alone.candidates.order), len(alone.warnings)) == (0, 0, 2)


def test_nothing_to_prune(features):
    result = run(features, MAD, {name: np.ones(len(row)) for name, row in SCORES.items()})
    assert (pruned_rows(result), result.choice.pruned) == ([], 0)
    assert result.warnings == ("Nothing was pruned: no filter met the rule.",)


def test_the_cost_is_measured_and_told(features):
    correct = [
        (predict(features.network, variables, features.holdout).labels[0] == features.holdout.labels).mean()
        for variables in (features.variables, run(features, {"0": 15}).variables)
    ]
    assert correct[0] - correct[1] > 0.05
    result = run(features, ThresholdConfig("number", number=7), holdout=features.holdout)
    heavy = run(features, {"0": 15}, holdout=features.holdout)
    assert heavy.choice.holdout_acc_before is not None
    assert heavy.choice.holdout_acc_after is not None
    measured = heavy.choice.holdout_acc_before.value, heavy.choice.holdout_acc_after.value
    assert measured == pytest.approx(tuple(correct))
    assert heavy.warnings == ()  # asked for, whatever it costs
    assert result.choice.holdout_acc_before is not None
    assert result.choice.holdout_acc_after is not None
    assert result.choice.holdout_acc_before.value - result.choice.holdout_acc_after.value > 0.05
    assert "more than the budget of 5.0%" in result.warnings[0]
    free = run(features, ThresholdConfig("number", number=7, accuracy_budget=1.0), holdout=features.holdout)
    assert free.warnings == ()


def test_a_budget_takes_the_most_suspicious_that_images_allow(features):
    config = ThresholdConfig("budget", accuracy_budget=0.1)
    result = run(features, config, holdout=features.holdout)
    assert result.candidates.order[:3].tolist() == [23, 19, 15]
    assert result.choice.holdout_acc_before is not None
    assert result.choice.holdout_acc_after is not None
    assert 0 < result.choice.pruned < 22
    assert result.choice.holdout_acc_before.value - result.choice.holdout_acc_after.value <= 0.1 + 1e-9
    assert result.choice.rule.startswith(
        "as many filters as possible, furthest above its layer first, while accuracy falls by at most 10.0%"
    )
    one_more = masks.keep(SCORES, result.candidates.order[: result.choice.pruned + 1])
    labels = predict(features.network, masks.apply_filters(features.variables, one_more), features.holdout).labels[0]
    assert (labels == features.holdout.labels).mean() < result.choice.holdout_acc_before.value - 0.1
    with pytest.raises(ConfigError, match="hold some out"):
        run(features, config)


def test_as_many_of_each_layer_as_another(features):
    other = run(features, MAD)
    assert count_pruned(other) == {"0": 1, "2": 2}
    backwards = {name: row.max() + 1 - row for name, row in SCORES.items()}
    result = run(features, count_pruned(other), backwards)
    assert count_pruned(result) == count_pruned(other)
    assert pruned_rows(result) == [0, 16, 17]


def test_site_scores_are_timed_moved_to_the_filters_and_pruned_by(features):
    task = Task(features.network, features.variables, features.data, jax.random.key(0), features.holdout)
    result = prune_by_site_scores(task, lambda: SCORES, MAD)
    expected = run(features, MAD, holdout=features.holdout)
    assert pruned_rows(result) == pruned_rows(expected) == [15, 19, 23]
    assert result.choice == expected.choice
    assert list(task.timing) == ["score"]
    with pytest.raises(DefenseError, match="expected sites of the network"):
        prune_by_site_scores(task, lambda: {"4": np.ones(3)}, MAD)


@pytest.mark.parametrize(("rule", "number"), [("mad", None), ("number", 3), ("budget", None)])
def test_only_a_budget_is_chosen_by_held_out_images(rule, number):
    found = chooses_by_score(ThresholdConfig(rule, number=number))
    assert (found.filters, found.by_holdout, found.number) == (True, rule == "budget", None)


def test_a_network_without_masks():
    network = Network(Architecture("mlp", 3, 0, (("fc", 3),), (1, 1, 6)), (0.0,) * 6, (1.0,) * 6)
    with pytest.raises(DefenseError, match="no maskable layer"):
        prune_by_score(network, network.init(jax.random.key(0)), {}, MAD)
