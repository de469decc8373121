"""How many candidates a budget of accuracy allows, on a network whose every answer can be counted."""

from dataclasses import replace

import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.defenses.result import Candidates, choose_within, prune
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import predict
from rnp_jax.types import Batch


def first_layer(features) -> Candidates:
    """Its units, by how little the network would miss them."""
    weight = np.abs(np.asarray(features.variables["params"]["2"]["kernel"])).sum(1)
    order = np.argsort(weight)
    return Candidates(order, weight[order], np.full(len(order), np.nan))


@pytest.mark.parametrize("budget", [0.0, 0.1, 0.5, 1.0])
def test_one_more_would_cost_too_much(features, budget):
    candidates = first_layer(features)
    choice = choose_within(features.network, features.variables, candidates, features.holdout, budget, "lightest first")
    accuracies = [
        (
            predict(features.network, prune(features.variables, candidates, n), features.holdout).labels[0]
            == features.holdout.labels
        ).mean()
        for n in range(len(candidates.order) + 1)
    ]
    allowed = [n for n, accuracy in enumerate(accuracies) if accuracy >= accuracies[0] - budget - 1e-9]
    assert choice.pruned == allowed[-1]
    assert choice.holdout_acc_after is not None
    assert choice.holdout_acc_after.value == pytest.approx(accuracies[choice.pruned])
    assert choice.rule.startswith("as many filters as possible, lightest first, while accuracy falls by at most")


def test_nothing_to_choose_by(features):
    empty = Batch(features.holdout.images[:0], features.holdout.labels[:0])
    for holdout in (None, empty):
        with pytest.raises(ConfigError, match="hold some out"):
            choose_within(features.network, features.variables, first_layer(features), holdout, 0.1, "any")


def test_pruning_replaces_every_filter_mask(features):
    candidates = first_layer(features)
    once = prune(features.variables, candidates, 3)
    row = masks.flatten(masks.filters(once["masks"]))
    assert np.flatnonzero(row == 0).tolist() == sorted(candidates.order[:3])
    again = prune(once, replace(candidates, order=candidates.order[::-1]), 2)
    row = masks.flatten(masks.filters(again["masks"]))
    assert np.flatnonzero(row == 0).tolist() == sorted(candidates.order[-2:])
