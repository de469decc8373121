"""Problems that several defense tests share: a tiny network solved by torch, and one small enough to defend at will."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rnp_jax.checkpoints import from_state_dict
from rnp_jax.models import Architecture, Network
from rnp_jax.training.supervised import TrainConfig, train
from rnp_jax.types import Batch
from tests.oracle import rnp, tiny


@pytest.fixture(scope="session")
def golden() -> SimpleNamespace:
    """The oracle's own RNP run, with our network beside it."""
    run = tiny.tiny_golden()
    network = Network(Architecture("resnet18", tiny.CLASSES, tiny.WIDTH), rnp.MEAN, rnp.STD)
    data = Batch(run.images, run.labels)
    return SimpleNamespace(run=run, network=network, data=data, load=lambda state: from_state_dict(network, state))


@pytest.fixture(scope="session")
def features() -> SimpleNamespace:
    """A trained head on vectors of six features, three classes: every compilation takes a fraction of a second."""
    network = Network(Architecture("mlp", 3, 0, (("0", 16), ("2", 8), ("4", 3)), (1, 1, 6)), (0.0,) * 6, (1.0,) * 6)
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 1, (3, 6))

    def draw(count: int) -> Batch:
        labels = np.arange(count, dtype=np.int32) % 3
        values = centres[labels] + rng.normal(0, 0.1, (count, 6))
        return Batch(values.reshape(count, 1, 1, 6).astype(np.float32), labels)

    data, holdout = draw(48), draw(60)
    config = TrainConfig(epochs=8, batch_size=16, learning_rate=0.1)
    variables, history = train(network, network.init(jax.random.key(0)), data, jax.random.key(1), config)
    assert history["accuracy"][-1] > 0.95
    return SimpleNamespace(network=network, variables=variables, data=data, holdout=holdout)
