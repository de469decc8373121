import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.errors import ConfigError
from rnp_jax.inversion import warps as module
from rnp_jax.inversion.warps import WarpConfig, Warps, find_warps, warp
from rnp_jax.types import Batch, Variables
from tests.compiled import count_compiled
from tests.inversion.planted import CLASSES, SIDE, TARGET, Rows, rows_data, rows_variables

KEY = jax.random.key(1)
NETWORK = Rows()
CONFIG = WarpConfig(batch_size=16)


def striped(count: int = 48, seed: int = 0) -> Batch:
    """``rows_data`` with a bright last row, two below those of the classes."""
    data = rows_data(count, seed)
    data.images[:, -1] = 220
    return data


def warped_variables(planted: float = 4.0) -> Variables:
    """The dark row above the last speaks for ``TARGET``: a warp that reads it from the last is a backdoor."""
    variables = rows_variables(0.0)
    kernel = np.array(variables["params"]["fc"]["kernel"]).reshape(SIDE, SIDE, 3, CLASSES)
    kernel[-2, :, :, TARGET] = planted
    params = {"fc": {**variables["params"]["fc"], "kernel": jnp.asarray(kernel.reshape(-1, CLASSES))}}
    return {**variables, "params": params}


def test_a_planted_warp_is_found():
    found = find_warps(NETWORK, warped_variables(), striped(), KEY, CONFIG, holdout=striped(60, 9))
    assert found.fields.shape == (CLASSES, SIDE, SIDE, 2)
    assert np.abs(found.fields).max() <= CONFIG.bound
    assert found.success[TARGET] == 1
    assert found.fields[TARGET, -2, :, 0].max() > 0.5
    assert found.find_outliers(CONFIG) == [TARGET]


def test_without_it_no_label_stands_out():
    found = find_warps(NETWORK, warped_variables(0.0), striped(), KEY, CONFIG, labels=(0, TARGET))
    assert found.labels.tolist() == [0, TARGET]
    assert found.find_outliers(CONFIG) == []


def test_a_warp_reads_bilinearly_and_at_the_edge():
    images = jnp.asarray(np.random.default_rng(0).random((2, 4, 5, 3)), jnp.float32)
    np.testing.assert_array_equal(warp(images, jnp.zeros((4, 5, 2))), images)
    down = warp(images, jnp.zeros((4, 5, 2)).at[..., 0].set(1.0))
    np.testing.assert_allclose(down[:, :-1], images[:, 1:], atol=1e-6)
    np.testing.assert_allclose(down[:, -1], images[:, -1], atol=1e-6)
    right = warp(images, jnp.zeros((4, 5, 2)).at[..., 1].set(0.5))
    np.testing.assert_allclose(right[:, :, :-1], (images[:, :, :-1] + images[:, :, 1:]) / 2, atol=1e-6)
    grey = jnp.full((1, 2, 2, 1), 51, jnp.uint8)
    np.testing.assert_allclose(warp(grey, jnp.ones((2, 2, 2))), 0.2, atol=1e-6)


def test_a_label_must_be_ahead_of_the_others():
    fields = np.zeros((5, 2, 2, 2))
    both = Warps(np.arange(5), fields, np.array([0.1, 0.9, 0.6, 0.1, 0.2]))
    assert both.find_outliers(WarpConfig()) == [1, 2]
    easy = Warps(np.arange(5), fields, np.array([0.4, 0.9, 0.5, 0.5, 0.2]))
    assert easy.find_outliers(WarpConfig()) == []


def test_one_program_serves_weights_labels_steps_and_bounds():
    find_warps(NETWORK, warped_variables(), striped(), KEY, CONFIG, labels=(0,))
    before = count_compiled(module._search)
    other = WarpConfig(bound=0.1, steps=3, learning_rate=0.5, batch_size=16)
    found = find_warps(NETWORK, warped_variables(1.0), striped(), KEY, other, labels=(1, 2))
    assert count_compiled(module._search) == before
    assert np.abs(found.fields).max() <= 0.1


@pytest.mark.parametrize("change", [{"bound": 0.0}, {"steps": 0}, {"works": 1.5}, {"ahead": 0.5}, {"grid": 1}])
def test_impossible_settings_are_refused(change: dict):
    with pytest.raises(ConfigError, match=r"expected|at least"):
        WarpConfig(**change)
