"""Fine-tuning as a defense: alone, and of what RNP left."""

import jax
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.defenses import (
    FinetuneConfig,
    FtConfig,
    PruneConfig,
    RecoverConfig,
    RnpConfig,
    UnlearnConfig,
    ft,
    phase,
    rnp,
)
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import predict
from tests.compiled import count_compiled

KEY = jax.random.key(0)
QUICK = FinetuneConfig(epochs=2, batch_size=16, schedule="cosine")
RNP = RnpConfig(
    UnlearnConfig(max_epochs=20, batch_size=16, learning_rate=0.03, stop_accuracy=0.4),
    RecoverConfig(epochs=10, batch_size=16, learning_rate=5.0),
    PruneConfig(number=2),
)


def count_correct(network, variables, data) -> int:
    return int((predict(network, variables, data).labels[0] == data.labels).sum())


def test_the_weights_move_and_no_filter_is_pruned(features):
    network, variables, holdout = features.network, features.variables, features.holdout
    found = ft(network, variables, features.data, KEY, FtConfig(finetune=QUICK), holdout=holdout)
    assert (found.kind, found.values, found.choice.pruned, len(found.candidates.order)) == ("weights", {}, 0, 0)
    assert list(found.timing) == list(found.history) == ["finetune"]
    assert masks.flatten(masks.filters(found.variables["masks"])).min() == 1
    assert not np.array_equal(found.variables["params"]["0"]["kernel"], variables["params"]["0"]["kernel"])
    assert found.choice.holdout_acc_before.count == count_correct(network, variables, holdout)
    assert found.choice.holdout_acc_after.count == count_correct(network, found.variables, holdout)
    assert found.choice.holdout_acc_after.total == 60


def test_without_held_out_images_nothing_is_measured(features):
    found = ft(features.network, features.variables, features.data, KEY, FtConfig(finetune=QUICK))
    assert (found.choice.holdout_acc_before, found.choice.holdout_acc_after, found.warnings) == (None, None, ())


def test_what_rnp_pruned_stays_pruned(features):
    network, variables, data, holdout = features.network, features.variables, features.data, features.holdout
    pruned = rnp(network, variables, data, KEY, RNP, holdout=holdout)
    found = ft(network, variables, data, KEY, FtConfig(start="rnp", rnp=RNP, finetune=QUICK), holdout=holdout)
    assert pruned.choice.pruned == 2
    expected, left = (masks.flatten(masks.filters(each.variables["masks"])) for each in (pruned, found))
    np.testing.assert_array_equal(left, expected)
    assert (found.kind, found.choice.pruned, found.choice.rule) == ("mask", pruned.choice.pruned, pruned.choice.rule)
    assert list(found.history) == ["unlearn", "recover", "finetune"]
    assert found.choice.holdout_acc_after.count == count_correct(network, found.variables, holdout)
    assert found.history["finetune"]["loss"][-1] < found.history["finetune"]["loss"][0]


def test_accuracy_that_was_lost_becomes_a_warning(features):
    config = FtConfig(finetune=FinetuneConfig(epochs=1, batch_size=16, learning_rate=30.0))
    found = ft(features.network, features.variables, features.data, KEY, config, holdout=features.holdout)
    assert [text[:38] for text in found.warnings] == ["Accuracy on held-out clean images fell"]


def test_a_second_model_compiles_nothing(features):
    config = FtConfig(finetune=FinetuneConfig(epochs=3, batch_size=16))
    before = count_compiled(phase._run_until)
    for seed in (0, 1):
        params = jax.tree.map(lambda leaf, scale=1 + seed: leaf * scale, features.variables["params"])
        ft(features.network, {**features.variables, "params": params}, features.data, jax.random.key(seed), config)
    assert count_compiled(phase._run_until) - before == 1


def test_settings_of_rnp_that_nothing_reads():
    with pytest.raises(ConfigError, match="nothing starts from it: set start to rnp"):
        FtConfig(rnp=RNP)
