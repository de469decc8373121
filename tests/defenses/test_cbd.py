"""CBD: its weights, and a step of its second network against torch."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax.checkpoints import from_state_dict, to_state_dict
from rnp_jax.defenses import cbd
from rnp_jax.defenses.cbd import CbdConfig, start_reweighting, weigh
from rnp_jax.defenses.fitting import FitConfig, fit
from rnp_jax.defenses.method import Task
from rnp_jax.detection.separation import judge_scores
from rnp_jax.errors import ConfigError
from rnp_jax.types import Batch
from tests.marked import marked_set
from tests.networks import CLASSES, build_random, images_for, network_of, state_of
from tests.oracle import rnp

KEY = jax.random.key(0)
QUICK = FitConfig(2, 16, 0.05)
CONFIG = CbdConfig(QUICK, QUICK, 0)


def test_equal_losses_weigh_the_same_and_what_the_biased_network_fits_weighs_nothing():
    losses = jnp.array([0.1, 1.0, 7.0])
    np.testing.assert_allclose(weigh(losses, losses), 0.5, atol=1e-6)
    np.testing.assert_array_equal(weigh(jnp.zeros(3), losses), 0)
    found = weigh(jnp.array([0.1, 1.0, 10.0]), jnp.ones(3))
    assert (np.diff(found) > 0).all()
    assert ((found > 0) & (found < 1)).all()


def test_weights_are_torch_s():
    """Three epochs of a full batch of six and a short one of four, the biased network in evaluation mode."""
    module, biased, network = build_random("mlp"), build_random("mlp", seed=1), network_of("mlp")
    images, labels = images_for("mlp", 10), np.arange(10, dtype=np.int32) % CLASSES
    start, leaning = (from_state_dict(network, state_of(each)) for each in (module, biased))
    config = FitConfig(3, 6, 0.05, (), 0.9, True, 1e-3)
    task = Task(network, start, Batch(images, labels), KEY)
    frozen = {name: leaning[name] for name in ("params", "batch_stats")}
    phase = replace(start_reweighting(network, config), shuffle=False)
    found = to_state_dict(network, fit(task, phase, start, KEY, biased=frozen))

    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
    module.train()
    for x, y in rnp.make_batches(images, labels, 6) * 3:
        losses = F.cross_entropy(module(x.flatten(1)), y, reduction="none")
        with torch.no_grad():
            other = F.cross_entropy(biased(x.flatten(1)), y, reduction="none")
            weights = other / (losses + other + 1e-8)
            weights *= len(weights) / weights.sum()
        optimizer.zero_grad()
        (weights * losses).mean().backward()
        optimizer.step()
    for key, expected in state_of(module).items():
        np.testing.assert_allclose(found[key], expected, rtol=1e-4, atol=1e-5, err_msg=key)


def test_with_equal_networks_the_first_step_is_ordinary_training(features):
    """All weights are then 1 after division by their mean."""
    frozen = {name: features.variables[name] for name in ("params", "batch_stats")}
    fixed = {"masks": features.variables["masks"], "biased": frozen}
    batch = Batch(jnp.asarray(features.data.images), jnp.asarray(features.data.labels))
    phase = start_reweighting(features.network, QUICK)
    objective, (_, metrics) = phase.loss(features.variables["params"], fixed, {}, batch)
    assert float(objective) == pytest.approx(float(metrics["loss"]) / 48, rel=1e-4)


def test_a_new_network_comes_of_it_and_a_score_for_every_image(features):
    seen = []
    found = cbd(features.network, None, features.data, KEY, CONFIG, progress=lambda *row: seen.append(row[:3]))
    assert [name for name, *_ in seen] == ["biased", "biased", "clean", "clean"]
    assert (found.network, found.kind, found.kept, len(found.isolated)) == (features.network, "weights", (), 0)
    assert found.suspicion.shape == (48,)
    assert ((found.suspicion >= 0) & (found.suspicion <= 1)).all()
    again = cbd(features.network, None, features.data, KEY, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, again.variables, found.variables)


def test_what_does_not_fit(features):
    with pytest.raises(ConfigError, match="cutout -1"):
        CbdConfig(cutout=-1)
    with pytest.raises(ConfigError, match=r"cbd\.clean\.batch_size 47 leaves one of the 48 images"):
        cbd(features.network, None, features.data, KEY, replace(CONFIG, clean=replace(QUICK, batch_size=47)))


def test_images_with_a_mark_that_is_easier_than_the_classes_get_small_weights(features):
    data, marked = marked_set()
    found = cbd(features.network, None, data, KEY, CONFIG)
    assert judge_scores(found.suspicion, marked).auroc > 0.9
