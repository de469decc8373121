"""White-box re-activation: without room it is the plain trigger, and both controls come with it."""

from dataclasses import replace

import numpy as np

from rnp_jax.reactivation.perturbation import PerturbationConfig
from rnp_jax.reactivation.wba import run_wba

QUICK = PerturbationConfig(epsilon=0.3, epochs=3, inner_steps=3, batch_size=32, learning_rate=0.5)


def test_without_room_it_is_the_plain_trigger(problem):
    attempt = run_wba(problem, replace(QUICK, epsilon=0.0, epochs=1))
    assert attempt.after.asr == problem.judge(problem.purified).asr
    assert attempt.floor.asr == problem.judge(problem.reference).asr
    assert (attempt.after.acc, attempt.floor.acc) == (None, None)  # the networks stay as they are


def test_a_new_trigger_works_better_than_the_old_one(problem):
    attempt = run_wba(replace(problem, purified=problem.reference), QUICK)
    assert attempt.after == attempt.floor  # the same attempt on the same network
    assert attempt.after.asr.value > problem.judge(problem.reference).asr.value
    assert [control.name for control in attempt.controls] == [
        "purified, perturbation without the trigger", "reference, perturbation without the trigger",
    ]  # fmt: skip
    count = len(problem.triggered.labels)
    assert attempt.budget == {"triggered images": count, "epsilon": 0.3, "steps": 9 * -(-count // 32)}


def test_images_are_counted_in_their_order(problem):
    images = np.asarray(problem.judged.images, np.float32) / 255
    assert problem.count_turned(problem.purified, images) == problem.judge(problem.purified).asr


def test_without_a_reference_there_is_no_floor(problem):
    attempt = run_wba(replace(problem, reference=None), replace(QUICK, epochs=1))
    assert attempt.floor is None
    assert len(attempt.controls) == 1
    assert problem.timing["wba"] > 0
