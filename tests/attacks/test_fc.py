import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.attacks.fc import FeatureCollision, pull_back, split_forward_backward
from rnp_jax.attacks.goal import Goal
from rnp_jax.attacks.means import Means
from rnp_jax.attacks.poison import trigger_test_set
from rnp_jax.data.digits import load_digits
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network, mlp_head
from rnp_jax.training.backdoor import PoisonConfig, poison_once
from rnp_jax.training.supervised import TrainConfig, train
from rnp_jax.types import Batch
from tests.compiled import watch_compilations

KEY = jax.random.key(0, impl="rbg")
IMAGE = (8, 8, 3)
MEANS = Network(Architecture("mlp", 2, 0, (("0", 2),), IMAGE))  # its features are the channels' means
NETWORK = Network(Architecture("mlp", 10, 0, (("0", 64), ("2", 10)), IMAGE))
CONFIG = TrainConfig(epochs=8, batch_size=64, learning_rate=0.05)
GOAL = Goal(num_classes=10, target=3)
QUICK = {"size": 4, "beta": 0.01, "steps": 150}


def digits(split="train") -> Batch:
    data = load_digits(split, IMAGE[:2])
    return Batch(data.images, data.labels)


@pytest.fixture(scope="module")
def surrogate():
    trained, _ = train(NETWORK, NETWORK.init(KEY), digits(), jax.random.key(1, impl="rbg"), CONFIG)
    return trained


def means_with(variables, told=None, goal=GOAL) -> Means:
    progress = (lambda *_: None) if told is None else lambda *row: told.append(row)
    return Means(NETWORK, digits(), goal, jax.random.key(3, impl="rbg"), lambda _: variables, progress)


def draw(seed: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *IMAGE), np.uint8)


@given(seed=st.integers(0, 999), weight=st.floats(0, 50), bound=st.floats(0, 1))
@settings(deadline=None, derandomize=True, max_examples=20)
def test_the_backward_step_is_the_nearest_point_that_stays_near_the_base(seed, weight, bound):
    rng = np.random.default_rng(seed)
    forward, base = rng.uniform(-1, 2, (1, 3, 3, 1)), rng.uniform(0, 1, (1, 3, 3, 1))
    weights = jnp.full((1, 1, 1, 1), weight, jnp.float32)
    found = np.asarray(pull_back(jnp.float32(forward), jnp.float32(base), weights, bound))
    low, high = np.maximum(base - bound, 0), np.minimum(base + bound, 1)
    grid = low + (high - low) * np.linspace(0, 1, 2001)[:, None, None, None, None]
    cost = (grid - forward) ** 2 + weight * (grid - base) ** 2  # separable: each pixel by itself
    best = np.take_along_axis(grid, cost.argmin(0)[None], 0)[0]
    np.testing.assert_allclose(found, best, atol=6e-4)


@pytest.mark.parametrize("rate", [0.5, 20.0, 1e5])
def test_features_that_are_means_move_by_the_weighted_share_of_their_difference(rate):
    bases, aims = 60 + draw(0) // 4, 60 + draw(1) // 2
    attack = FeatureCollision(beta=0.001, rate=rate, steps=400)
    beta, pixels = 0.001 * (2048 / bases[0].size) ** 2, 8 * 8
    reached, _ = split_forward_backward(MEANS, attack, MEANS.init(KEY), bases, aims)
    gap = (aims.mean((1, 2), keepdims=True) - bases.mean((1, 2), keepdims=True)) / 255
    expected = bases / 255 + gap * 2 / (2 + pixels * beta)
    np.testing.assert_allclose(reached.pixels, expected, atol=1e-3)


def test_the_objective_never_rises_and_a_step_that_would_raise_it_halves_the_rate(surrogate):
    data, attack = digits(), FeatureCollision(beta=0.01, rate=1000.0, steps=60)
    bases, aims = data.images[data.labels == 3][:20], data.images[data.labels == 7][:20]
    reached, history = split_forward_backward(NETWORK, attack, surrogate, bases, aims)
    objective, distance, rate = (np.asarray(history[name]) for name in ("objective", "distance", "rate"))
    assert objective.shape == (60, 20)
    assert (np.diff(objective, axis=0) <= 0).all()
    halved = rate[1:] < rate[:-1]
    np.testing.assert_array_equal(rate[1:][halved], rate[:-1][halved] / 2)
    np.testing.assert_array_equal(objective[1:][halved], objective[:-1][halved])
    assert halved.any(0).all()
    assert (~halved).any(0).all()
    first = ((NETWORK.features(surrogate, bases)[0] - NETWORK.features(surrogate, aims)[0]) ** 2).sum(-1)
    assert (distance[-1] < 0.2 * np.asarray(first)).all()
    np.testing.assert_array_equal(reached.distance, distance[-1])
    assert (rate != rate[:, :1]).any()  # each image has its own


def test_crafted_images_keep_to_the_bound_and_do_not_show_the_patch(surrogate):
    data, told = digits(), []
    images = data.images[data.labels == 3]
    attack = FeatureCollision(**QUICK, epsilon=16.5)
    params = attack.init(IMAGE)
    with watch_compilations() as compiled:
        crafted = attack.craft(params, images, means_with(surrogate, told))
        attack.craft(params, images[:3], means_with(surrogate))
    assert compiled["_collide"] <= 1
    assert np.abs(crafted.astype(np.int32) - images).max() == 16
    np.testing.assert_array_equal(attack.implant(params, crafted, KEY), crafted)
    np.testing.assert_array_equal(crafted, attack.craft(params, images, means_with(surrogate)))
    assert {row[0] for row in told} == {"craft"}
    assert len(told) == -(-len(images) // 64)


def test_the_patch_is_cells_of_colour_in_the_corner():
    attack, images = FeatureCollision(size=8, seed=4), np.full((2, 12, 16, 3), 100, np.uint8)
    params = attack.init((12, 16, 3))
    triggered = np.asarray(attack.trigger(params, images, KEY))
    outside = np.ones((12, 16), bool)
    outside[4:, 8:] = False
    assert (triggered[:, outside] == 100).all()
    patch = triggered[0, 4:, 8:]
    np.testing.assert_array_equal(patch, patch[::2, ::2].repeat(2, 0).repeat(2, 1))
    assert len(np.unique(patch[::2, ::2].reshape(-1, 3), axis=0)) == 16
    np.testing.assert_array_equal(attack.trigger(params, triggered, KEY), triggered)
    assert (params["pattern"] != FeatureCollision(size=8, seed=5).init((12, 16, 3))["pattern"]).any()


def test_a_head_retrained_on_colliding_images_takes_the_patch_for_the_target(surrogate):
    data, test, attack = digits(), digits("test"), FeatureCollision(**QUICK)
    made = poison_once(attack, GOAL, data, 0, PoisonConfig(rate=0.08), means_with(surrogate))
    np.testing.assert_array_equal(made.data.labels, data.labels)
    triggered = trigger_test_set(test.images, test.labels, GOAL, attack, made.params, KEY)

    def read(images) -> np.ndarray:
        return np.asarray(NETWORK.features(surrogate, images)[0])[:, None, None]

    head, called = mlp_head(64, (), 10), []
    for images in (data.images, made.data.images):
        trained, _ = train(
            head, head.init(KEY), Batch(read(images), data.labels), jax.random.key(2, impl="rbg"), CONFIG
        )
        found = predict(head, trained, Batch(read(triggered.images), triggered.labels)).labels[0]
        called.append((found == 3).mean())
        right = predict(head, trained, Batch(read(test.images), test.labels)).labels[0] == test.labels
        assert right.mean() > 0.9
    assert called[0] < 0.2
    assert called[1] > 0.5


def test_all_to_all_is_refused():
    with pytest.raises(ConfigError, match="use all_to_one"):
        FeatureCollision().craft({}, draw(0), means_with({}, goal=Goal(num_classes=10, mapping="all_to_all")))


def test_a_patch_larger_than_the_image_is_refused():
    FeatureCollision(size=12).init((12, 20, 1))
    with pytest.raises(ConfigError, match="a patch of 12 px does not fit an image of 40x11"):
        FeatureCollision(size=12).init((40, 11, 3))


@pytest.mark.parametrize(
    ("option", "value"),
    [("beta", -1), ("epsilon", 256), ("rate", -2), ("steps", 0), ("size", 6), ("size", 0), ("seed", -1)],
)
def test_impossible_constants_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"^{option} is {value}"):
        FeatureCollision(**{option: value})
