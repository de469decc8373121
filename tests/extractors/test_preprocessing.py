"""Pixels as Pillow and the published processors bring them to size."""

import numpy as np
import pytest
from PIL import Image

from rnp_jax.extractors.preprocessing import Geometry, bring_to
from tests.oracle import vit

FILTERS = {"linear": Image.Resampling.BILINEAR, "cubic": Image.Resampling.BICUBIC, "lanczos3": Image.Resampling.LANCZOS}


def images_of(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, height, width, channels), np.uint8)


def assert_same_pixels(ours, theirs) -> None:
    """Equal but for ties, which Pillow's fixed-point arithmetic rounds either way."""
    difference = np.abs(np.asarray(ours).astype(int) - np.asarray(theirs).astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.03


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize(("given", "wanted"), [((40, 51), (8, 12)), ((8, 8), (21, 19))], ids=["smaller", "larger"])
def test_resizing_is_pillow_s(given, wanted, resample):
    images = images_of(*given)
    expected = [np.asarray(Image.fromarray(each).resize(wanted[::-1], FILTERS[resample])) for each in images]
    assert_same_pixels(bring_to(Geometry((*wanted, 3), wanted, resample), images), np.stack(expected))


@pytest.mark.parametrize("given", [(17, 30), (30, 17), (23, 23)])
def test_the_shorter_side_then_the_centre_as_clip_s_processor(given):
    images = images_of(*given)
    processor = vit.processor_of("clip", 11)
    expected = processor(list(images), return_tensors="np", do_normalize=False)["pixel_values"] * 255
    ours = bring_to(Geometry((11, 11, 3), 11, "cubic"), images)
    assert_same_pixels(ours, np.round(expected).transpose(0, 2, 3, 1))


def test_images_of_the_right_size_are_left_as_they_are():
    images = images_of(6, 5)
    np.testing.assert_array_equal(bring_to(Geometry((6, 5, 3), (6, 5), "cubic"), images), images)


def test_one_channel_is_repeated():
    images = images_of(6, 6, 1)
    np.testing.assert_array_equal(bring_to(Geometry((6, 6, 3), 6), images), np.repeat(images, 3, axis=3))


@pytest.mark.parametrize("level", [0, 255])
def test_flat_images_stay_flat(level):
    images = np.full((1, 7, 9, 3), level, np.uint8)
    assert (np.asarray(bring_to(Geometry((16, 16, 3), (16, 16), "lanczos3"), images)) == level).all()
