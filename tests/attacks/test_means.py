"""What ``train_backdoored`` gives an attack that learns: clean data, and models of the victim's kind."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np
import pytest

from rnp_jax.attacks import Goal
from rnp_jax.attacks.badnets import BadNets
from rnp_jax.attacks.means import Means
from rnp_jax.data.digits import load_digits
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.training.backdoor import PoisonConfig, poison_once, train_backdoored
from rnp_jax.training.supervised import TrainConfig
from rnp_jax.types import Batch

NETWORK = Network(Architecture("mlp", 10, 0, (("0", 16), ("2", 10)), (8, 8, 3)))
GOAL = Goal(num_classes=10, target=3)
CONFIG = TrainConfig(epochs=3, batch_size=64, learning_rate=0.05)


@dataclass(frozen=True, kw_only=True)
class Learned(BadNets):
    """Notes what it is given; darkens what it crafts."""

    seen: ClassVar[list[Means]] = []

    def fit(self, params, means):
        self.seen.append(means)
        return {**params, "pattern": params["pattern"] // 2}

    def craft(self, params, images, means):
        self.seen.append(means)
        assert params["pattern"].max() == 127
        return images // 2


def digits() -> Batch:
    data = load_digits("train", (8, 8))
    return Batch(data.images, data.labels)


def test_surrogates_are_clean_models_trained_once():
    told, data = [], digits()
    Learned.seen.clear()
    result = train_backdoored(
        NETWORK, Learned(), GOAL, data, 0, CONFIG, PoisonConfig(), progress=lambda *row: told.append(row[:3])
    )
    fitted, crafted = Learned.seen
    assert fitted is crafted
    variables = fitted.surrogate(NETWORK)
    assert fitted.surrogate(NETWORK) is variables
    assert (predict(NETWORK, variables, data).labels[0] == data.labels).mean() > 0.8
    assert told == [("train", e, 3) for e in (1, 2, 3)] + [("surrogate", e, 3) for e in (1, 2, 3)]
    np.testing.assert_array_equal(fitted.data.images, data.images)
    assert result.params["pattern"].max() == 127


def test_crafted_images_are_then_implanted():
    data = digits()
    means = Means(NETWORK, data, GOAL, jax.random.key(0), NETWORK.init, print)
    made = poison_once(Learned(), GOAL, data, 0, PoisonConfig(), means)
    assert made.plan is not None
    chosen = made.plan.indices
    outside = ~made.params["mask"][..., 0]
    np.testing.assert_array_equal(made.data.images[chosen][:, outside], data.images[chosen][:, outside] // 2)
    assert (made.data.images[chosen][:, -1, -1] == 127).all()


def test_what_learns_is_not_made_without_means():
    with pytest.raises(ConfigError, match="Learned cannot be made without training its surrogates"):
        poison_once(Learned(), GOAL, digits(), 0, PoisonConfig())
    with pytest.raises(ConfigError, match="remove --extractor"):
        train_backdoored(NETWORK, Learned(), GOAL, digits(), 0, CONFIG, PoisonConfig(), read=lambda images: images)
