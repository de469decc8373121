"""Hölder Pruning of a head in which one unit was made a backdoor by hand, and of whole networks."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.defenses.holder import HolderPruneConfig, holder
from rnp_jax.defenses.sensitivity import HolderConfig, holder_scores
from rnp_jax.defenses.thresholds import ThresholdConfig
from rnp_jax.errors import DefenseError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Batch
from tests.networks import images_for, network_of

KEY = jax.random.key(0)
WIDE = HolderConfig(radii=(0.5, 2.0))


@pytest.fixture(scope="module")
def backdoored(features) -> SimpleNamespace:
    """The quietest unit of each hidden layer, silent on the data, answers a trigger (every feature raised): class 0."""
    params = jax.tree.map(np.array, features.variables["params"])
    outputs = features.network.activations(features.variables, features.holdout.images)
    first, second = (int(np.asarray(outputs[layer]).max(0).argmin()) for layer in ("0", "2"))
    highest = features.holdout.images.sum(-1).max()
    params["0"]["kernel"][:, first], params["0"]["bias"][first] = 10, -10 * (highest + 1)
    params["2"]["kernel"][first], params["2"]["kernel"][:, second], params["2"]["bias"][second] = 0, 0, 0
    params["2"]["kernel"][first, second], params["4"]["kernel"][second] = 10, [20, -20, -20]
    triggered = Batch(features.holdout.images + np.float32(1), np.zeros(60, np.int32))
    return SimpleNamespace(
        variables={**features.variables, "params": params}, triggered=triggered, units={"0": [first], "2": [second]}
    )


def share_of(network, variables, batch: Batch) -> float:
    return float((predict(network, variables, batch).labels[0] == batch.labels).mean())


def test_the_backdoor_s_units_are_pruned_and_the_rest_kept(features, backdoored):
    network = features.network
    assert share_of(network, backdoored.variables, backdoored.triggered) == 1
    assert share_of(network, backdoored.variables, features.holdout) > 0.9
    config = HolderPruneConfig(replace(WIDE, scope="local"), ThresholdConfig("number", number=1))
    result = holder(network, backdoored.variables, features.data, KEY, config)
    found = {layer: np.asarray(mask) for layer, mask in masks.filters(result.variables["masks"]).items()}
    assert {layer: np.flatnonzero(mask == 0).tolist() for layer, mask in found.items()} == backdoored.units
    assert result.choice.pruned == 2
    assert result.kind == "score"
    assert share_of(network, result.variables, backdoored.triggered) < 0.5
    assert share_of(network, result.variables, features.holdout) > 0.9


def test_what_a_silent_unit_feeds_shows_in_the_local_scope_only(features, backdoored):
    """No gradient passes a ReLU that is inactive on every sample, so that the unit behind it looks constant."""
    scores = {
        scope: holder_scores(features.network, backdoored.variables, features.data.images, replace(WIDE, scope=scope))
        for scope in ("feature", "local")
    }
    (unit,) = backdoored.units["2"]
    assert scores["feature"]["2"][unit] == 0
    assert scores["local"]["2"].argmax() == unit


def test_scores_are_those_of_the_masked_network_and_need_no_labels(features, backdoored):
    """Masks that the network came with become part of its weights, and pruning starts anew."""
    like = masks.filters(backdoored.variables["masks"])
    masked = masks.apply_filters(backdoored.variables, masks.keep(like, [5]))
    config = HolderPruneConfig(WIDE, ThresholdConfig("number", number=1))
    result = holder(features.network, masked, features.data._replace(labels=features.data.labels * 0), KEY, config)
    expected = holder_scores(features.network, masked, features.data.images, WIDE)
    for layer, scores in expected.items():
        np.testing.assert_array_equal(result.values[layer], scores)
    assert np.asarray(result.variables["params"]["0"]["kernel"])[:, 5].tolist() == [0] * 6
    assert set(result.timing) == {"score", "choose"}
    assert all(seconds >= 0 for seconds in result.timing.values())


def test_a_budget_of_accuracy_needs_and_uses_held_out_images(features):
    config = HolderPruneConfig(WIDE, ThresholdConfig("budget", accuracy_budget=0.0))
    result = holder(features.network, features.variables, features.data, KEY, config, holdout=features.holdout)
    assert result.choice.holdout_acc_before is not None
    assert result.choice.holdout_acc_after is not None
    assert result.choice.holdout_acc_after.count >= result.choice.holdout_acc_before.count
    measured = share_of(features.network, result.variables, features.holdout)
    assert measured == pytest.approx(result.choice.holdout_acc_after.value)


@pytest.mark.slow
def test_whole_networks_are_pruned_where_their_masks_live():
    """The mask of ``layer1.0.conv1`` answers for the batch norm behind it, that of the stem for all on its stream."""
    network = network_of("preactresnet18", "conv_output")
    variables, images = network.init(KEY), images_for("preactresnet18", 6)
    sensitivity = replace(WIDE, scope="local")
    config = HolderPruneConfig(sensitivity, ThresholdConfig("number", number=1))
    result = holder(network, variables, Batch(images, np.zeros(6, np.int32)), KEY, config)
    assert set(result.values) == set(masks.filters(variables["masks"]))
    by_site = holder_scores(network, variables, images, sensitivity)
    np.testing.assert_array_equal(result.values["layer1.0.conv1"], by_site["layer1.0.bn2"])
    fed = [by_site[site.layer] for site in network.sites if "conv1" in site.producers]
    assert len(fed) == 3
    np.testing.assert_array_equal(result.values["conv1"], np.max(fed, axis=0))
    pruned = np.asarray(masks.filters(result.variables["masks"])["layer1.0.conv1"])
    assert np.flatnonzero(pruned == 0).tolist() == [int(by_site["layer1.0.bn2"].argmax())]


def test_a_network_without_hidden_layers():
    network = Network(Architecture("mlp", 3, 0, (("fc", 3),), (1, 1, 6)), (0.0,) * 6, (1.0,) * 6)
    data = Batch(np.zeros((4, 1, 1, 6), np.float32), np.zeros(4, np.int32))
    with pytest.raises(DefenseError, match="no hidden layer"):
        holder(network, network.init(KEY), data, KEY, HolderPruneConfig())
