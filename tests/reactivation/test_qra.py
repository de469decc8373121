"""The query-based attack: its perturbing network, and what it is trained towards."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from rnp_jax.errors import ConfigError
from rnp_jax.reactivation.qra import QraConfig, make_layers, perturb_each, run_qra

QUICK = QraConfig(images=40, retuned_on=3, units=16, epochs=4, batch_size=40, bound=0.3)


def test_pixels_change_by_the_bound_at_most_and_stay_pixels():
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 3, 2), np.uint8)
    layers = jax.tree.map(lambda leaf: 100 * leaf, make_layers(jax.random.key(0), 18, 8))
    found = np.asarray(perturb_each(layers, images, 0.25))
    assert found.min() >= 0
    assert found.max() <= 1
    change = np.abs(found - images / 255)
    assert 0.2 < change.max() <= 0.25 + 1e-6
    assert np.ptp(found - images / 255, axis=0).max() > 0.1  # each image has its own


def test_without_room_it_is_the_plain_trigger(problem):
    attempt = run_qra(problem, replace(QUICK, bound=0.0))
    assert attempt.after.asr == problem.judge(problem.purified).asr
    assert attempt.floor.asr == problem.judge(problem.reference).asr


def test_it_says_what_it_was_given(problem):
    attempt = run_qra(problem, QUICK)
    assert attempt.budget == {"images": 80, "epsilon": 0.3, "epochs": 4}
    assert 0 <= attempt.figures["ASR of the retuned network"] <= 1


def test_what_it_cannot_do(problem):
    with pytest.raises(ConfigError, match="--by qra: it needs --reference"):
        run_qra(replace(problem, reference=None), QUICK)
    with pytest.raises(ConfigError, match=r"--qra.retuned-on 99: the attacker has \d+ images"):
        run_qra(problem, replace(QUICK, retuned_on=99))


@pytest.mark.parametrize("change", [{"units": 0}, {"bound": -0.1}, {"learning_rate": 0.0}])
def test_impossible_settings(change):
    with pytest.raises(ConfigError, match="expected"):
        QraConfig(**change)
