import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.data.dataset import Dataset, validate
from rnp_jax.errors import DataError
from rnp_jax.types import Batch

IMAGES = np.zeros((4, 8, 8, 3), np.uint8)
LABELS = np.array([0, 1, 2, 1], np.int32)


def test_a_data_set_knows_its_shape():
    dataset = Dataset(IMAGES, LABELS, ("a", "b", "c"), "toy")
    assert (len(dataset), dataset.num_classes, dataset.image_shape) == (4, 3, (8, 8, 3))
    assert dataset.batch.images is IMAGES
    part = dataset.subset(LABELS == 1, "ones")
    assert (part.labels.tolist(), part.name, len(part)) == ([1, 1], "ones", 2)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
def test_good_data_passes_as_numpy_and_as_jax(convert):
    validate(Batch(convert(IMAGES), convert(LABELS)), num_classes=3, image_shape=(8, 8, 3))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[0], LABELS, r"shape \(8, 8, 3\), expected \[N, H, W, C\]"),
        (IMAGES[:0], LABELS[:0], "there are no images"),
        (IMAGES.transpose(0, 3, 1, 2), LABELS, r"looks like \[N, C, H, W\].*transpose\(0, 2, 3, 1\)"),
        (IMAGES / np.float32(255), LABELS, r"float32, expected uint8 \(values from 0 to 0\) .* part of the network"),
        (IMAGES.astype(np.int64), LABELS, "int64, expected uint8"),
        (IMAGES, LABELS[:3], r"4 images have labels of shape \(3,\)"),
        (IMAGES, np.eye(3, dtype=np.int32)[LABELS], "one-hot"),
        (IMAGES, LABELS.astype(np.float32), "labels are float32"),
        (IMAGES, np.array([0, 3, 1, 7]), "label 3 at index 1 is outside 0 … 2 .*2 such labels"),
        (IMAGES, np.array([0, 1, -1, 1]), "label -1 at index 2"),
    ],
)
def test_unusable_data_is_refused_with_value_and_fix(images, labels, message):
    with pytest.raises(DataError, match="mine: .*" + message):
        validate(Batch(images, labels), num_classes=3, name="mine")


def test_another_image_shape_names_the_fix():
    dataset = Dataset(IMAGES, LABELS, ("a", "b", "c"), "toy")
    with pytest.raises(DataError, match=r"8x8x3, but the model takes 32x32x3; .*image_size=32.*--image-shape 8 8 3"):
        validate(dataset, num_classes=3, image_shape=(32, 32, 3))
    with pytest.raises(DataError, match="3 channels, but 1 are needed"):
        validate(dataset, num_classes=3, image_shape=(8, 8, 1))
