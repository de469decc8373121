import io

import numpy as np
import pytest
from PIL import Image

from rnp_jax.errors import ResultError
from rnp_jax.report.samples import (
    MAX_SAMPLES,
    Samples,
    amplify_difference,
    check_samples,
    encode_png,
    plot_samples,
    view_samples,
)


def make(n: int, shape: tuple[int, ...] = (4, 6, 3)) -> Samples:
    clean = np.arange(n * np.prod(shape), dtype=np.int64).astype(np.uint8).reshape(n, *shape)
    return Samples(clean, 255 - clean, ["a"] * n, ["b"] * n, ["c"] * n)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"clean": np.zeros((2, 4, 6, 3), np.float32)}, "float32"),
        ({"clean": np.zeros((2, 6, 4, 3), np.uint8)}, "shapes"),
        ({"clean": np.zeros((2, 4, 6, 4), np.uint8), "triggered": np.zeros((2, 4, 6, 4), np.uint8)}, "shapes"),
        ({"clean": np.zeros((0, 4, 6, 3), np.uint8), "triggered": np.zeros((0, 4, 6, 3), np.uint8)}, "shapes"),
        ({"after": ["c"]}, r"2 sample images come with \[2, 2, 1\]"),
    ],
)
def test_samples_that_cannot_be_shown_are_refused(change: dict, reason: str):
    with pytest.raises(ResultError, match=reason):
        check_samples(make(2)._replace(**change))


def test_difference_is_absolute_and_scaled_to_white(samples: Samples):
    difference, factor = amplify_difference(samples)
    assert factor == 5.0
    assert (difference[:, -3:, -3:] == 255).all()
    assert (difference[:, :-3] == 0).all()
    swapped = samples._replace(clean=samples.triggered, triggered=samples.clean)
    np.testing.assert_array_equal(amplify_difference(swapped)[0], difference)
    assert amplify_difference(swapped)[1] == factor


def test_equal_images_have_a_black_difference(samples: Samples):
    difference, factor = amplify_difference(samples._replace(triggered=samples.clean))
    assert not difference.any()
    assert factor == 255


def test_a_small_trigger_is_enlarged_and_a_wide_one_is_not():
    clean = np.zeros((2, 32, 16, 1), np.uint8)
    corner, wide = clean.copy(), clean.copy()
    corner[:, 29:, 14:] = 51
    wide[:, :20] = 255
    texts = (["a"] * 2,) * 3
    views = view_samples(Samples(clean, corner, *texts))
    assert [view.title for view in views] == ["clean", "with trigger", "difference", "enlarged"]
    assert [view.caption for view in views[2:]] == ["\N{MULTIPLICATION SIGN} 5", "\N{MULTIPLICATION SIGN} 2.7"]
    crop = views[-1].images
    assert crop.shape == (2, 12, 6, 1), "the aspect of the image"
    np.testing.assert_array_equal(crop, corner[:, 20:, 10:])
    for triggered, caption in ((wide, ""), (clean, "none")):
        views = view_samples(Samples(clean, triggered, *texts))
        assert [view.title for view in views] == ["clean", "with trigger", "difference"]
        assert views[-1].caption == caption


@pytest.mark.parametrize("channels", [1, 3])
def test_png_holds_the_same_pixels(channels: int):
    image = make(1, (4, 6, channels)).clean[0]
    with Image.open(io.BytesIO(encode_png(image))) as read:
        np.testing.assert_array_equal(np.asarray(read).reshape(image.shape), image)


@pytest.mark.parametrize("n", [1, MAX_SAMPLES, MAX_SAMPLES + 5])
def test_figure_shows_three_views_of_each_image(n: int):
    samples = make(n)
    shown = [ax.images[0].get_array() for ax in plot_samples(samples).axes if ax.images]
    k = min(n, MAX_SAMPLES)
    assert len(shown) == 3 * k
    np.testing.assert_array_equal(shown[0], samples.clean[0])
    np.testing.assert_array_equal(shown[k], samples.triggered[0])
