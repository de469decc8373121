"""What tuning starts from and returns; the defenses' own tests tune."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.defenses import (
    Chooses,
    FinetuneConfig,
    FtConfig,
    PruneConfig,
    RecoverConfig,
    RnpConfig,
    Task,
    TsbdConfig,
    UlrlConfig,
    UnlearnConfig,
    ft,
    rnp,
    tsbd,
    ulrl,
    unlearn,
)
from rnp_jax.defenses.activeness import ActiveTuneConfig
from rnp_jax.defenses.finetune import finetune, start_finetuning
from rnp_jax.defenses.tuning import begin, check_rnp, chooses_before, conclude, tune
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.types import Batch

KEY = jax.random.key(0)
QUICK = FinetuneConfig(epochs=2, batch_size=16)


def test_settings_of_rnp_that_nothing_reads_are_refused():
    check_rnp(used=True, config=RnpConfig(UnlearnConfig(max_epochs=3)))
    check_rnp(used=False, config=RnpConfig())
    with pytest.raises(ConfigError, match="nothing starts from it"):
        check_rnp(used=False, config=RnpConfig(UnlearnConfig(max_epochs=3)))


def test_the_original_is_the_network_as_it_came(features):
    task = Task(features.network, features.variables, features.data, KEY)
    begun = begin("original", task, RnpConfig())
    assert (begun.kind, begun.choice.pruned, len(begun.candidates.order), begun.values) == ("weights", 0, 0, {})
    assert begun.prunes is False
    assert (task.timing, task.history, task.stops, task.warnings) == ({}, {}, {}, [])
    for found, given in zip(
        jax.tree.leaves(begun.variables["params"]), jax.tree.leaves(features.variables["params"]), strict=True
    ):
        np.testing.assert_array_equal(found, given)


def test_the_unlearned_network_has_lost_the_clean_task_and_no_filter(features):
    settings = RnpConfig(UnlearnConfig(max_epochs=20, batch_size=16, learning_rate=0.03, stop_accuracy=0.4))
    task = Task(features.network, features.variables, features.data, KEY)
    begun = begin("unlearned", task, settings)
    expected = unlearn(features.network, features.variables, features.data, KEY, settings.unlearn)
    assert (begun.kind, begun.choice.pruned, list(task.timing)) == ("weights", 0, ["unlearn"])
    assert task.history["unlearn"]["accuracy"][-1] <= 0.4
    epochs = len(expected.history["loss"])
    assert task.stops == {"unlearn": f"reached the stop accuracy 0.4 after {epochs} epochs"}
    for found, wanted in zip(
        jax.tree.leaves(begun.variables["params"]), jax.tree.leaves(expected.variables["params"]), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


SLOW = UnlearnConfig(max_epochs=1, batch_size=16, learning_rate=1e-9)
"""Steps so short that the network stays as it came."""


@pytest.mark.parametrize(
    ("method", "config"),
    [
        (ft, FtConfig("unlearned", RnpConfig(SLOW), replace(QUICK, epochs=1))),
        (ft, FtConfig("rnp", RnpConfig(SLOW, RecoverConfig(1, 16), PruneConfig(number=0)), replace(QUICK, epochs=1))),
        (ulrl, UlrlConfig(SLOW, relearn=replace(QUICK, epochs=1))),
        (tsbd, TsbdConfig(SLOW, share=0.1, finetune=ActiveTuneConfig(1, 16))),
    ],
)
def test_unlearning_that_failed_is_a_warning_of_whatever_rests_on_it(features, method, config):
    found = method(features.network, features.variables, features.data, KEY, config)
    warning = found.warnings[0]
    assert warning.startswith("Unlearning never reached the stop accuracy 0.20: after 1 epochs it stood at ")
    assert warning.endswith("may reveal little; raise unlearn.max_epochs or unlearn.learning_rate.")


def test_what_rnp_left_is_rnp_s_own_result(features):
    settings = RnpConfig(
        UnlearnConfig(max_epochs=2, batch_size=16), RecoverConfig(epochs=2, batch_size=16), PruneConfig(number=0)
    )
    task = Task(features.network, features.variables, features.data, KEY)
    begun = begin("rnp", task, settings)
    expected = rnp(features.network, features.variables, features.data, KEY, settings)
    assert (begun.kind, begun.choice.rule) == ("mask", expected.choice.rule)
    np.testing.assert_array_equal(masks.flatten(begun.values), masks.flatten(expected.values))
    assert list(task.timing) == ["unlearn", "recover", "rank", "choose"]
    assert list(task.history) == ["unlearn", "recover"]
    assert tuple(task.warnings) == expected.warnings


def test_what_rnp_decides_before_the_tuning():
    settings = RnpConfig(prune=PruneConfig(number=7))
    assert chooses_before(True, settings) == Chooses(True, False, 7, "rnp.prune.number")
    assert chooses_before(True, RnpConfig()) == Chooses(True, True, None, "rnp.prune.number")
    assert chooses_before(False, settings) == Chooses()


def test_a_phase_is_timed_noted_and_leaves_masks_alone(features):
    task = Task(features.network, features.variables, features.data, KEY)
    phase = start_finetuning(features.network, QUICK)
    fixed = features.variables["masks"]
    found = tune(task, phase, features.variables, fixed, KEY)
    expected, history = finetune(features.network, features.variables, features.data, KEY, QUICK)
    assert list(task.timing) == list(task.history) == ["finetune"]
    assert task.stops == {}
    np.testing.assert_array_equal(task.history["finetune"]["loss"], history["loss"])
    assert found["masks"] is fixed
    for ours, theirs in zip(jax.tree.leaves(found["params"]), jax.tree.leaves(expected["params"]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_loss_that_is_not_finite_is_an_error(features):
    task = Task(features.network, features.variables, features.data, KEY)
    ruined = {**features.variables, "params": jax.tree.map(lambda leaf: leaf * np.nan, features.variables["params"])}
    with pytest.raises(DefenseError, match="finetune diverged: the loss became nan in epoch 1"):
        tune(task, start_finetuning(features.network, QUICK), ruined, ruined["masks"], KEY)


def test_a_costly_tuning_is_a_warning_and_a_harmless_one_is_not(features):
    variables = features.variables
    task = Task(features.network, variables, features.data, KEY, features.holdout)
    begun = begin("original", task, RnpConfig())
    same = conclude(task, begun, variables)
    assert task.warnings == []
    assert same.choice.holdout_acc_before == same.choice.holdout_acc_after
    ruined = {**variables, "params": jax.tree.map(lambda leaf: leaf * 0, variables["params"])}
    result = conclude(task, begun, ruined)
    assert result.variables is ruined
    assert result.choice.holdout_acc_before is not None
    assert result.choice.holdout_acc_after is not None
    assert result.choice.holdout_acc_after.value < result.choice.holdout_acc_before.value
    (warning,) = task.warnings
    assert f"to {result.choice.holdout_acc_after.value:.1%}" in warning


@pytest.mark.parametrize("holdout", [None, Batch(np.zeros((0, 4, 4, 3), np.uint8), np.zeros(0, np.int32))])
def test_without_held_out_images_nothing_is_measured(features, holdout):
    task = Task(features.network, features.variables, features.data, KEY, holdout)
    result = conclude(task, begin("original", task, RnpConfig()), features.variables)
    assert (result.choice.holdout_acc_before, result.choice.holdout_acc_after, task.warnings) == (None, None, [])
