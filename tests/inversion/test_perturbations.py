import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.errors import ConfigError
from rnp_jax.inversion import perturbations as module
from rnp_jax.inversion.perturbations import PerturbationConfig, find_perturbations, perturb
from tests.compiled import count_compiled
from tests.inversion.planted import CLASSES, TARGET, Rows, rows_data, rows_variables

KEY = jax.random.key(1)
NETWORK = Rows()
CONFIG = PerturbationConfig(bound=0.06, steps=40, batch_size=16)


def test_on_a_linear_network_it_is_the_sign_of_the_weights():
    """Where it pays to raise a label's logit, whatever else: the planted pixel, and the rows of the labels."""
    found = find_perturbations(NETWORK, rows_variables(), rows_data(), KEY, CONFIG)
    assert found.deltas.shape == (CLASSES, 8, 8, 3)
    assert np.abs(found.deltas).max() <= CONFIG.bound + 1e-6
    np.testing.assert_allclose(found.deltas[TARGET, -1, -1], CONFIG.bound, atol=1e-6)
    np.testing.assert_allclose(found.deltas[0, 0], CONFIG.bound, atol=1e-6)
    np.testing.assert_allclose(found.deltas[0, 1], -CONFIG.bound, atol=1e-6)


def test_success_is_measured_on_held_out_images_of_other_classes():
    held, variables = rows_data(30, seed=4), rows_variables()
    found = find_perturbations(NETWORK, variables, rows_data(), KEY, CONFIG, labels=(TARGET, 0), holdout=held)
    for label, delta, success in zip(found.labels, found.deltas, found.success, strict=True):
        others = jnp.asarray(held.images[held.labels != label])
        logits, _ = NETWORK(variables, perturb(others, jnp.asarray(delta)))
        assert success == pytest.approx(float((logits.argmax(-1) == label).mean()))
    assert found.success[0] >= found.success[1]


def test_pixels_stay_in_range():
    images = jnp.asarray([[[[0.0, 0.5, 1.0]]]])
    np.testing.assert_allclose(perturb(images, jnp.full((1, 1, 3), 0.1)), [[[[0.1, 0.6, 1.0]]]], atol=1e-6)
    black = jnp.zeros((1, 1, 1, 3), jnp.uint8)
    np.testing.assert_array_equal(perturb(black, jnp.full((1, 1, 3), -0.1)), jnp.zeros((1, 1, 1, 3)))


def test_one_program_serves_weights_labels_steps_and_bounds():
    find_perturbations(NETWORK, rows_variables(), rows_data(), KEY, CONFIG, labels=(0,))
    before = count_compiled(module._search)
    other = PerturbationConfig(bound=0.01, steps=3, step_size=0.5, batch_size=16)
    found = find_perturbations(NETWORK, rows_variables(1.0), rows_data(), KEY, other, labels=(1, 2))
    assert count_compiled(module._search) == before
    assert np.abs(found.deltas).max() <= 0.01 + 1e-6


@pytest.mark.parametrize("change", [{"bound": 0.0}, {"bound": 1.5}, {"steps": 0}, {"step_size": 0.0}])
def test_impossible_settings_are_refused(change: dict):
    with pytest.raises(ConfigError, match="bound and step_size in"):
        PerturbationConfig(**change)
