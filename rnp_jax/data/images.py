"""Decoding and resizing single images with Pillow."""

import io
import struct
import zlib
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rnp_jax.errors import ConfigError, DataError

ImageSize: TypeAlias = int | tuple[int, int]
"""The side of a square, or (height, width), in pixels."""

FORMATS = ("PNG", "JPEG", "PPM", "BMP")
"""The only decoders that are tried, whatever a file's name says."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def parse_size(image_size: ImageSize | None) -> tuple[int, int] | None:
    """``image_size`` as (height, width), or None where it is None.

    Raises:
      ConfigError: if it is not one or two positive integers.
    """
    if image_size is None:
        return None
    sides = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ConfigError(f"image_size is {image_size!r}; give a positive number of pixels, or (height, width)")
    return sides[0], sides[1]


def decode_image(
    source: Path | bytes, *, channels: int = 3, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "H W C"]:
    """Decode one PNG, JPEG, PPM or BMP image, as ``channels`` (1 grey, 3 RGB, 4 RGBA), resized to ``size``.

    Raises:
      DataError: if it is truncated, damaged, far too large, of another format, or has more than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"more than 8 bits a channel (mode {image.mode}); convert it to 8 bits")
            image = image.convert(_MODES[channels])
    except _UNREADABLE as error:
        reason = "not a PNG, JPEG, PPM or BMP image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise DataError(reason) from error
    if size is not None:
        image = _resize(image, size)
    array = np.asarray(image)
    return array.reshape(*array.shape[:2], channels)


def resize_images(
    images: UInt8[np.ndarray, "N H W C"], size: tuple[int, int] | None
) -> UInt8[np.ndarray, "N size0 size1 C"]:
    """Resize every image to ``size`` (height, width), bilinear and antialiased; any number of channels."""
    if size is None or images.shape[1:3] == size:
        return images
    resized = np.empty((len(images), *size, images.shape[3]), np.uint8)
    for source, target in zip(images, resized, strict=True):
        for channel in range(images.shape[3]):
            plane = Image.fromarray(np.ascontiguousarray(source[..., channel]))
            target[..., channel] = np.asarray(_resize(plane, size))
    return resized


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


def stack_images(images: list[np.ndarray], names: list[str], where: str) -> UInt8[np.ndarray, "N H W C"]:
    """Stack equally large images; ``names`` identify them in an error and ``where`` is their source.

    Raises:
      DataError: if they differ in size.
    """
    examples: dict[tuple[int, ...], str] = {}
    for image, name in zip(images, names, strict=True):
        examples.setdefault(image.shape, name)
    if len(examples) > 1:
        some = ", ".join(f"{shape[0]}x{shape[1]} ({name})" for shape, name in list(examples.items())[:3])
        raise DataError(f"{where}: images of {len(examples)} different sizes, such as {some}; give image_size")
    return np.stack(images)
