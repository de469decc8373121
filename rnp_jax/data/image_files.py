"""Many image files as one array: decoded by several threads, every unreadable one named, refused if too large."""

import os
import stat
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8

from rnp_jax.data.images import decode_image, resize_images
from rnp_jax.errors import DataError

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom of a part of an image in pixels; right and bottom are just outside it."""

MEMORY_SHARE = 0.5
"""Of the machine's memory, what one part of a data set may take: training holds a second copy on the device."""

LISTED = 10
"""As many files are named in an error."""


def read_image_files(
    root: Path, files: Sequence[Path], size: tuple[int, int] | None = None, boxes: Sequence[Box] | None = None
) -> UInt8[np.ndarray, "N H W 3"]:
    """Decode PNG, JPEG, PPM, BMP, TIFF or WebP files as RGB, cut to their boxes, resized to ``size`` (height, width).

    Args:
      root: the folder that the files are in; errors name them from there.
      files: N of them, at least one.
      size: left out, all must have the same size.
      boxes: one a file; left out, images are whole.

    Raises:
      DataError: files cannot be read (all of them in one error), differ in size without ``size``, or would fill the
        machine's memory.
    """
    side = size if size is not None else _first_side(files, boxes)
    _check_memory(root, len(files), side)
    images = np.empty((len(files), *side, 3), np.uint8)

    def read(index: int) -> tuple[str, tuple[int, ...]]:
        """What is wrong with the file, if anything, and its height and width."""
        try:
            image = _decode(files[index], size, None if boxes is None else boxes[index])
        except DataError as error:
            return str(error), side
        if image.shape[:2] == side:
            images[index] = image
        return "", image.shape[:2]

    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding the interpreter's lock
        found = list(pool.map(read, range(len(files))))
    names = [file.relative_to(root).as_posix() for file in files]
    unreadable = [f"{name}: {reason}" for name, (reason, _) in zip(names, found, strict=True) if reason]
    if unreadable:
        raise DataError(
            f"{root}: {len(unreadable)} files are not readable images, remove them: {list_some(unreadable)}"
        )
    examples: dict[tuple[int, ...], str] = {}
    for name, (_, shape) in zip(names, found, strict=True):
        examples.setdefault(shape, name)
    if len(examples) > 1:
        some = ", ".join(f"{height}x{width} ({name})" for (height, width), name in list(examples.items())[:3])
        raise DataError(f"{root}: images of {len(examples)} different sizes, such as {some}; give image_size")
    return images


def keep_files(root: Path, entries: Iterable[Path]) -> list[Path]:
    """The files among these entries, sorted, without hidden ones and folders.

    Raises:
      DataError: an entry is a link to nothing or to a folder, or no regular file (all of them in one error).
    """
    visible = sorted(entry for entry in entries if not entry.name.startswith("."))
    _refuse_special(root, visible)
    return [entry for entry in visible if not entry.is_dir()]


def keep_folders(root: Path) -> list[Path]:
    """The folders in ``root``, and links to folders, sorted, without hidden ones.

    Raises:
      DataError: an entry is a link to nothing, or neither a file nor a folder (all of them in one error).
    """
    visible = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in visible if entry.is_dir()]
    _refuse_special(root, [entry for entry in visible if not entry.is_dir()])
    return folders


def _refuse_special(root: Path, entries: Iterable[Path]) -> None:
    faults = [f"{entry.relative_to(root).as_posix()}: {fault}" for entry in entries if (fault := _tell_fault(entry))]
    if faults:
        raise DataError(
            f"{root}: {len(faults)} entries are neither images nor folders, remove them: {list_some(faults)}"
        )


def _tell_fault(entry: Path) -> str:
    try:
        mode = entry.stat().st_mode
    except OSError as error:  # a link to nothing, or to itself
        return error.strerror or str(error)
    if stat.S_ISDIR(mode):
        return "a link to a folder, which is not followed" if entry.is_symlink() else ""
    return "" if stat.S_ISREG(mode) else "a FIFO, device or socket"


def list_some(lines: Sequence[str]) -> str:
    """The first `LISTED` of them, and how many more there are."""
    more = f"; and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
    return "; ".join(lines[:LISTED]) + more


def _decode(file: Path, size: tuple[int, int] | None, box: Box | None) -> UInt8[np.ndarray, "H W 3"]:
    if box is None:
        return decode_image(file, size=size)
    image = decode_image(file)
    left, top, right, bottom = box
    height, width, _ = image.shape
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise DataError(f"the box {box} is not inside its {width}x{height} pixels")
    return resize_images(image[None, top:bottom, left:right], size)[0]


def _first_side(files: Sequence[Path], boxes: Sequence[Box] | None) -> tuple[int, int]:
    """Height and width of the first file that can be read."""
    for index, file in enumerate(files):
        try:
            height, width, _ = _decode(file, None, None if boxes is None else boxes[index]).shape
        except DataError:
            continue
        return height, width
    return 1, 1


def _check_memory(root: Path, count: int, side: tuple[int, int]) -> None:
    height, width = side
    needed, allowed = count * height * width * 3, MEMORY_SHARE * physical_memory()
    if needed > allowed:
        raise DataError(
            f"{root}: {count:,} images of {height}x{width} are {needed / 2**30:,.1f} GiB in memory, but "
            f"{allowed / 2**30:,.1f} GiB can be used; give a smaller image_size, or a folder with fewer images"
        )


def physical_memory() -> int:
    """Bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
