"""Backdoored models trained for real on the built-in data."""

import jax
import numpy as np
import pytest

from rnp_jax.attacks import BadNets, Goal, WaNet, trigger_test_set
from rnp_jax.data.digits import load_digits
from rnp_jax.data.splits import Split
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.metrics import share
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.training.backdoor import PoisonConfig, train_backdoored
from rnp_jax.training.supervised import TrainConfig
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


def test_an_impossible_rate():
    with pytest.raises(ConfigError, match="rate"):
        train_backdoored(MLP, BadNets(), GOAL, digits("train", (8, 8)), 0, SHORT, PoisonConfig(rate=1.5))
