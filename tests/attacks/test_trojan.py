import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.attacks.means import Means
from rnp_jax.attacks.trojan import Trojan, heaviest_units
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Batch
from tests.victims import GOAL, IMAGE, MLP, attack_mlp

KEY = jax.random.key(0)
SHAPE = (32, 32, 3)
EMPTY = Batch(np.zeros((1, *IMAGE), np.uint8), np.zeros(1, np.int32))


def fit(attack, network, variables, key=KEY):
    """The fitted artefact and what was reported."""
    reports = []
    means = Means(network, EMPTY, GOAL, key, lambda _: variables, lambda *report: reports.append(report))
    return attack.fit(attack.init(network.architecture.image_shape), means), reports


def activations(network, variables, pattern, units):
    return np.asarray(network.features(variables, jnp.asarray(pattern)[None])[0])[0, units]


def test_patch_lies_where_the_release_has_it():
    params = Trojan().init(SHAPE)
    assert np.argwhere(params["mask"][..., 0]).tolist() == [[r, c] for r in (25, 26, 27) for c in (25, 26, 27)]
    mask = Trojan(size=2, margin=0).init((9, 5, 1))["mask"]
    assert np.argwhere(mask[..., 0]).tolist() == [[7, 3], [7, 4], [8, 3], [8, 4]]


@pytest.mark.parametrize("variant", ["orig", "rnp"])
def test_every_pair_of_levels_sums(variant):
    x, p = np.meshgrid(np.arange(256), np.arange(256))
    images = x[None, :, :, None].astype(np.uint8)
    params = {"pattern": p[:, :, None].astype(np.uint8), "mask": np.ones((256, 256, 1), np.bool_)}
    triggered = Trojan(variant=variant).trigger(params, images, KEY)
    expected = np.minimum(x + p, 255) if variant == "orig" else (x + p) % 256
    assert triggered.dtype == jnp.uint8
    np.testing.assert_array_equal(triggered[0, :, :, 0], expected)


def test_units_are_those_that_the_last_layer_weighs_most():
    variables = MLP.init(KEY)
    kernel = np.zeros((32, 10), np.float32)
    kernel[[5, 9, 20], [0, 1, 2]] = 2, -7, 3
    variables = {**variables, "params": {**variables["params"], "2": {**variables["params"]["2"], "kernel": kernel}}}
    assert heaviest_units(MLP, variables, 3).tolist() == [9, 20, 5]
    with pytest.raises(ConfigError, match="units is 33, expected at most 32, which"):
        heaviest_units(MLP, variables, 33)


def test_fit_finds_the_best_corner_of_a_linear_unit():
    """The penultimate units are linear in the patch where it is positive, so the best one is black or white."""
    attack = Trojan(margin=1, units=1, iterations=300)
    weights = np.random.default_rng(0).normal(size=(*IMAGE, 32)).astype(np.float32)
    weights[4:7, 4:7, 0] = np.abs(weights[4:7, 4:7, 0])  # the first channel excites every unit
    variables = MLP.init(KEY)
    layer = {"kernel": weights.reshape(-1, 32), "bias": np.zeros(32, np.float32)}
    variables = {**variables, "params": {**variables["params"], "0": layer}}
    params, reports = fit(attack, MLP, variables)
    (unit,) = heaviest_units(MLP, variables, 1)
    best = np.where(params["mask"] & (weights[..., unit] > 0), 255, 0)
    assert np.abs(params["pattern"].astype(int) - best).max() <= 8
    ((phase, done, most, figures),) = reports
    assert (phase, done, most) == ("trigger", 1, 1)
    assert figures["black"] == 0
    found = activations(MLP, variables, params["pattern"], [unit])
    assert figures["activation"] == pytest.approx(found[0], rel=5e-3)


def test_fit_stops_at_the_activation_asked_for():
    attack = Trojan(margin=1, units=2, activation=2.0, iterations=300)
    variables = MLP.init(KEY)
    layer = {**variables["params"]["0"], "bias": np.full(32, 1.5, np.float32)}  # on a black image all units are active
    variables = {**variables, "params": {**variables["params"], "0": layer}}
    params, _ = fit(attack, MLP, variables)
    units = heaviest_units(MLP, variables, 2)
    np.testing.assert_allclose(activations(MLP, variables, params["pattern"], units), 2.0, atol=0.02)


def test_fit_keeps_to_the_mask_and_the_key_decides():
    attack, variables = Trojan(iterations=5), MLP.init(KEY)
    first, again, other = (fit(attack, MLP, variables, jax.random.key(k))[0] for k in (1, 1, 2))
    assert first["pattern"].dtype == np.uint8
    assert not first["pattern"][~first["mask"][..., 0]].any()
    np.testing.assert_array_equal(first["pattern"], again["pattern"])
    assert (first["pattern"] != other["pattern"]).any()


@pytest.mark.slow
def test_fit_excites_units_of_a_convolutional_network():
    network = Network(Architecture("resnet18", 10, 4, image_shape=(16, 16, 3)), (0.3,) * 3, (0.32,) * 3)
    with jax.default_prng_impl("rbg"):  # draws initial weights after a quarter of the usual compilation
        variables = network.init(jax.random.key(0))
    params, _ = fit(Trojan(iterations=50), network, variables)
    units = heaviest_units(network, variables, 2)
    black = activations(network, variables, np.zeros((16, 16, 3), np.uint8), units)
    assert activations(network, variables, params["pattern"], units).mean() > black.mean()


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="a patch of 3 px with a margin of 4 does not fit an image of 6x32"):
        Trojan().init((6, 32, 3))
    with pytest.raises(DataError, match="trigger artefact is"):
        Trojan().trigger(Trojan().init(SHAPE), np.zeros((1, 16, 16, 3), np.uint8), KEY)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("variant", "bb"),
        ("size", 0),
        ("margin", -1),
        ("units", 0),
        ("activation", -1.0),
        ("iterations", 0),
        ("learning_rate", -1.0),
    ],
)
def test_impossible_constants_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option} is {value!r}"):
        Trojan(**{option: value})


def test_a_victim_learns_the_patch_found_on_a_clean_model():
    attacked = attack_mlp(Trojan(iterations=100))
    assert attacked.acc > 0.9
    assert attacked.asr > 0.7
