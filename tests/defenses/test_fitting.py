"""The shared descent against torch, step for step, and what is refused before it begins."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax.checkpoints import from_state_dict, to_state_dict
from rnp_jax.defenses.fitting import FitConfig, check_batches, check_set, fit, start_fitting
from rnp_jax.defenses.method import Task
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.types import Batch
from tests.networks import CLASSES, build_random, images_for, network_of, state_of
from tests.oracle import rnp

KEY = jax.random.key(0)


@pytest.mark.parametrize("nesterov", [True, False])
def test_weights_are_torch_s(nesterov):
    """Four epochs of a full batch of six and a short one of four; the rate falls after the first and the third."""
    module, network = build_random("mlp"), network_of("mlp")
    images, labels = images_for("mlp", 10), np.arange(10, dtype=np.int32) % CLASSES
    config = FitConfig(4, 6, 0.05, (1, 3), 0.8, nesterov, 0.01)
    task = Task(network, from_state_dict(network, state_of(module)), Batch(images, labels), KEY)
    phase = replace(start_fitting("fit", network, config), shuffle=False)
    found = to_state_dict(network, fit(task, phase, task.variables, KEY))

    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.8, nesterov=nesterov, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3])
    module.train()
    for _ in range(4):
        for x, y in rnp.make_batches(images, labels, 6):
            optimizer.zero_grad()
            F.cross_entropy(module(x.flatten(1)), y).backward()
            optimizer.step()
        scheduler.step()
    for key, expected in state_of(module).items():
        np.testing.assert_allclose(found[key], expected, rtol=1e-4, atol=1e-5, err_msg=key)
    assert list(task.history) == list(task.timing) == ["fit"]
    assert task.history["fit"]["loss"].shape == (4,)


@pytest.mark.parametrize("options", [{"epochs": 0}, {"epochs": 1, "batch_size": 1}, {"epochs": 1, "learning_rate": 0}])
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected epochs >= 1"):
        FitConfig(**options)


def test_a_batch_of_one_image_is_refused():
    check_batches(10, "images", {"a.b": FitConfig(1, 5)})
    with pytest.raises(ConfigError, match=r"a\.b\.batch_size 3 leaves one of the 10 images in a batch of its own"):
        check_batches(10, "images", {"a.b": FitConfig(1, 3)})


@pytest.mark.parametrize("labels", [[], [0, 1], [0, 3, 1], [-1, 0, 0]])
def test_labels_that_do_not_fit(labels):
    with pytest.raises(DataError, match="expected one or more images, with labels from 0 to 2"):
        check_set(Batch(np.zeros((3 if labels else 0, 2, 2, 3)), np.array(labels, int)), 3)
