import io

import numpy as np
import pytest
from PIL import Image

from rnp_jax.errors import ResultError
from rnp_jax.report.samples import MAX_SAMPLES, Samples, amplify_difference, check_samples, encode_png, plot_samples


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
