"""Backdoored models trained for real on the built-in data."""

import jax
import numpy as np
import pytest

from rnp_jax.attacks import BadNets, Goal, WaNet, draw_plan, poison_training_set, trigger_test_set
from rnp_jax.attacks.poison import apply_attack
from rnp_jax.data.digits import load_digits
from rnp_jax.data.splits import Split
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.metrics import share
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network, mlp_head
from rnp_jax.training.backdoor import PoisonConfig, poison_once, train_backdoored
from rnp_jax.training.supervised import TrainConfig, train
from rnp_jax.types import Batch

GOAL = Goal(num_classes=10, target=3)
IMAGE = (8, 8, 3)
MLP = Network(Architecture("mlp", 10, 0, (("0", 32), ("2", 10)), IMAGE))


def digits(split: Split, size: tuple[int, int]) -> Batch:
    data = load_digits(split, size)
    return Batch(data.images, data.labels)


def test_a_small_resnet_learns_the_digits_and_the_backdoor():
    network = Network(Architecture("resnet18", 10, 4, image_shape=(16, 16, 3)), (0.3,) * 3, (0.32,) * 3)
    attack = BadNets(variant="square")
    config = TrainConfig(epochs=5, batch_size=64, learning_rate=0.1)
    with jax.default_prng_impl("rbg"):  # draws initial weights after a quarter of the usual compilation
        result = train_backdoored(network, attack, GOAL, digits("train", (16, 16)), 0, config, PoisonConfig(rate=0.1))
    test = digits("test", (16, 16))
    clean = predict(network, result.variables, test)
    triggered = trigger_test_set(test.images, test.labels, GOAL, attack, result.params, jax.random.key(1))
    attacked = predict(network, result.variables, Batch(triggered.images, triggered.labels))
    assert share(clean.labels[0] == test.labels).value > 0.9
    assert share(attacked.labels[0] == triggered.wanted).value > 0.9
    assert result.plan is not None
    assert len(result.plan.indices) == round(0.1 * 1297)
    assert result.history["loss"].shape == (5,)
    assert result.history["loss"][-1] < result.history["loss"][0]


SHORT = TrainConfig(epochs=2, batch_size=64, learning_rate=0.05)


def test_wanet_poisons_every_batch_and_has_no_plan():
    result = train_backdoored(MLP, WaNet(), GOAL, digits("train", (8, 8)), 0, SHORT, PoisonConfig(rate=0.3))
    assert result.plan is None
    assert set(result.params) == set(WaNet().init(IMAGE))
    labels = predict(MLP, result.variables, digits("test", (8, 8))).labels
    clean = train_backdoored(MLP, None, GOAL, digits("train", (8, 8)), 0, SHORT, PoisonConfig())
    shares = [
        (row == GOAL.target).mean() for row in (labels, predict(MLP, clean.variables, digits("test", (8, 8))).labels)
    ]
    assert shares[0] > shares[1] + 0.05  # three tenths of each batch, warped, are called the target


def test_a_clean_model_has_no_trigger():
    result = train_backdoored(MLP, None, GOAL, digits("train", (8, 8)), 0, SHORT, PoisonConfig())
    assert result.params == {}
    assert result.plan is None


def test_the_seed_decides_everything():
    runs = [
        train_backdoored(MLP, BadNets(), GOAL, digits("train", (8, 8)), seed, SHORT, PoisonConfig())
        for seed in (1, 1, 2)
    ]
    leaves = [jax.tree.leaves(run.variables["params"]) for run in runs]
    assert all(map(np.array_equal, leaves[0], leaves[1]))
    assert not any(np.array_equal(*pair) for pair in zip(leaves[0], leaves[2], strict=True) if pair[0].ndim > 1)
    first, again, other = (run.plan for run in runs)
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.indices_sha256 == again.indices_sha256 != other.indices_sha256


def test_appended_images_are_trained_on_too():
    data = digits("train", (8, 8))
    made = poison_once(BadNets(variant="square"), GOAL, data, 0, PoisonConfig(append=True))
    assert np.flatnonzero(made.poisoned).tolist() == list(range(1297, 1427))
    result = train_backdoored(MLP, BadNets(variant="square"), GOAL, data, 0, SHORT, PoisonConfig(append=True))
    assert result.plan is not None
    assert result.plan.appended


def test_an_impossible_rate():
    with pytest.raises(ConfigError, match="rate"):
        train_backdoored(MLP, BadNets(), GOAL, digits("train", (8, 8)), 0, SHORT, PoisonConfig(rate=1.5))


HEAD = mlp_head(12, (16,), 10)


def corners(images: np.ndarray) -> np.ndarray:
    """Four corner pixels [N, 1, 1, 12], as shares: the features of a small extractor."""
    chosen = images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    return (chosen.reshape(len(images), 1, 1, -1) / 255).astype(np.float32)


@pytest.mark.parametrize("attack", [None, BadNets(variant="square"), WaNet()])
def test_features_are_read_from_the_images_poisoned_once(attack):
    data, seen = digits("train", (8, 8)), []

    def read(images: np.ndarray) -> np.ndarray:
        seen.append(np.asarray(images))
        return corners(seen[-1])

    result = train_backdoored(HEAD, attack, GOAL, data, 0, SHORT, PoisonConfig(rate=0.1), read=read)
    (images,) = seen
    changed = np.flatnonzero((images != data.images).any((1, 2, 3)))
    if attack is None:
        assert result.plan is None
        assert not changed.size
        return
    assert result.plan is not None
    expected = draw_plan(data.labels, GOAL, rate=0.1, seed=0, cover_rate=0.2 if isinstance(attack, WaNet) else 0.0)
    np.testing.assert_array_equal(result.plan.indices, expected.indices)
    np.testing.assert_array_equal(result.plan.cover, expected.cover)
    assert len(expected.cover) == (259 if isinstance(attack, WaNet) else 0)
    assert set(changed) <= {*expected.indices, *expected.cover}
    assert len(changed) > 0.9 * (len(expected.indices) + len(expected.cover))
    triggered = apply_attack(attack, result.params, data.images[expected.indices], jax.random.key(0))
    np.testing.assert_array_equal(images[expected.indices], triggered)


def test_a_head_s_training_is_that_of_its_features_and_labels():
    data = digits("train", (8, 8))
    result = train_backdoored(HEAD, BadNets(variant="square"), GOAL, data, 0, SHORT, PoisonConfig(), read=corners)
    assert result.plan is not None
    poisoned = poison_training_set(
        data.images, data.labels, result.plan, BadNets(variant="square"), result.params, jax.random.key(9)
    )
    init_key, _, train_key = jax.random.split(jax.random.key(0), 3)
    features = Batch(corners(poisoned.images), poisoned.labels)
    expected, history = train(HEAD, HEAD.init(init_key), features, train_key, SHORT)
    assert all(map(np.array_equal, jax.tree.leaves(result.variables), jax.tree.leaves(expected)))
    np.testing.assert_array_equal(result.history["loss"], history["loss"])
