"""FCT and the loss that spreads the classes, against numpy and torch."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax.defenses.consistency import (
    ConsistencyConfig,
    centre_similarity,
    divide,
    few_epochs,
    score_consistency,
    separate,
    start_spreading,
)
from rnp_jax.defenses.method import Task
from rnp_jax.errors import ConfigError
from rnp_jax.models import Architecture, Network
from rnp_jax.training.turns import Turns
from rnp_jax.types import Batch

KEY = jax.random.key(0)
NETWORK = Network(Architecture("mlp", 3, 0, (("0", 8), ("2", 5), ("4", 3)), (6, 6, 3)), (0.0,) * 3, (1.0,) * 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 6, 6, 3), np.uint8)
LABELS = np.arange(24, dtype=np.int32) % 3
QUICK = replace(few_epochs(1), batch_size=8)


def test_an_image_that_turns_into_itself_has_no_score():
    images = np.full((3, 6, 6, 3), 90, np.uint8)
    np.testing.assert_array_equal(score_consistency(NETWORK, NETWORK.init(KEY), images, KEY, Turns(0.0, 0.0)), 0)


def test_the_score_is_the_mean_squared_change_of_the_features():
    variables = NETWORK.init(KEY)
    found = score_consistency(NETWORK, variables, IMAGES, KEY, lambda _, images: images[:, ::-1])
    before, after = (NETWORK.features(variables, jnp.asarray(each))[0] for each in (IMAGES, IMAGES[:, ::-1]))
    np.testing.assert_allclose(found, np.square(before - after).mean(-1), rtol=1e-4)


def test_scaled_features_scale_the_scores_by_the_square_and_divide_alike():
    variables = NETWORK.init(KEY)
    layer = variables["params"]["2"]
    tripled = {**layer, "kernel": 3 * layer["kernel"]}
    larger = {**variables, "params": {**variables["params"], "2": tripled}}
    one, nine = (score_consistency(NETWORK, each, IMAGES, KEY) for each in (variables, larger))
    np.testing.assert_allclose(nine, 9 * one, rtol=1e-4)
    first, second = (divide(each, 0.25, 0.1) for each in (one, nine))
    np.testing.assert_array_equal(first.clean, second.clean)
    np.testing.assert_array_equal(first.poisoned, second.poisoned)


def test_the_lowest_are_held_to_be_clean_and_the_highest_to_be_poisoned():
    found = divide(np.array([5.0, 1, 9, 3, 7, 2, 8, 4, 6, 0]), 0.3, 0.2)
    assert (found.clean.tolist(), found.poisoned.tolist()) == ([1, 5, 9], [2, 6])


def test_orthogonal_centres_have_no_similarity_and_equal_ones_all_there_is():
    labels = jnp.array([0, 0, 1, 2])
    apart = jnp.array([[2.0, 0, 0], [4.0, 0, 0], [0, 1.0, 0], [0, 0, 5.0]])
    assert float(centre_similarity(apart, labels, 3)) == pytest.approx(0, abs=1e-6)
    assert float(centre_similarity(jnp.ones((4, 3)), labels, 3)) == pytest.approx(6 / 9)


def test_the_similarity_is_torch_s_and_of_the_classes_in_the_batch_alone():
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(12, 4)).astype(np.float32), np.array([0, 3, 3, 4] * 3)
    found, slope = jax.value_and_grad(lambda each: centre_similarity(each, jnp.asarray(labels), 6))(
        jnp.asarray(features)
    )
    theirs = torch.tensor(features, requires_grad=True)
    centres = F.normalize(torch.stack([theirs[labels == each].mean(0) for each in (0, 3, 4)]), dim=1)
    similarity = centres @ centres.T
    expected = similarity.masked_fill(torch.eye(3, dtype=torch.bool), 0).mean()
    expected.backward()
    assert theirs.grad is not None
    assert float(found) == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(slope, theirs.grad, rtol=1e-4, atol=1e-6)


def test_spreading_leaves_the_head_alone():
    phase, variables = start_spreading(NETWORK, QUICK), NETWORK.init(KEY)
    batch = Batch(jnp.asarray(IMAGES), jnp.asarray(LABELS))
    slopes = jax.grad(lambda each: phase.loss(each, {"masks": variables["masks"]}, {}, batch)[0])(variables["params"])
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slopes.pop("4")))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(slopes))


def test_the_set_is_divided_by_a_network_of_its_own():
    task = Task(NETWORK, None, Batch(IMAGES, LABELS), KEY)
    config = ConsistencyConfig(0.5, 0.25, QUICK, QUICK)
    found = separate(task, config, KEY, "dbr.separation")
    assert (len(found.clean), len(found.poisoned), found.scores.shape) == (12, 6, (24,))
    assert found.scores[found.clean].max() <= found.scores[found.poisoned].min()
    assert list(task.history) == ["fit", "spread"]
    np.testing.assert_array_equal(separate(task, config, KEY, "x").scores, found.scores)


def test_shares_that_do_not_fit():
    with pytest.raises(ConfigError, match="expected shares above 0 whose sum is 1 or less"):
        ConsistencyConfig(0.8, 0.3)
    task = Task(NETWORK, None, Batch(IMAGES, LABELS), KEY)
    with pytest.raises(ConfigError, match=r"dst\.separation\.poisoned 0\.05 is 1 of 24 images: raise it to 0\.083"):
        separate(task, ConsistencyConfig(), KEY, "dst.separation")
