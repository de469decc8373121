"""Flattening in closed form, whom it chooses, and that it follows each epoch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.adaptive.grond import Grond, choose_outliers, flatten
from rnp_jax.checkpoints import from_state_dict
from rnp_jax.defenses.sensitivity import HolderConfig, holder_scores
from rnp_jax.errors import ConfigError
from tests.adaptive.runs import CONFIG, NORMED, digits, equal, run
from tests.networks import build_random, network_of, state_of
from tests.oracle import models

IMAGES = digits(6, 28, 1).images


def normed(seed: int = 0):
    """Random variables of ``NORMED``, no channel like another."""
    shapes = jax.eval_shape(NORMED.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype), shapes)
    return {**variables, "masks": jax.tree.map(jnp.ones_like, variables["masks"])}


@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_chosen_channels_move_to_the_mean_and_all_else_stays(strength):
    params = normed()["params"]
    chosen = {"layer2.bn1": np.array([True, False, False, True]), "layer3.bn1": np.zeros(8, bool)}
    found = flatten(params, chosen, strength)
    for name in ("scale", "bias"):
        before, after = (np.asarray(tree["layer2"]["bn1"][name]) for tree in (params, found))
        expected = before[[0, 3]] + strength * (before.mean() - before[[0, 3]])
        np.testing.assert_allclose(after[[0, 3]], expected, rtol=1e-6)
        np.testing.assert_array_equal(after[1:3], before[1:3])
    kept = {**found, "layer2": {**found["layer2"], "bn1": params["layer2"]["bn1"]}}
    assert equal(kept, params)


def test_lipschitz_outliers_are_those_of_torch_s_singular_values():
    module, network = build_random("resnet18"), network_of("resnet18")
    chosen = choose_outliers(Grond(u=1.5), network, from_state_dict(network, state_of(module)), IMAGES)
    expected = {}
    for layer, norm in models.batch_norms(module).items():
        weight = module.get_submodule(layer.replace("bn", "conv").replace("shortcut.1", "shortcut.0")).weight.detach()
        factors = (norm.weight.abs() / norm.running_var.sqrt()).detach().numpy()
        scores = np.linalg.svd(weight.reshape(*weight.shape[:2], -1).numpy())[1][:, 0] * factors
        expected[layer] = scores > scores.mean() + 1.5 * scores.std(ddof=1)
    assert sum(pick.sum() for pick in expected.values()) > 10
    for layer, pick in chosen.items():
        np.testing.assert_array_equal(pick, expected[layer], layer)


def test_hoelder_outliers_are_those_of_the_defense_s_scores():
    config = Grond(u=1.0, score="holder", holder=HolderConfig(alpha=0.7, scope="local"))
    variables = normed(3)
    scores = holder_scores(NORMED, variables, IMAGES, config.holder)
    chosen = choose_outliers(config, NORMED, variables, IMAGES)
    assert set(chosen) == {"layer2.bn1", "layer3.bn1"}
    for layer, pick in chosen.items():
        row = scores[layer].astype(np.float64)
        np.testing.assert_array_equal(pick, row > row.mean() + row.std(ddof=1))
    assert any(pick.any() for pick in chosen.values())


def test_it_flattens_after_every_epoch():
    states = []
    result = run(Grond(u=1.0), NORMED, save=states.append)
    assert result.history["flattened"].shape == (CONFIG.epochs,)
    assert (result.history["flattened"] >= 1).all()
    assert not equal(result.variables["params"], run(None, NORMED).variables["params"])
    assert equal(run(Grond(u=1.0), NORMED, state=states[0]).variables, result.variables)


def test_a_network_without_batch_norm_is_refused():
    with pytest.raises(ConfigError, match="mlp has no batch norm to flatten; choose another"):
        run(Grond())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"strength": 1.5}, "strength is 1.5"),
        ({"u": 0.0}, "u is 0.0"),
        ({"images": 0}, "images is 0"),
        ({"holder": HolderConfig(alpha=1.0)}, "nothing reads them: set score to holder"),
    ],
)
def test_impossible_settings(settings, told):
    with pytest.raises(ConfigError, match=told):
        Grond(**settings)
