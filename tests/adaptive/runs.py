"""A tiny victim on digits of 8 x 8 pixels, trained plainly or adaptively."""

from typing import Any

import jax
import numpy as np

from rnp_jax.attacks import BadNets, Goal
from rnp_jax.data.digits import load_digits
from rnp_jax.models import Architecture, Network
from rnp_jax.training.adaptation import Adaptation
from rnp_jax.training.backdoor import Backdoored, PoisonConfig, train_backdoored
from rnp_jax.training.supervised import TrainConfig
from rnp_jax.types import Batch

MLP = Network(Architecture("mlp", 10, 0, (("0", 12), ("2", 8), ("4", 10)), (8, 8, 3)), (0.3,) * 3, (0.32,) * 3)
NORMED = Network(Architecture("wanet_mnist", 10, 4, image_shape=(28, 28, 1)), (0.3,), (0.3,))
"""Two layers of batch norm, of 4 and 8 channels."""
CONFIG = TrainConfig(epochs=2, batch_size=32, learning_rate=0.1)


def digits(count: int = 96, size: int = 8, channels: int = 3) -> Batch:
    data = load_digits("train", (size, size))
    return Batch(data.images[:count, ..., :channels], data.labels[:count])


def run(adapt: Adaptation | None, network: Network = MLP, **options: Any) -> Backdoored:
    data = digits() if network is MLP else digits(size=28, channels=1)
    attack, goal = BadNets(variant="square"), Goal(num_classes=10)
    return train_backdoored(network, attack, goal, data, 0, CONFIG, PoisonConfig(rate=0.2), adapt=adapt, **options)


def equal(first: Any, second: Any) -> bool:
    """Whether two trees are the same bit for bit."""
    return jax.tree.structure(first) == jax.tree.structure(second) and jax.tree.all(
        jax.tree.map(np.array_equal, first, second)
    )
