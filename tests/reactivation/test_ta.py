"""Transfer re-activation: found on others, tried here."""

from dataclasses import replace

from rnp_jax.reactivation.perturbation import PerturbationConfig
from rnp_jax.reactivation.ta import run_ta, ta

QUICK = PerturbationConfig(epsilon=0.3, epochs=3, inner_steps=1, batch_size=45, learning_rate=0.5, other=0.0)


def test_without_room_it_is_the_plain_trigger_for_everyone(problem):
    attempt = run_ta(problem, replace(QUICK, epsilon=0.0))
    assert attempt.after.asr == problem.judge(problem.purified).asr
    assert attempt.floor.asr == problem.judge(problem.reference).asr
    assert [(each.name, each.asr) for each in attempt.controls] == [
        ("surrogate 1", problem.judge(problem.original).asr)
    ]


def test_what_is_found_does_not_depend_on_the_network_in_question(problem):
    there = run_ta(problem, QUICK)
    elsewhere = run_ta(replace(problem, purified=problem.reference), QUICK)
    assert there.floor == elsewhere.after
    assert there.controls == elsewhere.controls
    assert there.budget["surrogates"] == 1


def test_the_defaults_are_the_release_s():
    config = ta.defaults
    assert (config.epochs, config.inner_steps, config.learning_rate, config.other) == (100, 1, 0.05, 0)
