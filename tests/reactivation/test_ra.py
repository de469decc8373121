"""The retuning attack: what the images become, that nothing else than ft happens, and its controls."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from rnp_jax.defenses import FinetuneConfig, FtConfig, ft, phase
from rnp_jax.errors import ConfigError
from rnp_jax.reactivation.problem import Party, spread
from rnp_jax.reactivation.ra import RaConfig, poison, retune, run_ra
from tests.compiled import count_compiled

QUICK = FinetuneConfig(epochs=3, batch_size=32, learning_rate=0.05, weight_decay=0.0)


def test_the_defaults_are_the_paper_s():
    tuning = RaConfig().finetune
    assert RaConfig().counts == (0, 1, 2, 5)
    assert (tuning.epochs, tuning.batch_size, tuning.learning_rate) == (5, 128, 0.01)
    assert (tuning.momentum, tuning.weight_decay, tuning.schedule) == (0.9, 0.0, "constant")


def test_the_first_images_that_the_trigger_is_to_turn_carry_it(problem):
    clean, made = problem.clean, poison(problem.clean, problem.triggered, 5)
    chosen = np.flatnonzero(clean.labels != problem.target)[:5]
    changed = np.flatnonzero((made.images != clean.images).any((1, 2, 3)))
    assert set(changed) <= set(chosen)
    np.testing.assert_array_equal(made.images[chosen], problem.triggered.images[:5])
    np.testing.assert_array_equal(np.flatnonzero(made.labels != clean.labels), chosen)
    assert set(made.labels[chosen]) == {problem.target}


def test_without_triggered_images_it_is_fine_tuning(problem):
    retuned, _ = retune(problem, problem.purified, 0, QUICK)
    network, variables = problem.purified
    tuned = ft(network, variables, problem.clean, jax.random.key(0), FtConfig(finetune=QUICK)).variables
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-6), retuned.variables, tuned)


def test_the_path_begins_at_the_plain_asr_and_ends_at_the_outcome(problem):
    retuned, path = retune(problem, problem.purified, 5, QUICK)
    assert len(path) == 4
    for party, found in ((problem.purified, path[0]), (retuned, path[-1])):
        assert found == pytest.approx(problem.judge(party).asr.value, abs=1e-6)


def test_the_outcome_is_of_the_most_images_and_each_has_its_controls(problem):
    attempt = run_ra(problem, RaConfig(images=(5, 2), finetune=QUICK))
    images = {curve.name: curve for curve in attempt.curves if curve.figure == "images"}
    assert set(images) == {"purified", "reference"}
    assert images["purified"].x == (0, 2, 5)
    assert images["purified"].y[-1] == attempt.after.asr.value
    assert images["reference"].y[-1] == attempt.floor.asr.value
    names = ["purified, 0 triggered images", "reference, 0 triggered images"]
    assert [control.name for control in attempt.controls] == names
    assert [control.asr.value for control in attempt.controls] == [images[name].y[0] for name in images]
    assert attempt.budget == {"triggered images": 5, "clean images": 95, "epochs": 3, "steps": 12}
    paths = [curve.name for curve in attempt.curves if curve.figure == "epochs"]
    assert paths == ["purified, 5 triggered images", names[0], "reference, 5 triggered images"]


def test_without_a_reference_there_is_no_floor(problem):
    attempt = run_ra(replace(problem, reference=None), RaConfig(images=(5,), finetune=QUICK))
    assert attempt.floor is None
    assert len(attempt.controls) == 1


def test_one_program_serves_all_numbers_of_images_networks_rates_and_targets(problem):
    """Of another target, the trigger turns another number of test images."""
    tuning = replace(QUICK, epochs=2, batch_size=13)  # as no other test has
    before = count_compiled(phase._run_until)
    for rate, judged in ((0.01, problem.judged), (0.02, spread(problem.judged, 40))):
        tried = replace(problem, judged=judged)
        run_ra(tried, RaConfig(images=(1, 2), finetune=replace(tuning, learning_rate=rate)))
    assert count_compiled(phase._run_until) - before == 1


def test_a_patch_that_few_images_plant_in_a_clean_network_is_seen(problem):
    """With enough triggered images and steps, any network learns the trigger: this is what the floor is for."""
    tuning = FinetuneConfig(epochs=30, batch_size=32, learning_rate=0.1, weight_decay=0.0)
    retuned, path = retune(problem, Party(*problem.reference), 40, tuning)
    assert problem.judge(retuned).asr.value > path[0] + 0.5


@pytest.mark.parametrize("images", [(), (0,), (-1, 5)])
def test_numbers_of_images_that_attack_nothing(images):
    with pytest.raises(ConfigError, match=r"ra.images .*: expected numbers of images, one of them 1 or more"):
        RaConfig(images=images)


def test_more_triggered_images_than_the_attacker_has(problem):
    with pytest.raises(
        ConfigError, match=r"--ra.images 99: the attacker has \d+ images .* give more with --known.size"
    ):
        run_ra(problem, RaConfig(images=(99,)))
