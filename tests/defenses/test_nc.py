"""NC-unlearning on a network whose backdoor is known by construction, and on one without."""

import re
from dataclasses import replace
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.defenses.distil import DistilConfig
from rnp_jax.defenses.nc import NcConfig, gather_stamps, nc, recover_triggers
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.inversion import InversionConfig, PatchConfig, measure_stamps
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Variables
from tests.inversion.planted import CLASSES, PIXEL, SIDE, TARGET, rows_data, rows_variables

KEY = jax.random.key(4)
NETWORK = Network(Architecture("mlp", CLASSES, 0, (("0", CLASSES),), (SIDE, SIDE, 3)))
CONFIG = NcConfig(
    inversion=InversionConfig(batch_size=16),
    distil=DistilConfig(epochs=150, batch_size=16, learning_rate=0.5, weight_decay=0.0, stamped=0.5, shift=0),
)
HELD = rows_data(60, seed=9)


def planted(strength: float = 40.0) -> Variables:
    params = rows_variables(strength)["params"]["fc"]
    masks = {"0": {"neuron": jnp.ones(CLASSES)}}
    return {"params": {"0": dict(params)}, "batch_stats": {}, "masks": masks}


def true_trigger() -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((1, SIDE, SIDE), np.float32)
    mask[(0, *PIXEL)] = 1
    return mask, np.ones((1, SIDE, SIDE, 3), np.float32)


def test_the_planted_trigger_is_flagged_and_unlearned():
    variables = planted()
    before = jax.tree.map(np.array, variables)
    found = nc(NETWORK, variables, rows_data(), KEY, CONFIG, holdout=HELD)
    label = np.array([TARGET])
    assert measure_stamps(NETWORK, variables, HELD, *true_trigger(), label)[0] == 1
    assert measure_stamps(NETWORK, found.variables, HELD, *true_trigger(), label)[0] < 0.2
    assert found.choice.holdout_acc_before is not None
    assert found.choice.holdout_acc_after is not None
    assert found.choice.holdout_acc_after.value > found.choice.holdout_acc_before.value - 0.05
    assert f"label {TARGET} (" in found.choice.rule
    assert "anomaly index" in found.choice.rule
    assert (found.kind, found.choice.pruned, list(found.history), found.warnings) == ("weights", 0, ["distil"], ())
    assert list(found.timing) == ["invert", "distil"]
    assert jax.tree.all(jax.tree.map(np.array_equal, before, variables))


def test_a_network_without_an_outlier_is_returned_as_it_came_with_a_warning():
    variables = planted(0.0)
    found = nc(NETWORK, variables, rows_data(), KEY, CONFIG, holdout=HELD)
    assert jax.tree.all(jax.tree.map(np.array_equal, found.variables, variables))
    (warning,) = found.warnings
    assert warning.startswith("No label stands out by its recovered trigger.")
    assert warning.endswith("The network is unchanged.")
    assert found.choice.rule == warning
    assert found.choice.holdout_acc_before == found.choice.holdout_acc_after
    assert (found.history, list(found.timing), found.unchanged) == ({}, ["invert"], True)


def test_every_flagged_label_gives_as_many_triggers_as_asked_for_and_its_patch():
    config = replace(CONFIG, starts=3)
    found = recover_triggers(NETWORK, planted(), rows_data(), KEY, config)
    assert found.labels == (TARGET,)
    assert "the median size over labels" in found.rule
    stamps = gather_stamps(NETWORK, planted(), rows_data(), KEY, config, found)
    works = found.patches.success[TARGET] >= config.patches.works
    assert works
    assert stamps.masks.shape == (4, SIDE, SIDE)
    assert len({mask.tobytes() for mask in stamps.masks}) == 4
    assert all(mask[PIXEL] == mask.max() for mask in stamps.masks)
    np.testing.assert_array_equal(stamps.masks[0], found.masks.stamps.masks[TARGET])
    np.testing.assert_array_equal(stamps.masks[3], found.patches.stamps.masks[TARGET])


def test_a_label_that_only_a_patch_reaches_is_flagged():
    """No mask is small enough for an anomaly index that none can have."""
    found = recover_triggers(NETWORK, planted(), rows_data(), KEY, replace(CONFIG, suspicious=1e9, clear=0.0))
    assert found.labels == (TARGET,)
    assert re.search(rf"label {TARGET} \(a plain \d×\d patch sends \d+% of the images there\)", found.rule)


def test_beside_a_clear_label_those_that_only_the_index_flags_are_noise(monkeypatch):
    """Which would dilute the triggers of the clear one."""
    module = import_module("rnp_jax.defenses.nc")
    search = module.invert

    def resize(*args, **options):
        found = search(*args, **options)
        return replace(found, sizes=np.array([20.0, 40, 4, 41, 9, 42]), reached=np.ones(CLASSES, np.bool_))

    monkeypatch.setattr(module, "invert", resize)
    config = replace(CONFIG, suspicious=0.1, patches=PatchConfig(works=1.0, ahead=1e9))
    assert recover_triggers(NETWORK, planted(), rows_data(), KEY, config).labels == (2,)
    assert recover_triggers(NETWORK, planted(), rows_data(), KEY, replace(config, clear=0.4)).labels == (2, 4)
    assert recover_triggers(NETWORK, planted(), rows_data(), KEY, replace(config, clear=0.0)).labels == (2, 4)


def test_features_carry_no_trigger(features):
    with pytest.raises(DataError, match="expected uint8"):
        nc(features.network, features.variables, features.data, KEY, CONFIG)


@pytest.mark.parametrize(
    "change", [{"suspicious": 0.0}, {"margin": 0.0}, {"margin": 1.5}, {"clear": -0.1}, {"starts": 0}]
)
def test_impossible_settings(change: dict):
    with pytest.raises(ConfigError, match="starts >= 1"):
        NcConfig(**change)
