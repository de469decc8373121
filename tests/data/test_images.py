import contextlib
import io
import os
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rnp_jax.data import images
from rnp_jax.data.images import decode_image, parse_size, resize_images, stack_images
from rnp_jax.errors import ConfigError, DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def encode(array, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "PPM", "BMP", "TIFF"])
def test_lossless_formats_come_back_exactly(kind):
    np.testing.assert_array_equal(decode_image(encode(PIXELS, kind)), PIXELS)


def test_channels_are_converted():
    grey = PIXELS[..., 0]
    np.testing.assert_array_equal(decode_image(encode(grey), channels=1), grey[..., None])
    np.testing.assert_array_equal(decode_image(encode(grey)), np.repeat(grey[..., None], 3, axis=2))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(kind=st.sampled_from(["PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP"]), data=st.data())
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
        (b"hello", "not a PNG, JPEG, PPM, PGM, BMP, TIFF or WebP image"),
        (encode(PIXELS, "GIF"), "not a PNG"),
        (encode(PIXELS)[:100], "."),
        (encode(PIXELS[..., 0].astype(np.uint16)), "8 bits"),
    ],
)
def test_unreadable_images_are_refused(content, message):
    with pytest.raises(DataError, match=message):
        decode_image(content)


def png(depth, colour, pixel):
    """A PNG of one pixel, as Pillow itself cannot write it."""
    header = struct.pack(">IIBBBBB", 1, 1, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + pixel)), (b"IEND", b"")]
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        whole += struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(kind + data))
    return whole


def tiff(depths, order="II", **tags):
    """A TIFF of one pixel of these bits a channel, not compressed; ``tags`` are further ones by number."""
    short = {"II": "<", "MM": ">"}[order]
    pixel = b"\x12\x34" * 8
    photometric = 2 if len(depths) == 3 else 1
    given = {
        256: 1,
        257: 1,
        259: 1,
        262: photometric,
        273: 8,
        277: len(depths),
        278: 1,
        279: len(depths) * depths[0] // 8,
    }
    given |= {int(tag[1:]): value for tag, value in tags.items()}
    entries = {tag: struct.pack(f"{short}HHII", tag, 4, 1, value) for tag, value in given.items()}
    bits = struct.pack(f"{short}{len(depths)}H", *depths)
    begin = 8 + len(pixel)  # of the bits a channel, before the directory
    where = bits.ljust(4, b"\0") if len(depths) == 1 else struct.pack(f"{short}I", begin)
    entries[258] = struct.pack(f"{short}HHI", 258, 3, len(depths)) + where
    bits = bits.ljust(8, b"\0")
    directory = struct.pack(f"{short}H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return order.encode() + struct.pack(f"{short}HI", 42, begin + len(bits)) + pixel + bits + directory


def test_a_tiff_of_8_bits_is_read():
    assert decode_image(tiff((8, 8, 8))).tolist() == [[[0x12, 0x34, 0x12]]]
    assert decode_image(tiff((8,), "MM"), channels=1).tolist() == [[[0x12]]]


def test_a_tiff_with_a_tile_far_larger_than_its_image_is_refused():
    with pytest.raises(DataError, match=r"expected at most 67,108,864 in all"):
        decode_image(tiff((8, 8, 8), t322=2**15, t323=2**15, t324=8, t325=3))


@pytest.mark.parametrize("kind", ["WEBP", "JPEG"])
def test_lossy_formats_come_back_nearly(kind):
    smooth = np.broadcast_to(np.arange(0, 160, 5, np.uint8)[:, None, None], (32, 32, 3))
    assert np.abs(decode_image(encode(np.ascontiguousarray(smooth), kind)).astype(int) - smooth).max() < 12


@pytest.mark.parametrize(
    "content",
    [
        *(png(16, colour, b"\x12\x34" * channels) for colour, channels in ((0, 1), (2, 3), (4, 2), (6, 4))),
        b"P6 1 1 65535\n" + b"\x12\x34" * 3,
        b"P6 1 1 256\n" + b"\x01\x00" * 3,
        b"P5 1 1 65535\n" + b"\x12\x34",
        b"P3 1 1 65535\n 1 2 60000\n",
        b"P2 1 1 1000\n 999\n",
        *(tiff(depth, order) for depth in ((16,), (16, 16, 16)) for order in ("II", "MM")),
    ],
)
def test_no_image_is_cut_to_8_bits(content):
    with pytest.raises(DataError, match=r"more than 8 bits a channel \(mode .*\); convert it to 8 bits"):
        decode_image(content)


@pytest.mark.parametrize("content", [png(8, 2, b"abc"), b"P6 1 1 255\nabc", b"P3 1 1 255\n97 98 99\n"])
def test_images_of_8_bits_are_read(content):
    assert decode_image(content).tolist() == [[[97, 98, 99]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_an_image_of_several_frames_is_refused(kind):
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="several frames, expected a single image; save the one that is meant"):
        decode_image(buffer.getvalue())


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


def test_images_that_are_far_larger_than_their_files_are_refused_or_decoded_one_at_a_time(monkeypatch):
    """Sixty files of 20 KB took 5 GB."""
    with pytest.raises(DataError, match="8193x8192 pixels, expected at most 67,108,864 in all"):
        decode_image(encode(np.zeros((8192, 8193), np.bool_)), size=(8, 8))
    at_once, most = [], []

    def resize(image, size):
        at_once.append(1)
        most.append(len(at_once))
        time.sleep(0.01)
        at_once.pop()
        return image.resize(size)

    monkeypatch.setattr(images, "_LARGE_PIXELS", 100)
    monkeypatch.setattr(images, "_resize", resize)
    large = encode(np.zeros((11, 10, 3), np.uint8))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: decode_image(large, size=(8, 8)), range(12)))
    assert most == [1] * 12


def test_only_a_regular_file_is_decoded(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("/dev/zero")
    for name, message in (("a.png", "a FIFO, not a regular"), ("b.png", "a device"), ("c.png", "No such file")):
        with pytest.raises(DataError, match=f"cannot be read: {message}"):
            decode_image(tmp_path / name)
