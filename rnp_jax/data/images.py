"""Decoding and resizing single images with Pillow."""

import contextlib
import io
import struct
import threading
import zlib
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from rnp_jax.checks import LARGEST_SIDE
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.regular_file import open_regular

ImageSize: TypeAlias = int | tuple[int, int]
"""The side of a square, or (height, width), in pixels."""

FORMATS = ("PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP")
"""The only decoders that are tried, whatever a file's name says: those of torchvision's ``ImageFolder``."""

_KINDS = "PNG, JPEG, PPM, PGM, BMP, TIFF or WebP"

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Warning),  # of Pillow's, where Python makes errors of warnings
)

_TILE_SIDES = (322, 323)  # TIFF's tags TileWidth and TileLength

_MOST_PIXELS = 2**26
_LARGE_PIXELS = 2**22
_LARGE_ONE = threading.Lock()
"""Held while an image of more than ``_LARGE_PIXELS`` is decoded: a file of 20 KB can be one of 200 MB."""


def parse_size(image_size: ImageSize | None) -> tuple[int, int] | None:
    """``image_size`` as (height, width), or None where it is None.

    Raises:
      ConfigError: if it is not one or two positive integers.
    """
    if image_size is None:
        return None
    sides = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    if len(sides) != 2 or not all(isinstance(side, int) and 0 < side <= LARGEST_SIDE for side in sides):
        raise ConfigError(
            f"image_size is {image_size!r}; give a positive number of pixels up to {LARGEST_SIDE}, or (height, width)"
        )
    return sides[0], sides[1]


def decode_image(
    source: Path | bytes, *, channels: int = 3, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "H W C"]:
    """Decode one PNG, JPEG, PPM, BMP, TIFF or WebP image, as ``channels`` (1 grey, 3 RGB, 4 RGBA), resized to ``size``.

    Raises:
      DataError: if it is truncated, damaged, far too large, of another format, no regular file, has more than 8 bits a
        channel, or several frames.
    """
    opened = io.BytesIO(source) if isinstance(source, bytes) else _open_file(source)
    try:
        with opened as file, Image.open(file, formats=FORMATS) as image:
            pixels = max(image.width * image.height, _count_tile(image))
            if pixels > _MOST_PIXELS:
                raise DataError(f"{image.width}x{image.height} pixels, expected at most {_MOST_PIXELS:,} in all")
            _check_depth(image)
            with _LARGE_ONE if pixels > _LARGE_PIXELS else contextlib.nullcontext():
                image = image.convert(_MODES[channels])
                array = np.asarray(image if size is None else _resize(image, size))
    except _UNREADABLE as error:
        reason = f"not a {_KINDS} image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise DataError(reason) from error
    return array.reshape(*array.shape[:2], channels)


def _check_depth(image: ImageFile) -> None:
    """Refuse an image of which Pillow would read a part: the upper 8 bits of 16, or the first frame of several."""
    deep = image.mode.startswith(("I", "F"))
    for _, _, _, layout in image.tile:  # how the file holds the pixels: "RGB;16B", or in a PPM ("RGB", 65535)
        parts = layout if isinstance(layout, tuple) else (layout,)
        deep |= any(isinstance(part, str) and ";16" in part for part in parts) and image.format in ("PNG", "TIFF")
        deep |= any(isinstance(part, int) and part > 255 for part in parts) and image.format == "PPM"
    if deep:
        raise DataError(f"more than 8 bits a channel (mode {image.mode}); convert it to 8 bits")
    if isinstance(image, PngImageFile | TiffImageFile | WebPImageFile) and image.is_animated:
        raise DataError("several frames, expected a single image; save the one that is meant")


def _count_tile(image: ImageFile) -> int:
    """The pixels of a TIFF's tile, which is decoded whole however small the image is; 0 without tiles."""
    if not isinstance(image, TiffImageFile):
        return 0
    width, height = (image.tag_v2.get(tag, 0) for tag in _TILE_SIDES)
    return width * height if isinstance(width, int) and isinstance(height, int) else 0


def _open_file(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error


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
