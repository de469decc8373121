"""What the phases of a run move between host and device: what they ask for by name, and nothing on the side.

On a CPU JAX's guard sees every value of the host that a program is given on the side, plain numbers too. It is blind to
the other direction, because host and device have one memory there: what makes one number of an array is caught by hand,
and only ``np.asarray`` goes unseen.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import jax
import numpy as np
import pytest

from rnp_jax.data import Augmentation
from rnp_jax.defenses import AnpConfig
from rnp_jax.defenses.anp import optimize_masks
from rnp_jax.defenses.distil import DistilConfig, distil
from rnp_jax.defenses.finetune import FinetuneConfig, finetune
from rnp_jax.defenses.recover import RecoverConfig, recover
from rnp_jax.defenses.sensitivity import HolderConfig, holder_scores
from rnp_jax.defenses.unlearn import UnlearnConfig, unlearn
from rnp_jax.evaluation.predict import predict
from rnp_jax.training.mixmatch import MixMatchConfig, mixmatch
from rnp_jax.training.simclr import SimclrConfig, pretrain
from rnp_jax.training.supervised import TrainConfig, train
from rnp_jax.types import Batch, Progress, Variables
from tests.programs import ARCHITECTURE, Numbers, network_of

B, N = 5, 12
NETWORK = network_of("float32", Numbers())
CLEAN = Batch(
    np.random.default_rng(0).integers(0, 256, (N, *ARCHITECTURE.image_shape), np.uint8),
    np.arange(N, dtype=np.int32) % ARCHITECTURE.num_classes,
)

Run = Callable[[Variables, jax.Array, Progress | None], object]

PHASES: Mapping[str, Run] = MappingProxyType(
    {
        "unlearn": lambda v, key, told: unlearn(
            NETWORK, v, CLEAN, key, UnlearnConfig(2, B), augment=Augmentation(2), progress=told
        ),
        "recover": lambda v, key, told: recover(NETWORK, v, CLEAN, key, RecoverConfig(2, B), progress=told),
        "tune": lambda v, key, told: finetune(NETWORK, v, CLEAN, key, FinetuneConfig(2, B), progress=told),
        "distil": lambda v, key, told: distil(NETWORK, v, v, CLEAN, key, DistilConfig(2, B), progress=told),
        "anp": lambda v, key, told: optimize_masks(
            NETWORK, v, CLEAN, key, AnpConfig(2, log_every=1, batch_size=B), progress=told
        ),
        "train": lambda v, key, told: train(NETWORK, v, CLEAN, key, TrainConfig(2, B), progress=told),
        "simclr": lambda v, key, told: pretrain(
            NETWORK, v, CLEAN.images, key, SimclrConfig(2, B, projection=3), progress=told
        ),
        "mixmatch": lambda v, key, told: mixmatch(
            NETWORK, v, CLEAN, CLEAN.images, key, MixMatchConfig(2, B), progress=told
        ),
        "evaluate": lambda v, *_: predict(NETWORK, v, CLEAN, B),
        "score": lambda v, *_: holder_scores(NETWORK, v, CLEAN.images, HolderConfig()),
    }
)


def refuse(array: jax.Array, *_: object) -> object:
    raise AssertionError(f"the host waits for one number: {array.aval}")


@contextmanager
def guarded() -> Iterator[None]:
    """Whatever is moved on the side is an error."""
    kind = type(jax.device_put(0))
    with pytest.MonkeyPatch.context() as patched, jax.transfer_guard("disallow"):
        for conversion in ("__float__", "__int__", "__bool__", "__index__", "item", "tolist"):
            patched.setattr(kind, conversion, refuse)
        yield


@pytest.mark.parametrize("name", PHASES)
def test_a_phase_moves_nothing_on_the_side(name):
    variables, key, told = NETWORK.init(jax.random.key(0)), jax.random.key(1), []
    with guarded():
        PHASES[name](variables, key, None)
        PHASES[name](variables, key, lambda *row: told.append(row))
    assert [row[1:3] for row in told] == ([] if name in ("evaluate", "score") else [(1, 2), (2, 2)])
    assert all(type(value) is float for row in told for value in row[3].values())


@jax.jit
def add(one: jax.Array, other: jax.Array) -> jax.Array:
    return one + other


def test_what_is_moved_on_the_side_is_seen():
    array = jax.device_put(np.float32(1))
    with guarded():
        for value in (np.float32(2), 2.0):
            with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
                add(array, value)
        for convert in (float, int, bool):
            with pytest.raises(AssertionError, match="waits for one number"):
                convert(add(array, array))
    assert float(add(array, array)) == 2
