"""Recovery against torch, step for step."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.defenses import RecoverConfig, recover
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.models import Architecture, Network
from tests.oracle.tiny import BATCH, RECOVER_EPOCHS

ORDERED = RecoverConfig(epochs=RECOVER_EPOCHS, batch_size=BATCH, shuffle=False)
KEY = jax.random.key(0)


def test_masks_losses_and_accuracies_are_torch_s(golden):
    """The first epoch's masks to 1e-3; training mode amplifies rounding from step to step."""
    run = golden.run
    result = recover(golden.network, golden.load(run.unlearned), golden.data, KEY, ORDERED)
    assert set(result.filters) == set(run.masks)
    for epoch, tolerance in enumerate((1e-3, 5e-3, 1e-2)):
        found = masks.unflatten(result.history["masks"][epoch], result.filters)
        for name, expected in run.masks.items():
            np.testing.assert_allclose(found[name], expected[epoch], rtol=0, atol=tolerance, err_msg=name)
    np.testing.assert_array_equal(masks.flatten(result.filters), result.history["masks"][-1])
    np.testing.assert_allclose(ORDERED.alpha * result.history["loss"], run.recover_loss, rtol=1e-3)
    np.testing.assert_allclose(result.history["accuracy"], run.recover_accuracy, atol=1.5 / 96)
    assert result.finite


def test_masks_start_at_one_and_stay_in_the_unit_interval(features):
    """Whatever masks the variables carry. A huge rate drives masks to both ends."""
    like = masks.filters(features.variables["masks"])
    masked = masks.apply_filters(features.variables, {name: mask * 0 for name, mask in like.items()})
    config = RecoverConfig(epochs=2, batch_size=16, learning_rate=1e5)
    result, other = (
        recover(features.network, each, features.data, KEY, config) for each in (features.variables, masked)
    )
    row = result.history["masks"]
    assert row.shape == (2, 24)
    assert row.min() == 0
    assert row.max() == 1
    np.testing.assert_array_equal(other.history["masks"], row)


def test_one_step_by_hand(features):
    """m ← clip(1 − lr·α·∂CE/∂m, 0, 1)."""
    config = RecoverConfig(epochs=1, batch_size=48, learning_rate=0.7, alpha=0.3)
    result = recover(features.network, features.variables, features.data, KEY, config)

    def loss(filters) -> jax.Array:
        logits, _ = features.network(
            masks.apply_filters(features.variables, filters), jnp.asarray(features.data.images)
        )
        return -jax.nn.log_softmax(logits)[jnp.arange(48), features.data.labels].mean()

    gradient = jax.jit(jax.grad(loss))(masks.filters(features.variables["masks"]))
    for name, mask in result.filters.items():
        np.testing.assert_allclose(mask, np.clip(1 - 0.7 * 0.3 * np.asarray(gradient[name]), 0, 1), atol=1e-6)
    assert min(float(mask.min()) for mask in result.filters.values()) < 1


def test_a_loss_that_diverges_ends_it_early(features):
    params = jax.tree.map(lambda leaf: leaf * 1e30, features.variables["params"])
    result = recover(features.network, {**features.variables, "params": params}, features.data, KEY, replace(ORDERED))
    assert not result.finite
    assert result.history["loss"].shape == (1,)


def test_a_network_without_masks():
    network = Network(Architecture("mlp", 3, 0, (("fc", 3),), (1, 1, 6)), (0.0,) * 6, (1.0,) * 6)
    with pytest.raises(DefenseError, match="no maskable layer"):
        recover(network, network.init(KEY), (jnp.zeros((4, 1, 1, 6)), jnp.zeros(4, jnp.int32)), KEY, RecoverConfig())  # pyright: ignore


@pytest.mark.parametrize("options", [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": -1.0}, {"alpha": 0.0}])
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected epochs >= 1"):
        RecoverConfig(**options)
