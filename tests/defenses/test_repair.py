"""Repair after pruning: how many filters go, that they stay away, and what the choice says."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.defenses.distil import DistilConfig
from rnp_jax.defenses.method import Task
from rnp_jax.defenses.prune import PruneConfig
from rnp_jax.defenses.recover import RecoverConfig
from rnp_jax.defenses.repair import RepairConfig, repair
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig, run_rnp
from rnp_jax.defenses.tuning import begin
from rnp_jax.defenses.unlearn import UnlearnConfig
from rnp_jax.errors import ConfigError

KEY = jax.random.key(0)
RNP = RnpConfig(
    UnlearnConfig(max_epochs=60, batch_size=16, learning_rate=0.02, stop_accuracy=0.5),
    RecoverConfig(epochs=10, batch_size=16),
    PruneConfig(number=3),
)
CONFIG = RepairConfig(past=2.0, distil=DistilConfig(epochs=3, batch_size=16))


def start(features) -> Task:
    return Task(features.network, features.variables, features.data, KEY, features.holdout)


def flat(defended: Defended) -> np.ndarray:
    return masks.flatten(masks.filters(defended.variables["masks"]))


def test_more_filters_go_in_the_same_order_and_stay_at_zero(features):
    task = start(features)
    begun = run_rnp(task, RNP)
    found = repair(task, begun, CONFIG, KEY)
    assert np.flatnonzero(flat(found) == 0).tolist() == sorted(begun.candidates.order[:6])
    assert (begun.choice.pruned, found.choice.pruned) == (3, 6)
    assert "3 filters. Then 6 in all, in the same order, held at zero" in found.choice.rule
    assert list(task.history)[-1] == "distil"
    assert "distil" in task.timing
    assert found.choice.holdout_acc_after is not None
    baked = masks.bake(found.variables, features.network.placement)
    rows = masks.unflatten(flat(found), masks.filters(baked["masks"]))
    for layer, row in rows.items():
        np.testing.assert_array_equal(np.abs(baked["params"][layer]["kernel"]).sum(0)[row == 0], 0)


def test_no_more_than_the_candidates_can_go(features):
    task = start(features)
    begun = run_rnp(task, RNP)
    found = repair(task, begun, replace(CONFIG, past=1e6), KEY)
    assert found.choice.pruned == len(begun.candidates.order)


def test_a_network_of_which_nothing_was_chosen_is_distilled_whole(features):
    task = start(features)
    found = repair(task, begin("original", task, RnpConfig()), CONFIG, KEY)
    assert (found.kind, found.choice.pruned) == ("weights", 0)
    assert (flat(found) == 1).all()
    assert not jax.tree.all(jax.tree.map(np.array_equal, found.variables["params"], features.variables["params"]))


def test_impossible_settings():
    with pytest.raises(ConfigError, match=r"past is 0\.5"):
        RepairConfig(past=0.5)
