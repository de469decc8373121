"""DBD: its symmetric loss in closed form, its selection, and the whole on a few small images."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.defenses import dbd
from rnp_jax.defenses.dbd import DbdConfig, SymmetricLoss, WarmupConfig, release_mixmatch, select, start_warmup
from rnp_jax.defenses.phase import run_phase
from rnp_jax.errors import ConfigError
from rnp_jax.models import Architecture, Network
from rnp_jax.training.mixmatch import MixMatchConfig
from rnp_jax.training.simclr import SimclrConfig
from rnp_jax.training.views import Views
from rnp_jax.types import Batch

KEY = jax.random.key(0)
rng = np.random.default_rng(0)
CONFIG = DbdConfig(
    SimclrConfig(epochs=2, batch_size=16, learning_rate=0.05, projection=6),
    Views(scale=(0.8, 1.0), jitter=0.1, grayscale=0.0),
    WarmupConfig(4, 16, 0.05),
    mixmatch=MixMatchConfig(
        epochs=3, batch_size=8, learning_rate=0.01, ramp_epochs=3.0, optimizer="adam", iterations=5
    ),
)


def test_the_symmetric_loss_is_torch_s():
    logits, labels = rng.normal(0, 4, (12, 5)).astype(np.float32), np.arange(12) % 5
    p = torch.tensor(logits).softmax(1).clamp(1e-7, 1)
    one_hot = torch.nn.functional.one_hot(torch.tensor(labels), 5).float().clamp(1e-4, 1)
    forward = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels), reduction="none")
    expected = 0.1 * forward - (p * one_hot.log()).sum(1)
    np.testing.assert_allclose(SymmetricLoss()(jnp.asarray(logits), jnp.asarray(labels)), expected, rtol=1e-4)


def test_it_vanishes_at_a_certain_right_answer_and_the_reverse_part_is_what_is_left_to_the_others():
    sure = 200 * jnp.eye(3)
    np.testing.assert_allclose(SymmetricLoss()(sure, jnp.arange(3)), 0, atol=1e-5)
    p = jnp.array([[0.7, 0.2, 0.1]])
    found = SymmetricLoss(0.0, 1.0)(jnp.log(p), jnp.array([0]))
    np.testing.assert_allclose(found, -np.log(1e-4) * 0.3, rtol=1e-4)


@pytest.fixture(scope="module")
def small() -> SimpleNamespace:
    """Blocks of colour, one to a class; the last eight images have a wrong label."""
    network = Network(Architecture("mlp", 3, 0, (("0", 16), ("2", 8), ("4", 3)), (4, 4, 3)), (0.4,) * 3, (0.3,) * 3)
    labels = np.arange(48, dtype=np.int32) % 3
    images = rng.integers(0, 90, (48, 4, 4, 3), np.uint8)
    images[np.arange(48), ..., labels] += 120
    labels[40:] = (labels[40:] + 1) % 3
    return SimpleNamespace(network=network, data=Batch(images, labels))


def test_the_images_are_ordered_by_their_loss_whatever_the_batches(small):
    variables, data = small.network.init(KEY), Batch(*map(jnp.asarray, small.data))
    loss = SymmetricLoss()
    expected = loss(small.network(variables, data.images)[0], data.labels)
    for size in (7, 64):
        order, losses = select(small.network, variables, data, loss, size)
        np.testing.assert_allclose(losses, expected, rtol=1e-4)
        assert (np.diff(np.asarray(losses)[np.asarray(order)]) >= 0).all()


def test_the_warm_up_moves_the_head_alone(small):
    variables, head = small.network.init(KEY), small.network.head
    rest = {name: tree for name, tree in variables["params"].items() if name != head}
    fixed = {"params": rest, "masks": variables["masks"]}
    phase = start_warmup(small.network, CONFIG)
    trained, _, history, _ = run_phase(phase, {head: variables["params"][head]}, fixed, {}, small.data, KEY, None)
    assert list(trained) == [head]
    assert history["accuracy"][-1] > history["accuracy"][0]


def test_wrong_labels_are_not_trusted(small):
    seen = []
    found = dbd(small.network, None, small.data, KEY, CONFIG, progress=lambda *row: seen.append(row[:2]))
    assert list(dict.fromkeys(name for name, _ in seen)) == ["simclr", "warmup", "mixmatch"]
    (kept,) = found.kept
    assert len(kept) == 24
    assert (kept >= 40).mean() < 0.1
    assert found.suspicion[40:].min() > found.suspicion[kept].max()
    assert found.history["mixmatch"]["loss"].shape == (3,)
    from_given = dbd(small.network, found.variables, small.data, KEY, CONFIG)
    assert list(from_given.history) == ["warmup", "mixmatch"]


def test_the_release_s_constants_and_what_does_not_fit(small):
    found = release_mixmatch()
    assert (found.count_steps(9, 9), found.ramp_epochs, found.optimizer) == (1024, 190.0, "adam")
    with pytest.raises(ConfigError, match=r"keep 1\.0"):
        DbdConfig(keep=1.0)
    with pytest.raises(ConfigError, match=r"dbd\.simclr\.batch_size 512 exceeds the 48 images"):
        dbd(small.network, None, small.data, KEY, DbdConfig())
    with pytest.raises(ConfigError, match=r"dbd\.keep 0\.01 keeps none of 48 images"):
        dbd(small.network, None, small.data, KEY, replace(CONFIG, keep=0.01))
