import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.attacks import BadNets, Goal
from rnp_jax.errors import ConfigError
from rnp_jax.models import Architecture, Network
from rnp_jax.training.joint import Setting
from rnp_jax.training.joint_epoch import run_steps, share_correct, steps_an_epoch
from rnp_jax.training.supervised import TrainConfig
from rnp_jax.types import Batch

NETWORK = Network(Architecture("mlp", 10, 0, (("0", 10),), (2, 2, 3)))
SETTING = Setting(NETWORK, BadNets(), Goal(num_classes=10), TrainConfig(batch_size=4), 0.1, None)


def test_only_whole_batches_count():
    assert steps_an_epoch(SETTING, 11) == 2
    with pytest.raises(ConfigError, match="batch_size 4 exceeds the 3 training images"):
        steps_an_epoch(SETTING, 3)


def test_every_epoch_has_an_order_of_its_own_and_figures_are_means():
    data = Batch(jnp.zeros((11, 2, 2, 3), jnp.uint8), jnp.arange(11, dtype=jnp.int32))

    def step(seen, batch, key):
        return seen.at[batch.labels].add(1), {"label": batch.labels.astype(jnp.float32).mean()}

    run = jax.jit(lambda epoch: run_steps(SETTING, step, jnp.zeros(11, jnp.int32), data, jax.random.key(0), epoch))
    first, again, other = (run(jnp.int32(epoch)) for epoch in (0, 0, 1))
    assert sorted(np.asarray(first[0])) == [0] * 3 + [1] * 8
    np.testing.assert_allclose(first[1]["label"], np.flatnonzero(first[0]).mean(), rtol=1e-6)
    np.testing.assert_array_equal(first[0], again[0])
    assert (first[0] != other[0]).any()


def test_shares_of_correct_images():
    logits = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
    assert share_correct(logits, jnp.asarray([0, 0, 0])) == pytest.approx(2 / 3)
    assert np.isnan(share_correct(logits[:0], jnp.asarray([0])[:0]))
