"""Against torch's cross-entropy."""

import jax.numpy as jnp
import numpy as np
import torch

from rnp_jax.checkpoints import from_state_dict
from rnp_jax.detection.loss import score_by_difference, score_by_loss, score_by_unlearned
from rnp_jax.types import Batch
from tests.networks import build_random, images_for, network_of, state_of, torch_input

NETWORK, IMAGES, LABELS = network_of("mlp"), images_for("mlp", 9), (np.arange(9) % 5).astype(np.int32)
MODULES = [build_random("mlp", seed) for seed in (0, 1)]
BEFORE, AFTER = (from_state_dict(NETWORK, state_of(module)) for module in MODULES)
DATA = Batch(IMAGES, LABELS)


def torch_loss(module: torch.nn.Module) -> np.ndarray:
    with torch.no_grad():
        logits = module(torch_input("mlp", IMAGES))
        return torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS).long(), reduction="none").numpy()


def test_scores_are_log_odds_of_the_stated_label():
    """p = exp(-loss) and log p - log(1 - p)."""
    before, after = map(torch_loss, MODULES)
    odds = [-loss - np.log1p(-np.exp(-loss)) for loss in (before, after)]
    np.testing.assert_allclose(score_by_loss(NETWORK, BEFORE, DATA), odds[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(score_by_unlearned(NETWORK, AFTER, DATA, 4), odds[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        score_by_difference(NETWORK, BEFORE, AFTER, DATA, 2), before - after, rtol=1e-4, atol=1e-5
    )


def test_samples_that_a_network_is_sure_of_are_told_apart():
    """A bias of 100 and more: their float32 losses are all 0."""
    params = {**BEFORE["params"], "4": {**BEFORE["params"]["4"], "bias": 100 * jnp.eye(5)[2]}}
    data = Batch(IMAGES, np.full(9, 2, np.int32))
    scores = score_by_loss(NETWORK, {**BEFORE, "params": params}, data)
    assert (scores > 80).all()
    assert len(np.unique(scores)) == 9
