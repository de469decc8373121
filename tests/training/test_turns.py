"""Turned and shifted images against numpy's quarter turns and rolls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.errors import ConfigError
from rnp_jax.training.turns import Turns, turn_and_shift

IMAGE = np.random.default_rng(0).integers(1, 256, (7, 7, 3), np.uint8)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_quarter_turns_are_exact(quarters):
    found = turn_and_shift(jnp.asarray(IMAGE), jnp.float32(quarters * np.pi / 2), jnp.zeros(2))
    np.testing.assert_array_equal(found, np.rot90(IMAGE, quarters))


@pytest.mark.parametrize(("rows", "columns"), [(2, 0), (0, -3), (-1, 1)])
def test_shifts_leave_black_behind(rows, columns):
    found = np.asarray(turn_and_shift(jnp.asarray(IMAGE), jnp.float32(np.pi), jnp.array([rows, columns], jnp.float32)))
    expected = np.zeros_like(IMAGE)
    turned = np.rot90(IMAGE, 2)
    for y in range(7):
        for x in range(7):
            if 0 <= y - rows < 7 and 0 <= x - columns < 7:
                expected[y, x] = turned[y - rows, x - columns]
    np.testing.assert_array_equal(found, expected)


def test_what_the_turn_moves_out_of_the_frame_does_not_come_back():
    corner = turn_and_shift(jnp.full((9, 9, 1), 255, jnp.uint8), jnp.float32(np.pi / 4), jnp.array([4.0, 4.0]))
    assert np.asarray(corner)[4, 4, 0] == 0


def test_each_image_is_turned_by_draws_of_its_own_within_the_limits():
    images = np.broadcast_to(IMAGE, (40, *IMAGE.shape))
    found = np.asarray(Turns(0.0, 0.3)(jax.random.key(0), images))
    assert {int((row == 0).all(-1).all(1).sum()) for row in found} == {0, 1, 2}
    turned = np.asarray(Turns(180.0, 0.0)(jax.random.key(0), images))
    assert len({row.tobytes() for row in turned}) > 20
    np.testing.assert_array_equal(Turns(0.0, 0.0)(jax.random.key(0), images), images)


@pytest.mark.parametrize("options", [{"degrees": 200.0}, {"shift": 1.0}])
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected degrees"):
        Turns(**options)
