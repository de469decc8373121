"""Where a known trigger changes the images of an examination."""

import numpy as np

from rnp_jax.attacks import load_artefact
from tests.runs import CHECKPOINT


def test_the_known_trigger_changes_the_pixels_of_its_mask(examination):
    changed, trigger = examination.find_changed(), examination.trigger
    mask = load_artefact(CHECKPOINT.with_name(f"{CHECKPOINT.stem}.trigger.npz"), trigger.attack, (32, 32, 3))["mask"]
    np.testing.assert_array_equal(changed, mask[..., 0])
    assert 0 < changed.sum() < changed.size / 4


def test_without_a_known_trigger_nothing_is_known_to_change(examination):
    assert examination._replace(trigger=None).find_changed() is None
