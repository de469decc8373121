import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as bundled

from rnp_jax.data.digits import load_digits


def test_the_parts_are_stratified_and_have_the_documented_sizes():
    train, test = load_digits("train"), load_digits("test")
    assert (train.images.shape, test.images.shape) == ((1297, 32, 32, 3), (500, 32, 32, 3))
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int32)
    assert np.bincount(test.labels).tolist() == [50] * 10
    assert train.class_names == tuple("0123456789")


def test_at_its_own_size_every_digit_is_there_once_at_full_scale():
    pixels, labels = bundled(return_X_y=True)
    parts = [load_digits("train", (8, 8)), load_digits("test", (8, 8))]
    found = sorted(
        (int(label), image[..., 0].tobytes())
        for part in parts
        for image, label in zip(part.images, part.labels, strict=True)
    )
    scaled = np.round(pixels * 255 / 16).astype(np.uint8)
    assert found == sorted((int(label), image.tobytes()) for image, label in zip(scaled, labels, strict=True))


def test_channels_are_equal_and_enlarging_is_bilinear():
    small, large = load_digits("test", (8, 8)).images[..., :1], load_digits("test").images
    np.testing.assert_array_equal(large, np.repeat(large[..., :1], 3, axis=3))
    planes = torch.from_numpy(small.transpose(0, 3, 1, 2).astype(np.float32))
    expected = torch.nn.functional.interpolate(planes, (32, 32), mode="bilinear")
    np.testing.assert_allclose(large[..., 0], expected[:, 0].numpy(), atol=1.01)


def test_loading_again_costs_nothing_and_nobody_can_write_into_it():
    assert load_digits("test") is load_digits("test")
    with pytest.raises(ValueError, match="read-only"):
        load_digits("test").images[0] = 0
