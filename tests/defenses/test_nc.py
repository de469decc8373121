"""NC-unlearning on a network whose backdoor is known by construction, and on one without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.defenses.distil import DistilConfig
from rnp_jax.defenses.nc import NcConfig, nc
from rnp_jax.errors import DataError
from rnp_jax.inversion import InversionConfig, WarpConfig, measure_stamps
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Variables
from tests.inversion.planted import CLASSES, PIXEL, SIDE, TARGET, rows_data, rows_variables

KEY = jax.random.key(4)
NETWORK = Network(Architecture("mlp", CLASSES, 0, (("0", CLASSES),), (SIDE, SIDE, 3)))
CONFIG = NcConfig(
    inversion=InversionConfig(batch_size=16),
    warp=WarpConfig(works=1.0, ahead=1e9),  # a row that is moved by a pixel is another class here
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


def test_features_carry_no_trigger(features):
    with pytest.raises(DataError, match="expected uint8"):
        nc(features.network, features.variables, features.data, KEY, CONFIG)
