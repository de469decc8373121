"""The built-in data: 1,797 handwritten digits, at hand without a download."""

from functools import cache

import numpy as np

from rnp_jax.data.dataset import Dataset
from rnp_jax.data.images import resize_images
from rnp_jax.data.splits import Split, spread_test_mask

TEST_PER_CLASS = 50


@cache
def load_digits(split: Split, size: tuple[int, int] | None = None) -> Dataset:
    """Digits of the UCI optical recognition set that scikit-learn bundles: 1,297 to train on and 500 to test on.

    The 8x8 grey values of 0 to 16 are scaled to 0 to 255, enlarged bilinearly to ``size`` (32x32 by default) and
    repeated over 3 equal channels. Each class gives 50 test images, spread evenly over the order of the file.
    Cached for the process; the arrays are read-only.
    """
    from sklearn.datasets import load_digits as bundled  # a second to import, and only this set needs it

    pixels, labels = bundled(return_X_y=True)
    chosen = spread_test_mask(labels, TEST_PER_CLASS)
    chosen = chosen if split == "test" else ~chosen
    small = np.round(pixels[chosen].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    images = np.repeat(resize_images(small, size or (32, 32)), 3, axis=3)
    labels = labels[chosen].astype(np.int32)
    images.setflags(write=False)
    labels.setflags(write=False)
    return Dataset(images, labels, tuple(map(str, range(10))), f"digits ({split})")
