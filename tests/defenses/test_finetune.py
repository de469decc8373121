"""Fine-tuning against torch, step for step."""

import jax
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict, to_state_dict
from rnp_jax.defenses.finetune import FinetuneConfig, finetune
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.types import Batch
from tests.networks import CLASSES, build_random, images_for, network_of, state_of
from tests.oracle import models, rnp

KEY = jax.random.key(0)


@pytest.mark.parametrize(("name", "schedule"), [("mlp", "cosine"), ("mlp", "constant"), ("resnet18", "cosine")])
def test_weights_are_torch_s(name, schedule):
    """Two epochs of a full batch of 6 and a short one of 4, a channel of the network pruned."""
    module, network = build_random(name), network_of(name)
    variables = from_state_dict(network, state_of(module))
    images, labels = images_for(name, 10), np.arange(10, dtype=np.int32) % CLASSES
    layer = "2" if name == "mlp" else "layer2.0.bn1"
    filters = dict(masks.filters(variables["masks"]))
    filters[layer] = filters[layer].at[1].set(0)
    config = FinetuneConfig(
        epochs=2, batch_size=6, learning_rate=0.02, weight_decay=0.01, schedule=schedule, shuffle=False
    )
    tuned, history = finetune(network, masks.apply_filters(variables, filters), Batch(images, labels), KEY, config)

    module.train()
    if name == "mlp":
        mask = torch.tensor(np.asarray(filters[layer]))
        module[2].register_forward_hook(lambda _, __, output: output * mask)
    else:
        models.set_masks(module, {n: torch.tensor(np.asarray(mask)) for n, mask in filters.items()})
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
    losses, correct = [], []
    for step, (x, y) in enumerate(rnp.make_batches(images, labels, 6) * 2):
        logits = module(x.flatten(1) if name == "mlp" else x)
        loss = F.cross_entropy(logits, y, reduction="none")
        losses.append(loss.detach())
        correct.append((logits.argmax(1) == y).float())
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        if schedule == "cosine" and step % 2:
            scheduler.step()
    unmasked = masks.apply_filters(tuned, masks.ones(filters))  # a file holds masks multiplied into the weights
    found = to_state_dict(network, unmasked)
    for key, expected in state_of(module).items():
        if "tracked" not in key:
            np.testing.assert_allclose(found[key], expected, rtol=1e-3, atol=2e-4, err_msg=key)
    for ours, theirs in (("loss", losses), ("accuracy", correct)):
        np.testing.assert_allclose(history[ours], torch.cat(theirs).reshape(2, 10).mean(1), rtol=1e-3)
    np.testing.assert_array_equal(masks.filters(tuned["masks"])[layer], filters[layer])


def test_progress_and_order(features):
    calls = []
    config = FinetuneConfig(epochs=2, batch_size=16)
    tuned, history = finetune(
        features.network, features.variables, features.data, KEY, config, progress=lambda *call: calls.append(call)
    )
    assert [call[:3] for call in calls] == [("finetune", 1, 2), ("finetune", 2, 2)]
    other, _ = finetune(features.network, features.variables, features.data, jax.random.key(1), config)
    assert not np.array_equal(tuned["params"]["0"]["kernel"], other["params"]["0"]["kernel"])
    assert history["loss"].shape == (2,)


def test_a_loss_that_diverges(features):
    params = jax.tree.map(lambda leaf: leaf * 1e30, features.variables["params"])
    with pytest.raises(DefenseError, match="fine-tuning diverged"):
        finetune(features.network, {**features.variables, "params": params}, features.data, KEY, FinetuneConfig())


@pytest.mark.parametrize("options", [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0.0}])
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected epochs >= 1"):
        FinetuneConfig(**options)
