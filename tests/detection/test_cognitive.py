"""Against the published loop in torch, fed the same colours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.checkpoints import from_state_dict
from rnp_jax.detection import cognitive
from rnp_jax.detection.cognitive import CognitiveConfig, distil_masks, score_by_distillation, total_variation
from rnp_jax.errors import ConfigError
from tests.compiled import count_compiled
from tests.networks import build_random, images_for, network_of, state_of
from tests.oracle import rnp

NETWORK, MODULE = network_of("mlp"), build_random("mlp")
VARIABLES = from_state_dict(NETWORK, state_of(MODULE))
IMAGES = images_for("mlp", 5)
KEY = jax.random.key(3)


def torch_masks(steps: int, gamma: float, beta: float) -> np.ndarray:
    """Adam on the mean loss of the batch, colours as ours are drawn."""
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (rnp.MEAN, rnp.STD))
    pixels = torch.tensor(IMAGES / 255.0, dtype=torch.float32).permute(0, 3, 1, 2)
    keys = [jax.random.fold_in(KEY, i) for i in range(len(IMAGES))]

    def logits_of(images: torch.Tensor) -> torch.Tensor:
        return MODULE(((images - mean) / std).flatten(1))

    logits = logits_of(pixels).detach()
    raw = torch.ones(len(IMAGES), 1, *IMAGES.shape[1:3], requires_grad=True)
    adam = torch.optim.Adam([raw], lr=0.1, betas=(0.1, 0.1))
    for step in range(steps):
        drawn = [np.array(jax.random.uniform(jax.random.fold_in(key, step), (1, 1, 3))) for key in keys]
        colour = torch.tensor(np.stack(drawn)).permute(0, 3, 1, 2)
        masks = (torch.tanh(raw) + 1) / 2
        change = (logits_of(pixels * masks + (1 - masks) * colour) - logits).abs().mean(1)
        variation = sum((masks.diff(dim=axis) ** 2).sum((1, 2, 3)) for axis in (2, 3)) / masks[0].numel()
        adam.zero_grad()
        (change + gamma * masks.sum((1, 2, 3)) + beta * variation).mean().backward()
        adam.step()
    return ((torch.tanh(raw) + 1) / 2).detach().numpy()[:, 0]


@pytest.mark.parametrize(("gamma", "beta"), [(0.01, 1.0), (0.1, 0.0)])
def test_masks_are_the_published_loop_s(gamma, beta):
    found = distil_masks(NETWORK, VARIABLES, IMAGES, KEY, CognitiveConfig(steps=20, gamma=gamma, beta=beta))
    np.testing.assert_allclose(found, torch_masks(20, gamma, beta), atol=2e-3)
    assert np.ptp(found) > 0.1, "masks have moved apart"


def test_the_first_step_is_the_learning_rate_s_where_only_the_norm_counts():
    flat = jax.tree.map(jnp.zeros_like, VARIABLES["params"])
    config = CognitiveConfig(steps=1, learning_rate=0.25)
    found = distil_masks(NETWORK, {**VARIABLES, "params": flat}, IMAGES, KEY, config)
    np.testing.assert_allclose(found, np.full(IMAGES.shape[:3], (np.tanh(0.75) + 1) / 2), rtol=1e-5)
    scores = score_by_distillation(NETWORK, {**VARIABLES, "params": flat}, IMAGES, KEY, config)
    np.testing.assert_allclose(scores, -8 * (np.tanh(0.75) + 1) / 2, rtol=1e-5)


def test_an_image_s_mask_does_not_depend_on_its_batch_and_one_program_serves_all():
    config = CognitiveConfig(steps=7)
    before = count_compiled(cognitive._distil)
    small = distil_masks(NETWORK, VARIABLES, IMAGES, KEY, config, 2)
    assert count_compiled(cognitive._distil) - before == 1
    whole = distil_masks(NETWORK, VARIABLES, IMAGES, KEY, config, 5)
    np.testing.assert_allclose(small, whole, atol=1e-4)


def test_total_variation_by_hand():
    masks = jnp.asarray([[[0.0, 1.0, 3.0], [0.0, 0.0, 0.0]]])
    assert total_variation(masks).tolist() == pytest.approx([(0 + 1 + 9 + 1 + 4) / 6])


@pytest.mark.parametrize("settings", [{"steps": 0}, {"learning_rate": 0.0}, {"gamma": -1.0}, {"beta": -1.0}])
def test_impossible_settings(settings):
    with pytest.raises(ConfigError, match="expected steps >= 1"):
        CognitiveConfig(**settings)
