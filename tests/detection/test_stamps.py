import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.attacks import BadNets
from rnp_jax.detection.stamps import changed_pixels, overlap
from tests.inversion.planted import SIDE, rows_data


def test_a_known_trigger_changes_the_pixels_of_its_mask():
    images, attack = rows_data().images, BadNets()
    params = attack.init((SIDE, SIDE, 3))
    triggered = attack.trigger(params, jnp.asarray(images), jax.random.key(0))
    mask = params["mask"][..., 0].astype(np.float32)
    changed = changed_pixels(images, np.asarray(triggered))
    assert not changed[mask == 0].any()
    assert overlap(mask, changed) >= 8 / 9, "black cells over a black pixel change nothing"


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([[0.9, 0.0], [0.0, 0.0]], 1.0),
        ([[0.2, 0.05], [0.05, 0.05]], 1.0),  # half of the largest value, however faint
        ([[0.9, 0.9], [0.0, 0.0]], 0.5),
        ([[0.0, 0.9], [0.0, 0.0]], 0.0),
    ],
)
def test_overlap_is_intersection_over_union(mask: list, expected: float):
    assert overlap(np.array(mask, np.float32), np.array([[True, False], [False, False]])) == expected


def test_nothing_overlaps_nothing():
    assert overlap(np.zeros((2, 2), np.float32), np.zeros((2, 2), np.bool_)) == 1
