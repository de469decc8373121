import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.attacks.generated import network_variables, scaling_params
from rnp_jax.attacks.lira import Lira
from rnp_jax.errors import ConfigError

KEY = jax.random.key(0)
STD = (0.2, 0.25, 0.3)


def trained(attack, shape, std=STD, seed=0):
    """An artefact of random weights, as if learned."""
    rng = np.random.default_rng(seed)
    params = {name: rng.normal(0, 0.5, array.shape).astype(np.float32) for name, array in attack.init(shape).items()}
    params = {name: np.abs(array) + 0.3 if name.endswith("var") else array for name, array in params.items()}
    return {**params, **scaling_params((0.4,) * shape[-1], std[: shape[-1]], shape)}


def images(shape, count=4):
    return np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)


@pytest.mark.parametrize(("variant", "shape"), [("bb", (16, 16, 3)), ("orig", (16, 16, 3)), ("bb", (9, 20, 1))])
def test_the_trigger_adds_the_generators_noise(variant, shape):
    attack = Lira(variant=variant, width=2, final_epsilon=0.2)
    x, params = images(shape), trained(attack, shape)
    std = np.float32(STD[: shape[-1]])
    normalised = jnp.asarray((x / np.float32(255) - np.float32(0.4)) / std)
    noise, _ = attack.generator(shape[-1])(network_variables(params, "generator"), normalised)
    expected = np.clip(x + 255 * 0.2 * std * np.asarray(noise), 0, 255)
    found = np.asarray(attack.trigger(params, x, KEY))
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.501)
    assert np.ptp(np.asarray(noise), 0).max() > 0.05  # each image has noise of its own


@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.1, 1.0])
def test_the_change_is_bounded_by_epsilon_and_the_deviation(epsilon):
    attack = Lira(width=2, final_epsilon=epsilon)
    x = images((16, 16, 3), 8)
    change = np.abs(np.asarray(attack.trigger(trained(attack, (16, 16, 3)), x, KEY)).astype(int) - x)
    bound = epsilon * np.array(STD) * 255
    assert (change.max((0, 1, 2)) <= bound + 0.5).all()
    assert (change.max() > 0) == (epsilon > 0)


def test_variants_and_the_artefact():
    small = {variant: Lira(variant=variant, width=2).init((10, 12, 3)) for variant in ("bb", "orig")}
    assert small["bb"]["generator/params/down0/conv/kernel"].shape == (4, 4, 3, 2)
    assert small["orig"]["generator/params/down0a/conv/kernel"].shape == (3, 3, 3, 2)
    for params in small.values():
        assert {name.split("/")[0] for name in params} == {"generator", "mean", "std"}
        assert params["mean"].shape == (10, 12, 3)
    wide = Lira(variant="orig", width=64).init((32, 32, 3))
    assert wide["generator/params/down3b/conv/kernel"].shape == (3, 3, 512, 512)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("variant", "rnp"),
        ("width", 0),
        ("epsilon", -0.1),
        ("final_epsilon", -0.1),
        ("alpha", 1.5),
        ("generator_epochs", 0),
        ("generator_learning_rate", -1),
        ("learning_rate", -1),
        ("fine_tune", 1),
    ],
)
def test_impossible_constants_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option} is '?{value}"):
        Lira(**{option: value})
