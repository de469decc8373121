"""Automatic removal on networks whose backdoor is known by construction, and on networks without one."""

import re
from dataclasses import replace
from importlib import import_module

import jax
import numpy as np
import pytest

from rnp_jax.defenses.auto import AutoConfig, auto
from rnp_jax.defenses.distil import DistilConfig
from rnp_jax.defenses.prune import PruneConfig
from rnp_jax.defenses.recover import RecoverConfig
from rnp_jax.defenses.repair import RepairConfig
from rnp_jax.defenses.rnp import RnpConfig
from rnp_jax.defenses.unlearn import UnlearnConfig
from rnp_jax.errors import ConfigError
from rnp_jax.inversion import PatchConfig, ShiftConfig, measure_stamps
from rnp_jax.models import Architecture, Network
from tests.defenses import test_nc as planting
from tests.inversion.planted import CLASSES, SIDE, TARGET, rows_data

KEY = jax.random.key(4)
RNP = RnpConfig(
    UnlearnConfig(max_epochs=20, batch_size=16, learning_rate=0.03, stop_accuracy=0.4),
    RecoverConfig(epochs=10, batch_size=16, learning_rate=5.0),
    PruneConfig(accuracy_budget=1.0),
)
CONFIG = AutoConfig(
    planting.CONFIG.inversion,
    planting.CONFIG,
    RNP,
    RepairConfig(distil=DistilConfig(epochs=1, batch_size=16)),
    DistilConfig(epochs=1, batch_size=16, corrupted=0.5),
    interpolate=0.0,
)
HELD = rows_data(60, seed=9)


def test_a_trigger_that_is_found_is_unlearned_and_looked_for_again():
    variables = planting.planted()
    found = auto(planting.NETWORK, variables, rows_data(), KEY, CONFIG, holdout=HELD)
    label = np.array([TARGET])
    assert measure_stamps(planting.NETWORK, found.variables, HELD, *planting.true_trigger(), label)[0] < 0.2
    assert (found.kind, found.choice.pruned, found.warnings) == ("weights", 0, ())
    assert list(found.timing) == ["invert", "distil", "corrupt", "check"]
    assert "New searches then found no plain patch or warp that reaches these labels" in found.choice.rule


def test_only_the_first_outcome_steps_back():
    """All the way back is the suspicious network, which new searches speak against; the next round takes no step."""
    config = replace(CONFIG, interpolate=1.0)
    found = auto(planting.NETWORK, planting.planted(), rows_data(), KEY, config, holdout=HELD)
    label = np.array([TARGET])
    assert measure_stamps(planting.NETWORK, found.variables, HELD, *planting.true_trigger(), label)[0] < 0.2
    assert (found.kind, found.choice.pruned, found.warnings) == ("weights", 0, ())


def test_a_head_of_which_clean_images_can_spare_nothing_is_left_alone(features):
    config = replace(CONFIG, spare=1.0)
    found = auto(features.network, features.variables, features.data, KEY, config, holdout=features.holdout)
    assert jax.tree.all(jax.tree.map(np.array_equal, found.variables, features.variables))
    assert (found.kind, found.choice.pruned, found.unchanged) == ("weights", 0, True)
    assert found.warnings == ("Nothing was found, so nothing was removed. That is no proof that the network is clean.",)
    assert found.choice.rule.startswith("Features carry no trigger to search for. Of the filters that RNP exposed")
    assert found.choice.rule.endswith("Nothing speaks for a backdoor, and the network is unchanged.")


def test_a_head_that_can_spare_filters_is_pruned_past_the_budget_and_repaired(features):
    config = replace(CONFIG, spare=0.0)
    found = auto(features.network, features.variables, features.data, KEY, config, holdout=features.holdout)
    assert found.kind == "mask"
    assert found.choice.pruned > 0
    assert "held at zero while the network was distilled" in found.choice.rule
    assert list(found.timing) == ["unlearn", "recover", "rank", "choose", "distil"]


MLP = Network(Architecture("mlp", CLASSES, 0, (("0", 16), ("2", CLASSES)), (SIDE, SIDE, 3)))
NOTHING = replace(
    CONFIG,
    nc=replace(CONFIG.nc, suspicious=1e9, clear=0.0, all_to_all=0.0, patches=PatchConfig(works=1.0, ahead=1e9)),
)


def test_a_network_of_which_nothing_stands_out_is_distilled_under_corruptions_if_filters_can_be_spared():
    variables = MLP.init(jax.random.key(1))  # with which no class takes all images
    config = replace(NOTHING, spare=0.0, shift=ShiftConfig(success=1.0, suspicious=1e9))
    found = auto(MLP, variables, rows_data(), KEY, config, holdout=HELD)
    assert (found.kind, found.choice.pruned, found.unchanged) == ("weights", 0, False)
    assert found.choice.rule.startswith("No label stands out")
    assert "The network was distilled under random corruptions of the images, and no filter was pruned." in (
        found.choice.rule
    )
    assert list(found.timing)[:3] == ["invert", "corrupt", "shift"]
    assert not jax.tree.all(jax.tree.map(np.array_equal, found.variables["params"], variables["params"]))


def test_a_label_that_stands_out_by_its_feature_shift_asks_for_corruptions_whatever_can_be_spared():
    config = replace(NOTHING, spare=1.0, shift=ShiftConfig(suspicious=1e-6, margin=1.0))
    found = auto(MLP, MLP.init(KEY), rows_data(), KEY, config, holdout=HELD)
    assert (found.kind, found.unchanged) == ("weights", False)
    assert re.search(r"The feature shift .* stands out, .*, for label \d \(0\.\d\d\)", found.choice.rule)
    assert list(found.timing) == ["invert", "corrupt", "shift"]


@pytest.mark.parametrize(
    ("learning_rate", "precaution", "costs"),
    [(1e-6, 0.01, r"no accuracy"), (1e3, 0.01, None), (1e3, 1.0, r"\d+\.\d% of the accuracy")],
)
def test_where_nothing_speaks_for_a_backdoor_a_precaution_is_kept_if_it_costs_next_to_nothing(
    learning_rate: float, precaution: float, costs: str | None
):
    variables = MLP.init(jax.random.key(1))
    answers = np.asarray(MLP(variables, HELD.images)[0].argmax(-1), np.int32)
    blind = replace(NOTHING.blind, learning_rate=learning_rate, clip=1e6)
    shift = ShiftConfig(success=1.0, suspicious=1e9)
    config = replace(NOTHING, blind=blind, spare=1.0, precaution=precaution, shift=shift)
    found = auto(MLP, variables, rows_data(), KEY, config, holdout=HELD._replace(labels=answers))
    kept = costs is not None
    assert found.unchanged is not kept
    said = re.search(r"What follows is a precaution that costs (.*) on held-out images\.", found.choice.rule)
    assert re.fullmatch(costs, said[1]) if costs and said else not said
    assert (said is not None) is kept
    assert ("corrupt" in found.history) is kept
    assert jax.tree.all(jax.tree.map(np.array_equal, found.variables["params"], variables["params"])) is not kept
    assert any("so nothing was removed" in each for each in found.warnings) is not kept


@pytest.fixture
def weak(monkeypatch) -> list[int]:
    """Distillation that removes nothing; the number of triggers that each call was given."""
    module, given = import_module("rnp_jax.defenses.auto"), []

    def leave(task, begun, *_, stamps, **__):
        given.append(len(stamps.masks))
        return replace(begun, variables=task.variables)

    monkeypatch.setattr(module, "repair", leave)
    monkeypatch.setattr(module, "_distil", leave)
    return given


def test_what_a_round_leaves_is_unlearned_in_the_next_one_and_pruned_in_the_end(weak):
    config = replace(CONFIG, nc=replace(CONFIG.nc, suspicious=1e-6, margin=1.0), small=1.0, spare=1.0, rounds=3)
    found = auto(MLP, MLP.init(KEY), rows_data(), KEY, config, holdout=HELD)
    first, second, third, last = weak
    assert first < second < third < last, "each round knows more triggers, and so does repair"
    assert "Flagged by the size" in found.choice.rule
    dropped, left = (warning for warning in found.warnings if "A new trigger of" in warning)
    assert dropped.startswith("Distillation from the recovered triggers was dropped: A new trigger of")
    assert left.startswith("Pruning and repair did not remove what was found: A new trigger of")
    assert (found.kind, found.unchanged) == ("mask", False)


@pytest.mark.parametrize(
    "change",
    [{"spare": 1.5}, {"spare": -0.1}, {"small": 2.0}, {"rounds": 0}, {"precaution": 1.5}, {"interpolate": 1.1}],
)
def test_impossible_settings(change: dict):
    with pytest.raises(ConfigError):
        AutoConfig(**change)
