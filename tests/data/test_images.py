import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rnp_jax.data.images import decode_image, parse_size, resize_images, stack_images
from rnp_jax.errors import ConfigError, DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def encode(array, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "PPM", "BMP"])
def test_lossless_formats_come_back_exactly(kind):
    np.testing.assert_array_equal(decode_image(encode(PIXELS, kind)), PIXELS)


def test_channels_are_converted():
    grey = PIXELS[..., 0]
    np.testing.assert_array_equal(decode_image(encode(grey), channels=1), grey[..., None])
    np.testing.assert_array_equal(decode_image(encode(grey)), np.repeat(grey[..., None], 3, axis=2))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(kind=st.sampled_from(["PNG", "JPEG", "PPM", "BMP"]), data=st.data())
def test_damage_never_escapes_as_anything_but_a_data_error(kind, data):
    content = bytearray(encode(PIXELS, kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(DataError):
        assert decode_image(content).shape[2] == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "not a PNG, JPEG, PPM or BMP image"),
        (encode(PIXELS, "GIF"), "not a PNG"),
        (encode(PIXELS)[:100], "."),
        (encode(PIXELS[..., 0].astype(np.uint16)), "8 bits"),
    ],
)
def test_unreadable_images_are_refused(content, message):
    with pytest.raises(DataError, match=message):
        decode_image(content)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_resizing_is_antialiased_bilinear_as_in_torch(channels):
    images = np.random.default_rng(1).integers(0, 256, (2, 20, 14, channels), dtype=np.uint8)
    resized = resize_images(images, (9, 31))
    planes = torch.from_numpy(images.transpose(0, 3, 1, 2)).float()
    expected = torch.nn.functional.interpolate(planes, (9, 31), mode="bilinear", antialias=True)
    np.testing.assert_allclose(resized, expected.numpy().transpose(0, 2, 3, 1), atol=1.01)
    assert resize_images(images, (20, 14)) is images
    if channels == 3:
        np.testing.assert_array_equal(decode_image(encode(images[0]), size=(9, 31)), resized[0])


def test_sizes_are_parsed_or_refused():
    assert (parse_size(None), parse_size(8), parse_size((3, 4))) == (None, (8, 8), (3, 4))
    for wrong in (0, -3, (1, 2, 3), (4, 0), 2.5, "32"):
        with pytest.raises(ConfigError, match="image_size is"):
            parse_size(wrong)


def test_different_sizes_ask_for_image_size():
    with pytest.raises(DataError, match=r"set: images of 2 different sizes, such as 9x7 \(a\), 3x7 \(b\); give image_"):
        stack_images([PIXELS, PIXELS[:3], PIXELS], ["a", "b", "c"], "set")
