"""The loop of attacks that train with their victim, on one that only counts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnp_jax.attacks import BadNets, Goal
from rnp_jax.models import Architecture, Network
from rnp_jax.training.joint import Setting, train_jointly
from rnp_jax.training.supervised import TrainConfig
from rnp_jax.types import Batch

NETWORK = Network(Architecture("mlp", 10, 0, (("0", 4), ("2", 10)), (8, 8, 3)))
SETTING = Setting(NETWORK, BadNets(), Goal(num_classes=10), TrainConfig(epochs=3), 0.1, None)
DATA = Batch(np.zeros((5, 8, 8, 3), np.uint8), np.arange(5, dtype=np.int32))


class Counted(NamedTuple):
    total: jax.Array
    epoch: jax.Array
    key: jax.Array


class Counting:
    """Sums the labels, each epoch; two epochs of its own come first."""

    def epochs(self, setting):
        return 2 + setting.config.epochs

    def start(self, setting, key, count):
        del setting
        return Counted(jnp.float32(count), jnp.int32(0), key)

    def epoch(self, setting, state, data):
        del setting
        state = state._replace(total=state.total + data.labels.sum().astype(jnp.float32), epoch=state.epoch + 1)
        return state, {"total": state.total} if state.epoch <= 2 else {"total": state.total, "late": jnp.float32(1)}

    def finish(self, setting, state):
        del setting
        return {"params": {"total": state.total}}, {"total": np.asarray(state.total)}


def test_every_epoch_runs_once_and_is_told_and_saved():
    told, saved = [], []
    variables, params, history = train_jointly(
        Counting(), SETTING, DATA, jax.random.key(0), progress=lambda *row: told.append(row), save=saved.append
    )
    assert float(variables["params"]["total"]) == float(params["total"]) == 5 + 5 * 10
    assert [row[:3] for row in told] == [("train", epoch, 5) for epoch in (1, 2, 3, 4, 5)]
    assert told[1][3] == {"total": 25.0}
    assert [int(state.epoch) for state in saved] == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(history["total"], [15, 25, 35, 45, 55])
    np.testing.assert_array_equal(history["late"], [np.nan, np.nan, 1, 1, 1])
    again, _, rest = train_jointly(Counting(), SETTING, DATA, jax.random.key(0), state=saved[2])
    assert float(again["params"]["total"]) == 55
    np.testing.assert_array_equal(rest["total"], [45, 55])
