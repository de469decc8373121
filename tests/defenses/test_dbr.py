"""D-BR: its epochs against torch, and what it takes for clean and poisoned."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax.checkpoints import from_state_dict, to_state_dict
from rnp_jax.defenses import METHODS, dbr
from rnp_jax.defenses.consistency import ConsistencyConfig, few_epochs
from rnp_jax.defenses.dbr import DbrConfig, relearn
from rnp_jax.defenses.fitting import FitConfig
from rnp_jax.errors import ConfigError
from rnp_jax.types import Batch
from tests.networks import CLASSES, build_random, images_for, network_of, state_of
from tests.oracle import rnp

KEY = jax.random.key(0)
QUICK = replace(few_epochs(1), batch_size=16)
CONFIG = DbrConfig(ConsistencyConfig(0.5, 0.25, QUICK, QUICK), FitConfig(2, 16, 0.01))


@pytest.mark.parametrize("name", ["mlp", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_weights_are_torch_s(name):
    """Three epochs of an ascent on one batch and a descent on another, momentum handed on."""
    module, network = build_random(name), network_of(name)
    variables = from_state_dict(network, state_of(module))
    images, labels = images_for(name, 14), np.arange(14, dtype=np.int32) % CLASSES
    parts = [Batch(images[chosen], labels[chosen]) for chosen in (slice(0, 4), slice(4, 14))]
    found, history = relearn(network, variables, *parts, KEY, FitConfig(3, 10, 0.01, weight_decay=0.01))

    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)
    module.train()
    for _ in range(3):
        for part, sign in zip(parts, (-1, 1), strict=True):
            ((x, y),) = rnp.make_batches(*part, 10)
            optimizer.zero_grad()
            (sign * F.cross_entropy(module(x.flatten(1) if name == "mlp" else x), y)).backward()
            optimizer.step()
    ours, tolerance = to_state_dict(network, found), 1e-5 if name == "mlp" else 1e-3
    for key, expected in state_of(module).items():
        if "tracked" not in key:
            np.testing.assert_allclose(ours[key], expected, rtol=1e-3, atol=tolerance, err_msg=key)
    assert {key: values.shape for key, values in history.items()} == dict.fromkeys(
        ("loss", "accuracy", "poisoned_loss", "poisoned_accuracy"), (3,)
    )


@pytest.fixture(scope="module")
def small() -> SimpleNamespace:
    network = network_of("mlp")
    images, labels = images_for("mlp", 48), np.arange(48, dtype=np.int32) % CLASSES
    return SimpleNamespace(network=network, variables=network.init(KEY), data=Batch(images, labels))


def test_the_suspicious_network_itself_is_changed(small):
    seen = []
    found = dbr(
        small.network, small.variables, small.data, KEY, CONFIG, progress=lambda *row: seen.append(row[:2])
    )  # fmt: skip
    assert (found.network, found.kind, found.choice.pruned) == (None, "weights", 0)
    assert (len(found.kept[0]), len(found.isolated), found.suspicion.shape) == (24, 12, (48,))
    assert found.suspicion[found.kept[0]].max() <= found.suspicion[found.isolated].min()
    assert seen == [("fit", 1), ("spread", 1), ("relearn", 1), ("relearn", 2)]
    assert not METHODS["dbr"].anew
    nearly = dbr(small.network, small.variables, small.data, KEY, replace(CONFIG, relearn=FitConfig(1, 16, 1e-9)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), nearly.variables["params"], small.variables["params"]
    )


def test_batches_of_one_image_are_refused(small):
    with pytest.raises(ConfigError, match=r"dbr\.relearn\.batch_size 11 leaves one of the 12 images held to be"):
        dbr(small.network, small.variables, small.data, KEY, replace(CONFIG, relearn=FitConfig(1, 11, 0.01)))
