"""How many candidates a budget of accuracy allows, on networks whose every answer can be counted."""

from dataclasses import replace
from math import comb
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.defenses.result import Candidates, choose_within, prune, tolerate
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
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


@pytest.fixture(scope="module")
def paired() -> SimpleNamespace:
    """Ten classes, an input each. Two units carry each class, but for class 3: it hangs on unit 3 alone."""
    units = [*range(10), *(label for label in range(10) if label != 3)]
    network = Network(Architecture("mlp", 10, 0, (("0", 19), ("2", 10)), (1, 1, 10)), (0.0,) * 10, (1.0,) * 10)
    variables = network.init(jax.random.key(0))
    carry = np.eye(10, dtype=np.float32)[:, units]
    kernels = {"0": carry, "2": carry.T}
    params = {name: {"kernel": kernels[name], "bias": np.zeros(kernels[name].shape[1], np.float32)} for name in kernels}
    labels = np.arange(100, dtype=np.int32) % 10
    holdout = Batch(np.eye(10, dtype=np.float32)[labels].reshape(100, 1, 1, 10), labels)
    order = np.array([10, 11, 12, 3, 13])  # three that nothing hangs on, class 3's only one, another spare one
    candidates = Candidates(order, np.zeros(5), np.full(5, np.nan))
    return SimpleNamespace(
        network=network, variables={**variables, "params": params}, holdout=holdout, candidates=candidates
    )


@pytest.mark.parametrize(("spare_classes", "pruned"), [(False, 5), (True, 3)])
def test_a_class_that_hangs_on_one_filter_is_spared_where_classes_count(paired, spare_classes, pruned):
    """A tenth of all images is within the budget, and is one whole class."""
    choice = choose_within(
        paired.network,
        paired.variables,
        paired.candidates,
        paired.holdout,
        0.1,
        "any",
        spare_classes=spare_classes,
    )
    assert choice.pruned == pruned
    assert choice.holdout_acc_after is not None
    assert choice.holdout_acc_after.count == (100 if spare_classes else 90)
    assert ("no class loses more than chance explains" in choice.rule) == spare_classes
    assert ("; class 3 loses most, 10 of its 10; " in choice.rule) != spare_classes
    assert choice.holdout_acc_lost is not None
    assert choice.holdout_acc_lost.value == pytest.approx(0.0 if spare_classes else 0.1)
    assert choice.rule.endswith(f"; it fell by {choice.holdout_acc_lost}")


@pytest.mark.parametrize("budget", [0.0, 0.03, 0.3, 1.0])
def test_a_class_may_lose_what_the_budget_makes_likely(budget):
    """Counted by hand: one more image has a chance of at most 5 % over the number of classes, and no fewer has."""
    sizes = np.array([1, 4, 10, 50])

    def exceeds(most: int, size: int) -> float:
        return sum(comb(size, k) * budget**k * (1 - budget) ** (size - k) for k in range(most + 1, size + 1))

    for most, size in zip(tolerate(sizes, budget), sizes.tolist(), strict=True):
        assert exceeds(int(most), size) <= 0.05 / 4
        assert most == 0 or exceeds(int(most) - 1, size) > 0.05 / 4
    assert tolerate(np.full(10, 50), 0.03).tolist() == [5] * 10
