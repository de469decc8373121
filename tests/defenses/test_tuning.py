"""What tuning starts from and returns; the defenses' own tests tune."""

import jax
import numpy as np
import pytest

from rnp_jax.defenses import RnpConfig, UnlearnConfig, unlearn
from rnp_jax.defenses.tuning import begin, check_rnp, conclude, unpruned
from rnp_jax.errors import ConfigError
from rnp_jax.types import Batch

KEY = jax.random.key(0)


def test_settings_of_rnp_that_nothing_reads_are_refused():
    check_rnp(used=True, config=RnpConfig(UnlearnConfig(max_epochs=3)))
    check_rnp(used=False, config=RnpConfig())
    with pytest.raises(ConfigError, match="nothing starts from it"):
        check_rnp(used=False, config=RnpConfig(UnlearnConfig(max_epochs=3)))


def test_the_original_is_the_network_as_it_came(features):
    begun = begin(
        "original", features.network, features.variables, features.data, KEY, RnpConfig(), holdout=None, augment=None,
        progress=None,
    )  # fmt: skip
    assert (begun.kind, begun.choice.count, len(begun.candidates.order), begun.values) == ("weights", 0, 0, {})
    for found, given in zip(
        jax.tree.leaves(begun.variables["params"]), jax.tree.leaves(features.variables["params"]), strict=True
    ):
        np.testing.assert_array_equal(found, given)


def test_the_unlearned_network_has_lost_the_clean_task_and_no_filter(features):
    settings = RnpConfig(UnlearnConfig(max_epochs=20, batch_size=16, learning_rate=0.03, stop_accuracy=0.4))
    begun = begin(
        "unlearned", features.network, features.variables, features.data, KEY, settings, holdout=None, augment=None,
        progress=None,
    )  # fmt: skip
    expected = unlearn(features.network, features.variables, features.data, KEY, settings.unlearn)
    assert (begun.kind, begun.choice.count, list(begun.timing)) == ("weights", 0, ["unlearn"])
    assert begun.history["unlearn"]["accuracy"][-1] <= 0.4
    for found, wanted in zip(
        jax.tree.leaves(begun.variables["params"]), jax.tree.leaves(expected.variables["params"]), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


def test_a_costly_tuning_is_a_warning_and_a_harmless_one_is_not(features):
    network, variables, holdout = features.network, features.variables, features.holdout
    begun = unpruned(network, variables)
    same = conclude(network, variables, begun, variables, holdout, {}, {"finetune": 1.0})
    assert (same.warnings, same.timing) == ((), {"finetune": 1.0})
    assert same.choice.before == same.choice.after
    ruined = {**variables, "params": jax.tree.map(lambda leaf: leaf * 0, variables["params"])}
    result = conclude(network, variables, begun, ruined, holdout, {}, {})
    assert result.choice.before is not None
    assert result.choice.after is not None
    assert result.choice.after.value < result.choice.before.value
    (warning,) = result.warnings
    assert f"to {result.choice.after.value:.1%}" in warning


@pytest.mark.parametrize("holdout", [None, Batch(np.zeros((0, 4, 4, 3), np.uint8), np.zeros(0, np.int32))])
def test_without_held_out_images_nothing_is_measured(features, holdout):
    begun = unpruned(features.network, features.variables)
    result = conclude(features.network, features.variables, begun, features.variables, holdout, {}, {})
    assert (result.choice.before, result.choice.after, result.warnings) == (None, None, ())
