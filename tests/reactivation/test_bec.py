"""The backdoor existence coefficient: its scale, and the likeness of features that it is made of."""

from dataclasses import replace

import numpy as np
import pytest

from rnp_jax.defenses.kernels import filter_kernels
from rnp_jax.errors import ConfigError
from rnp_jax.reactivation.bec import (
    BecConfig,
    divide_layers,
    explain,
    measure_change,
    measure_cka,
    run_bec,
    scale_likeness,
)

FEATURES = np.random.default_rng(0).normal(size=(20, 3, 2))
OTHERS = np.random.default_rng(1).normal(size=(20, 5))


def test_features_are_like_themselves():
    assert measure_cka(FEATURES, FEATURES) == pytest.approx(1)


def test_likeness_is_blind_to_rotations_scale_and_offset_and_is_symmetric():
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))
    flat = FEATURES.reshape(20, 6)
    assert measure_cka(flat, OTHERS) == pytest.approx(measure_cka(OTHERS, flat))
    assert measure_cka(flat @ turn, OTHERS) == pytest.approx(measure_cka(flat, OTHERS))
    assert measure_cka(3 * flat + 1, OTHERS) == pytest.approx(measure_cka(flat, OTHERS))
    assert 0 < measure_cka(flat, OTHERS) < 0.9


def test_features_that_do_not_vary_are_like_nothing():
    assert measure_cka(np.ones((20, 3)), OTHERS) == 0


def test_the_change_of_a_channel_is_relative_to_its_size():
    clean = np.ones((4, 2, 2, 3))
    clean[..., 2] = 10
    changed = clean.copy()
    changed[..., 0] += 1
    changed[..., 2] += 1
    np.testing.assert_allclose(measure_change(clean, changed), [1, 0, 0.1])


def test_it_is_1_of_the_backdoored_network_and_0_of_the_clean_one(problem):
    for party, expected in ((problem.original, 1), (problem.reference, 0)):
        attempt = run_bec(replace(problem, purified=party), BecConfig(batch_size=25))
        coefficients = [value for name, value in attempt.figures.items() if name.startswith("coefficient")]
        assert coefficients == pytest.approx([expected] * 3, abs=1e-6)
        assert (attempt.after, attempt.budget) == (None, {"triggered images": len(problem.judged.labels)})
        assert explain(attempt).startswith(f"The coefficient is {expected:.2f} (top 5% of channels), ")


def test_on_the_way_between_the_two_it_lies_between(problem):
    attempt = run_bec(problem, BecConfig(shares=(1.0,)))
    assert 0 < attempt.figures["coefficient, top 100% of channels"] < 1


def test_where_the_clean_network_is_like_the_backdoored_one_nothing_is_known():
    assert scale_likeness(1.0, 1.0) is None
    assert scale_likeness(0.9, 1 - 1e-9) is None  # as rounding leaves it


def test_layers_are_read_in_groups_that_fit_into_memory_and_the_coefficient_is_the_same(problem, monkeypatch):
    network, images = problem.original.network, np.asarray(problem.test.images)[:4]
    layers = tuple(filter_kernels(network, problem.original.variables))
    sizes = {"one": 1, "all": 2**20}
    groups = {name: divide_layers(problem.original, layers, images, most) for name, most in sizes.items()}
    assert groups == {"one": [(name,) for name in layers], "all": [layers]}
    whole = run_bec(problem, BecConfig())
    monkeypatch.setattr("rnp_jax.reactivation.bec._MOST", 1)
    assert run_bec(problem, BecConfig()).figures == pytest.approx(whole.figures)


@pytest.mark.parametrize("settings", [{"shares": ()}, {"shares": (0.0,)}, {"images": 1}])
def test_impossible_settings(settings):
    with pytest.raises(ConfigError, match="expected shares in"):
        BecConfig(**settings)
