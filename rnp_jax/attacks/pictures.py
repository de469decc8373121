"""Trigger artefacts from pictures, as publications give them: a pattern, and a mask beside it.

``NAME.png`` is the array ``pattern``; ``NAME_mask.npy``, or else ``NAME_mask.png``, the array ``mask``.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from rnp_jax.attacks.base import Params
from rnp_jax.data.images import decode_image
from rnp_jax.errors import DataError
from rnp_jax.npy import read_npy
from rnp_jax.regular_file import open_regular

SUFFIXES = (".png", ".bmp", ".ppm", ".jpg", ".jpeg")
"""Ends of the names of pictures, in small letters."""

_MASK_SUFFIXES = (".npy", ".png")
_NUMBERS = (np.float32, np.float64, np.bool_, np.uint8, np.int32, np.int64)


def read_pictures(path: Path, like: Params) -> Params:
    """An artefact with the names, shapes and dtypes of ``like``: ``pattern``, and ``mask`` where it has one.

    Args:
      path: the picture of the pattern, of the images' size.
      like: ``pattern`` uint8 [H, W, C] and, if there is one, ``mask`` bool or float32 [H, W, C] or [H, W, 1].

    Raises:
      DataError: an attack whose artefact is of other arrays; a mask that is missing, or that the attack does not read;
        an unreadable file; another size; a mask with values outside [0, 1].
    """
    pattern, mask = like.get("pattern"), like.get("mask")
    if pattern is None or pattern.dtype != np.uint8 or like.keys() - {"pattern", "mask"}:
        names = ", ".join(f"{name} {array.dtype}" for name, array in like.items())
        raise DataError(
            f"{path}: a picture holds a pattern uint8, but this attack's artefact is {names}; give a .npz file"
        )
    beside = [path.with_name(f"{path.stem}_mask{suffix}") for suffix in _MASK_SUFFIXES]
    found = next((file for file in beside if file.is_file()), None)
    params = {"pattern": _read_picture(path, pattern.shape)}
    if mask is None:
        if found is not None:
            raise DataError(
                f"{found}: with these constants the attack reads no mask; stamp reads one with --constants variant "
                "paste, otherwise move the file"
            )
        return params
    if found is None:
        raise DataError(
            f"{path}: no mask beside it, and this attack needs one; expected {' or '.join(f.name for f in beside)}"
        )
    return params | {"mask": _read_mask(found, mask)}


def _read_picture(path: Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "H W C"]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the picture of the trigger")
    if shape[2] not in (1, 3):
        raise DataError(f"{path}: a picture has 1 or 3 channels, the images have {shape[2]}; give a .npz file")
    try:
        picture = decode_image(path, channels=shape[2])
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if picture.shape != shape:
        sizes = [f"{height}x{width}" for height, width, _ in (picture.shape, shape)]
        raise DataError(f"{path}: the picture is {sizes[0]}, the images are {sizes[1]}; resize one of them")
    return picture


def _read_mask(path: Path, like: np.ndarray) -> np.ndarray:
    """Weights in [0, 1] in the dtype and shape of ``like``; a file without channels holds for all of them."""
    if path.suffix == ".png":
        weights = _read_picture(path, like.shape) / np.float32(255)
    else:
        weights = _read_weights(path, like.shape)
    if not (weights.min() >= 0 and weights.max() <= 1):
        raise DataError(f"{path}: values from {weights.min()} to {weights.max()}, expected a mask from 0 to 1")
    if like.dtype == np.bool_ and not np.isin(weights, (0, 1)).all():
        raise DataError(f"{path}: values between 0 and 1, but this attack's mask has only zeros and ones")
    return weights.astype(like.dtype)


def _read_weights(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A .npy file [H, W, C], [C, H, W] or [H, W] of any of the usual numbers, as [H, W, C]."""
    height, width, channels = shape
    layouts = (shape, (channels, height, width), (height, width))
    likes = [np.empty(layout, kind) for layout in layouts for kind in _NUMBERS]
    try:
        with open_regular(path) as file:
            array = read_npy(file, path.name, likes)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: not a mask for images of {height}x{width}: {error}") from error
    if array.ndim == 2:
        return np.broadcast_to(array[:, :, None], shape)
    return array if array.shape == shape else array.transpose(1, 2, 0)
