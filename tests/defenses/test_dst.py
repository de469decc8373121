"""D-ST: its contrastive loss against torch, its classifier's loss, and the whole on a few small images."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.defenses import dst
from rnp_jax.defenses.consistency import ConsistencyConfig, few_epochs
from rnp_jax.defenses.dst import DstConfig, TrustedLabels, tell_apart
from rnp_jax.defenses.fitting import FitConfig
from rnp_jax.errors import ConfigError
from rnp_jax.models import Architecture, Network
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.training.simclr import SimclrConfig, nt_xent
from rnp_jax.training.views import Views
from rnp_jax.types import Batch

KEY = jax.random.key(0)
rng = np.random.default_rng(0)
EMBEDDINGS = rng.standard_normal((10, 4)).astype(np.float32)
QUICK = replace(few_epochs(1), batch_size=8)


def torch_loss(embeddings: torch.Tensor, labels: np.ndarray, trusted: np.ndarray, temperature: float) -> torch.Tensor:
    """Written out anchor by anchor, the batch's two halves being the views."""
    unit, count = torch.nn.functional.normalize(embeddings, dim=1), len(labels)
    losses = []
    for i in range(2 * count):
        others = [j for j in range(2 * count) if j != i]
        logits = (unit[i] @ unit[others].T) / temperature
        log_probability = logits - torch.logsumexp(logits, 0)
        same = [
            j % count == i % count or (trusted[i % count] and labels[j % count] == labels[i % count]) for j in others
        ]
        losses.append(-(temperature / 0.07) * log_probability[torch.tensor(same)].mean())
    return torch.stack(losses)


def test_the_contrastive_loss_is_written_out():
    labels, trusted = np.array([0, 1, 1, 0, 1]), np.array([True, True, False, False, True])
    given = jnp.asarray(np.where(trusted, labels, labels + 2))
    found, slope = jax.value_and_grad(lambda each: TrustedLabels(2)(each, given, 0.1)[0].mean())(
        jnp.asarray(EMBEDDINGS)
    )
    theirs = torch.tensor(EMBEDDINGS, requires_grad=True)
    expected = torch_loss(theirs, labels, trusted, 0.1)
    np.testing.assert_allclose(TrustedLabels(2)(jnp.asarray(EMBEDDINGS), given, 0.1)[0], expected.detach(), rtol=1e-4)
    expected.mean().backward()
    assert theirs.grad is not None
    assert float(found) == pytest.approx(expected.mean().item(), rel=1e-5)
    np.testing.assert_allclose(slope, theirs.grad, rtol=1e-3, atol=1e-5)


def test_an_image_that_is_not_trusted_stays_a_positive_of_trusted_ones():
    found = TrustedLabels(3).pair(jnp.array([1, 1 + 3, 2]))
    np.testing.assert_array_equal(found, [[True, True, False], [False, True, False], [False, False, True]])


def test_without_trusted_labels_it_is_simclr_s_loss_scaled():
    found, nearest = TrustedLabels(2)(jnp.asarray(EMBEDDINGS), jnp.array([2, 3, 2, 3, 2]), 0.14)
    expected, partner = nt_xent(jnp.asarray(EMBEDDINGS), 0.14)
    np.testing.assert_allclose(found, 2 * expected, rtol=1e-5)
    np.testing.assert_array_equal(nearest, partner)


def test_without_poisoned_images_the_classifier_s_loss_is_plain():
    losses = cross_entropy(jnp.asarray(EMBEDDINGS), jnp.arange(10) % 4)
    clean = jnp.arange(10) < 6
    nothing = jnp.zeros(10, bool)
    assert float(tell_apart(losses, clean, nothing, 0.5)) == pytest.approx(float(losses[:6].mean()))
    found = tell_apart(losses, clean, ~clean, 0.5)
    assert float(found) == pytest.approx(float(losses[:6].mean() - 0.5 * losses[6:].mean()), rel=1e-5)
    assert float(tell_apart(losses, nothing, nothing, 0.5)) == 0


@pytest.fixture(scope="module")
def small() -> SimpleNamespace:
    """Blocks of colour, one to a class."""
    network = Network(Architecture("mlp", 3, 0, (("0", 16), ("2", 8), ("4", 3)), (4, 4, 3)), (0.4,) * 3, (0.3,) * 3)
    labels = np.arange(48, dtype=np.int32) % 3
    images = rng.integers(0, 90, (48, 4, 4, 3), np.uint8)
    images[np.arange(48), ..., labels] += 120
    return SimpleNamespace(network=network, data=Batch(images, labels))


CONFIG = DstConfig(
    ConsistencyConfig(0.5, 0.25, QUICK, QUICK),
    SimclrConfig(epochs=2, batch_size=16, temperature=0.1, learning_rate=0.05, projection=6),
    Views(scale=(0.8, 1.0), jitter=0.1, grayscale=0.0),
    FitConfig(10, 16, 0.5, weight_decay=0.0),
)


def test_features_learn_from_all_images_and_the_last_layer_from_the_divided_ones(small):
    seen = []
    found = dst(small.network, None, small.data, KEY, CONFIG, progress=lambda *row: seen.append(row[0]))
    assert list(dict.fromkeys(seen)) == ["fit", "spread", "contrast", "classifier"]
    assert (len(found.kept[0]), len(found.isolated), found.suspicion.shape) == (24, 12, (48,))
    assert (found.network, found.kind) == (small.network, "weights")
    logits, _ = small.network(found.variables, jnp.asarray(small.data.images[found.kept[0]]))
    assert (logits.argmax(-1) == small.data.labels[found.kept[0]]).mean() > 0.9
    other = dst(small.network, None, small.data, KEY, replace(CONFIG, unlearn=0.5))
    trunks = ({k: v for k, v in each.variables["params"].items() if k != "4"} for each in (found, other))
    jax.tree.map(np.testing.assert_array_equal, *trunks)
    assert not np.array_equal(found.variables["params"]["4"]["kernel"], other.variables["params"]["4"]["kernel"])


def test_what_does_not_fit(small):
    with pytest.raises(ConfigError, match=r"dst\.contrast\.batch_size 512 exceeds the 48 images"):
        dst(small.network, None, small.data, KEY, DstConfig())
    with pytest.raises(ConfigError, match=r"unlearn -1\.0"):
        DstConfig(unlearn=-1.0)
