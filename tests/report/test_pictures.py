import colorsys

import numpy as np
import pytest

from rnp_jax.report.pictures import MAX_PICTURES, picture_array


def test_bytes_are_shown_as_they_are_and_masks_in_black_and_white():
    pattern = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    shown = picture_array("pattern", pattern)
    assert shown is not None
    np.testing.assert_array_equal(shown.images, pattern[None])
    mask = picture_array("mask", np.eye(5, dtype=np.bool_)[..., None])
    assert mask is not None
    np.testing.assert_array_equal(mask.images[0, ..., 0], 255 * np.eye(5))


def test_signed_values_are_grey_at_zero_and_keep_their_proportions():
    values = np.zeros((4, 4, 1), np.float32)
    values[0, 0], values[1, 1], values[2, 2] = -8, 4, -4
    shown = picture_array("signal", values)
    assert shown is not None
    assert shown.images.dtype == np.uint8
    assert (shown.images[0, 0, 0, 0], shown.images[0, 3, 3, 0]) == (0, 128)
    assert (shown.images[0, 1, 1, 0], shown.images[0, 2, 2, 0]) == (191, 64)
    assert shown.caption == "grey is 0; black −8, white +8"


def test_values_from_zero_up_are_scaled_to_white():
    values = np.linspace(0, 0.5, 16, dtype=np.float32).reshape(4, 4, 1)
    shown = picture_array("glow", values)
    assert shown is not None
    np.testing.assert_array_equal(shown.images[0, ..., 0], np.round(510 * values[..., 0]))
    assert shown.caption == "black is 0, white 0.5"


def identity(height, width):
    return np.stack(np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)), -1)


def test_a_sampling_grid_is_shown_as_its_shift_in_pixels():
    grid = identity(9, 17)
    grid[2, 3, 0] += 2 / 16  # one pixel to the right
    grid[5, 5, 1] += 1 / 8  # half a pixel down
    shown = picture_array("grid", grid.astype(np.float32))
    assert shown is not None
    assert shown.caption.endswith("of the shift, 1 px at most")
    np.testing.assert_array_equal(shown.images[0, 2, 3], [255, 0, 0])
    expected = [round(255 * part) for part in colorsys.hsv_to_rgb(0.25, 1, 0.5)]
    np.testing.assert_allclose(shown.images[0, 5, 5], expected, atol=1)
    assert shown.images[0, 0, 0].max() == 0


def test_a_field_that_is_no_sampling_grid_is_shown_in_its_own_unit():
    field = np.zeros((8, 8, 2))
    field[1, 1] = (0, -3)
    shown = picture_array("flow", field)
    assert shown is not None
    assert shown.caption.endswith("3 at most")


def test_of_a_stack_the_first_are_shown():
    stack = np.random.default_rng(0).integers(0, 256, (MAX_PICTURES + 3, 4, 4, 1), dtype=np.uint8)
    shown = picture_array("patches", stack)
    assert shown is not None
    assert len(shown.images) == MAX_PICTURES


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 3), np.float32),  # of one colour
        np.ones((8, 8, 1), np.bool_),
        np.arange(10),
        np.arange(64.0).reshape(8, 8, 1) * np.nan,
        np.arange(256, dtype=np.uint8).reshape(8, 8, 4),
        np.arange(128, dtype=np.uint8).reshape(8, 8, 2),
        np.arange(6.0).reshape(1, 2, 3),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_what_is_no_picture(array):
    assert picture_array("x", array) is None
