"""Only images that changed are computed again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.extractors import CachedFeatures, from_function

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 3, 4, 3), np.uint8)


def counting() -> tuple[list[np.ndarray], object]:
    """An extractor of channel means, and every batch that it was given."""
    seen: list[np.ndarray] = []

    def means(images: np.ndarray) -> np.ndarray:
        seen.append(images)
        return images.mean(axis=(1, 2), dtype=np.float32)

    return seen, from_function(means, 3, "means")


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.sets(st.integers(0, 11)), st.integers(1, 255))
def test_features_are_the_extractor_s_and_cost_what_changed(changed, shift):
    seen, extractor = counting()
    cached = CachedFeatures.of(extractor, IMAGES)
    images = IMAGES.copy()
    images[sorted(changed), 1, 2, 0] += np.uint8(shift)
    before = cached.features.copy()
    seen.clear()
    found = cached(images)
    np.testing.assert_allclose(found, images.mean(axis=(1, 2)), rtol=1e-6)
    computed = {image.tobytes() for batch in seen for image in batch}
    assert computed == {images[i].tobytes() for i in changed}
    np.testing.assert_array_equal(cached.features, before)  # the known features stay the known images'


@pytest.mark.parametrize("images", [IMAGES[:5], IMAGES[:, :, :2], np.concatenate([IMAGES, IMAGES])])
def test_another_set_is_computed_whole(images):
    seen, extractor = counting()
    cached = CachedFeatures.of(extractor, IMAGES)
    seen.clear()
    np.testing.assert_allclose(cached(images), images.mean(axis=(1, 2)), rtol=1e-6)
    assert {image.tobytes() for batch in seen for image in batch} == {image.tobytes() for image in images}
