"""Against a loop in torch over every pair of an image and an overlay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.checkpoints import from_state_dict
from rnp_jax.detection import strip
from rnp_jax.detection.strip import StripConfig, score_by_strip
from rnp_jax.errors import ConfigError, DataError
from tests.compiled import count_compiled
from tests.networks import build_random, images_for, network_of, state_of, torch_input

NETWORK, MODULE = network_of("mlp"), build_random("mlp")
VARIABLES = from_state_dict(NETWORK, state_of(MODULE))
IMAGES, CLEAN = images_for("mlp", 7), images_for("mlp", 5, seed=1)
KEY = jax.random.key(0)


def torch_entropy(alpha: float) -> np.ndarray:
    """Mean entropy [N] over all overlays, of sums of normalised images."""
    total = torch.zeros(len(IMAGES))
    with torch.no_grad():
        for overlay in torch_input("mlp", CLEAN):
            p = torch.softmax(MODULE(torch_input("mlp", IMAGES) + alpha * overlay), 1) + 1e-8
            total += -(p * p.log()).sum(1)
    return (total / len(CLEAN)).numpy()


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("size", [3, None])
def test_it_is_the_mean_entropy_of_superpositions(alpha, size):
    found = score_by_strip(NETWORK, VARIABLES, IMAGES, CLEAN, KEY, StripConfig(alpha=alpha), size)
    np.testing.assert_allclose(found, -torch_entropy(alpha), rtol=1e-4, atol=1e-6)


def test_fewer_overlays_are_drawn_by_the_key_alone_and_share_one_program():
    config = StripConfig(overlays=2)
    before = count_compiled(strip._mean_entropy)
    first, again, other = (
        score_by_strip(NETWORK, VARIABLES, IMAGES, CLEAN, key, config, 4) for key in (KEY, KEY, jax.random.key(2))
    )
    assert count_compiled(strip._mean_entropy) - before == 1
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_network_that_never_decides_has_the_highest_entropy_there_is():
    flat = {**VARIABLES, "params": jax.tree.map(jnp.zeros_like, VARIABLES["params"])}
    found = score_by_strip(NETWORK, flat, IMAGES, CLEAN, KEY, StripConfig())
    np.testing.assert_allclose(found, np.full(7, -np.log(5)), rtol=1e-5)


@pytest.mark.parametrize("clean", [CLEAN[:0], CLEAN[:, :2]])
def test_overlays_that_do_not_fit(clean):
    with pytest.raises(DataError, match="expected one or more clean images of the same shape"):
        score_by_strip(NETWORK, VARIABLES, IMAGES, clean, KEY, StripConfig())


@pytest.mark.parametrize("settings", [{"overlays": 0}, {"alpha": 0.0}, {"alpha": float("nan")}])
def test_impossible_settings(settings):
    with pytest.raises(ConfigError, match="expected overlays >= 1"):
        StripConfig(**settings)
