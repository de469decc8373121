"""Trigger artefacts as ``.npz`` files: plain arrays, never pickle, checked before they are read into memory.

An artefact of a pattern, or of a pattern and a mask, can also be read from pictures.
"""

import io
import zipfile
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from rnp_jax.attacks.base import Attack, ImageShape, Params
from rnp_jax.attacks.pictures import SUFFIXES, read_pictures
from rnp_jax.errors import DataError
from rnp_jax.npy import read_npy
from rnp_jax.npz import READ_ERRORS, open_array, open_npz

_SPARE = 2**20  # bytes that headers and compression may add


def save_artefact(file: str | PathLike[str] | BinaryIO, params: Params) -> None:
    """Write an attack's artefact; the same arrays make the same bytes."""
    with zipfile.ZipFile(file, "w") as archive:
        for name in sorted(params):
            content = io.BytesIO()
            npy.write_array(content, params[name], version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)


def load_artefact(path: str | PathLike[str], attack: Attack, image_shape: ImageShape) -> Params:
    """Read an artefact of this attack for this image shape: a .npz file or a picture. Safe on hostile files.

    Raises:
      DataError: not such a file; arrays missing or unknown (listed by − and +); another dtype or shape; not finite.
        Pictures: as ``read_pictures``.
    """
    like = attack.init(image_shape)
    if Path(path).suffix.lower() in SUFFIXES:
        return read_pictures(Path(path), like)
    expected = {f"{name}.npy": array for name, array in like.items()}
    try:
        with open_npz(Path(path), 2 * sum(array.nbytes for array in like.values()) + _SPARE) as archive:
            found = archive.namelist()
            difference = [f"- {name}" for name in sorted(expected.keys() - set(found))]
            difference += [f"+ {name}" for name in sorted(set(found) - expected.keys())]
            if difference or len(found) != len(expected):
                raise ValueError("\n".join([f"{len(found)} arrays, expected {len(expected)}:", *difference]))
            return {name: _read(archive, name, like[name]) for name in like}
    except READ_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: not this attack's artefact: {reason}; write it with save_artefact") from error


def _read(archive: zipfile.ZipFile, name: str, like: np.ndarray) -> np.ndarray:
    with open_array(archive, name) as member:
        return read_npy(member, f"{name}.npy", [like])
