"""The rows that bound every table: random scores, and the trigger's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.checkpoints import from_state_dict
from rnp_jax.defenses.controls import none, oracle, oracle_scores, random, random_scores
from rnp_jax.defenses.holder import HolderPruneConfig, holder
from rnp_jax.defenses.method import Pairs
from rnp_jax.defenses.scores import count_pruned, prune_by_score
from rnp_jax.defenses.thresholds import ThresholdConfig
from rnp_jax.errors import DataError, DefenseError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from tests.networks import build_random, images_for, network_of, state_of

KEY = jax.random.key(0)


def test_random_scores_are_positive_and_the_key_s(features):
    network = network_of("resnet18", width=16)
    variables = from_state_dict(network, state_of(build_random("resnet18", width=16)))
    scores = random_scores(network, variables, KEY)
    like = masks.filters(variables["masks"])
    assert {name: row.shape for name, row in scores.items()} == {name: row.shape for name, row in like.items()}
    row = masks.flatten(scores)
    assert 0 < row.min() < row.max() < 1
    np.testing.assert_allclose(np.quantile(row, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.05)
    np.testing.assert_array_equal(masks.flatten(random_scores(network, variables, KEY)), row)
    assert not np.array_equal(masks.flatten(random_scores(network, variables, jax.random.key(1))), row)


def test_pruned_at_random_as_many_as_by_another(features):
    scores = random_scores(features.network, features.variables, KEY)
    result = prune_by_score(features.network, features.variables, scores, {"0": 5, "2": 3})
    assert count_pruned(result) == {"0": 5, "2": 3}
    for name, mask in masks.filters(result.variables["masks"]).items():
        gone = np.asarray(mask) == 0
        assert scores[name][gone].min() > scores[name][~gone].max()


def test_a_control_tells_what_it_costs_as_every_other(features):
    images, config = features.data.images, HolderPruneConfig(threshold=ThresholdConfig("number", number=7))
    reference = holder(features.network, features.variables, features.data, KEY, config, holdout=features.holdout)
    scores = {
        random: random_scores(features.network, features.variables, KEY),
        oracle: oracle_scores(features.network, features.variables, images, images + np.float32(0.3)),
    }
    for method, expected in scores.items():
        found = method(
            features.network, features.variables, features.data, KEY, config,
            holdout=features.holdout, pairs=Pairs(images, images + np.float32(0.3)),
        )  # fmt: skip
        assert count_pruned(found) == count_pruned(reference) == {"0": 7, "2": 7}
        for layer, row in expected.items():
            np.testing.assert_array_equal(found.values[layer], row)
        labels = predict(features.network, found.variables, features.holdout).labels[0]
        assert found.choice.holdout_acc_after is not None
        assert found.choice.holdout_acc_after.count == (labels == features.holdout.labels).sum()
        assert found.choice.holdout_acc_before == reference.choice.holdout_acc_before
        assert found.warnings == ()
        assert list(found.timing) == ["score", "choose"]


def test_no_defense_leaves_everything_as_it_is(features):
    found = none(features.network, features.variables, None, KEY)
    assert found.variables is features.variables
    assert (found.prunes, found.choice.pruned, found.choice.rule) == (False, 0, "Nothing is changed.")
    assert (found.history, found.timing, found.warnings) == ({}, {}, ())


def test_the_oracle_s_scores_by_hand(features):
    """The mean change of each unit, over the layer's mean activation."""
    clean = features.data.images
    triggered = clean.copy()
    triggered[..., 2] = 2
    hidden = [
        {
            name: np.asarray(jax.nn.relu(row))
            for name, row in features.network.activations(features.variables, jnp.asarray(each)).items()
        }
        for each in (clean, triggered)
    ]
    scores = oracle_scores(features.network, features.variables, clean, triggered)
    assert set(scores) == {"0", "2"}
    for name, row in scores.items():
        expected = np.abs(hidden[1][name] - hidden[0][name]).mean(0) / hidden[0][name].mean()
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-6)


def test_the_oracle_finds_the_unit_that_answers_the_trigger(features):
    """A unit made to fire where the sixth feature is 1 more than any clean one."""
    params = {name: dict(leaves) for name, leaves in features.variables["params"].items()}
    params["0"]["kernel"] = params["0"]["kernel"].at[:, 9].set(jnp.array([0, 0, 0, 0, 0, 50.0]))
    highest = float(features.data.images[..., 5].max())
    params["0"]["bias"] = params["0"]["bias"].at[9].set(-50 * highest)
    triggered = features.data.images + np.array([0, 0, 0, 0, 0, 1], np.float32)
    scores = oracle_scores(features.network, {**features.variables, "params": params}, features.data.images, triggered)
    assert scores["0"].argmax() == 9
    scaled = {**params, "0": {name: leaf * 7 for name, leaf in params["0"].items()}}
    rescaled = oracle_scores(
        features.network, {**features.variables, "params": scaled}, features.data.images, triggered
    )
    np.testing.assert_allclose(rescaled["0"], scores["0"], rtol=1e-3)


def test_without_a_change_there_is_nothing_to_prune(features):
    scores = oracle_scores(features.network, features.variables, features.data.images, features.data.images)
    assert not masks.flatten(scores).any()


def test_a_dead_layer_is_not_divided_by_zero(features):
    params = {name: dict(leaves) for name, leaves in features.variables["params"].items()}
    params["2"]["bias"] = params["2"]["bias"] - 1e6
    triggered = features.data.images + np.float32(1)
    scores = oracle_scores(features.network, {**features.variables, "params": params}, features.data.images, triggered)
    assert not scores["2"].any()
    assert scores["0"].any()


def test_scores_where_masks_live():
    network = network_of("preactresnet18", "conv_output")
    variables = from_state_dict(network, state_of(build_random("preactresnet18")))
    images, triggered = images_for("preactresnet18", 3), images_for("preactresnet18", 3, seed=1)
    for scores in (random_scores(network, variables, KEY), oracle_scores(network, variables, images, triggered)):
        assert set(scores) == set(masks.filters(variables["masks"]))


def test_images_that_are_no_pairs(features):
    with pytest.raises(DataError, match="expected one for each"):
        oracle_scores(features.network, features.variables, features.data.images, features.data.images[:2])


def test_a_network_without_masks():
    network = Network(Architecture("mlp", 3, 0, (("fc", 3),), (1, 1, 6)), (0.0,) * 6, (1.0,) * 6)
    with pytest.raises(DefenseError, match="no maskable layer"):
        random_scores(network, network.init(KEY), KEY)
