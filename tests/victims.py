"""Small victims trained for real on the built-in digits."""

from typing import NamedTuple

import jax

from rnp_jax.attacks import Attack, Goal, trigger_test_set
from rnp_jax.data.digits import load_digits
from rnp_jax.evaluation.metrics import share
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.training.backdoor import Backdoored, PoisonConfig, train_backdoored
from rnp_jax.training.supervised import TrainConfig
from rnp_jax.types import Batch

IMAGE = (8, 8, 3)
GOAL = Goal(num_classes=10, target=3)
MLP = Network(Architecture("mlp", 10, 0, (("0", 32), ("2", 10)), IMAGE))


class Attacked(NamedTuple):
    """A victim with its accuracy on clean images and the attack success rate, shares of the 500 test images."""

    result: Backdoored
    acc: float
    asr: float


def attack_mlp(attack: Attack, rate: float = 0.1, epochs: int = 24, learning_rate: float = 0.05) -> Attacked:
    """Trains ``MLP`` on 8x8 digits: about 95 % accuracy after 24 epochs, in a second."""
    train, test = (Batch(data.images, data.labels) for data in (load_digits(s, IMAGE[:2]) for s in ("train", "test")))
    config = TrainConfig(epochs=epochs, batch_size=64, learning_rate=learning_rate)
    result = train_backdoored(MLP, attack, GOAL, train, 0, config, PoisonConfig(rate=rate))
    triggered = trigger_test_set(test.images, test.labels, GOAL, attack, result.params, jax.random.key(1))
    clean = predict(MLP, result.variables, test).labels[0]
    attacked = predict(MLP, result.variables, Batch(triggered.images, triggered.labels)).labels[0]
    return Attacked(result, share(clean == test.labels).value, share(attacked == triggered.wanted).value)
