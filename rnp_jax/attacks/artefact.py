"""Trigger artefacts as ``.npz`` files: plain arrays, never pickle, checked before they are read into memory."""

import io
import zipfile
import zlib
from os import PathLike
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from rnp_jax.attacks.base import Attack, ImageShape, Params
from rnp_jax.errors import DataError

READ_ERRORS = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What ``zipfile`` raises on damaged, encrypted or unsupported archives, and ``_read`` on unexpected arrays."""

PREFIX = npy.magic(1, 0)
"""First bytes of an array in npy format 1.0; two bytes with the header's length follow."""


def save_artefact(file: str | PathLike[str] | BinaryIO, params: Params) -> None:
    """Write an attack's artefact; the same arrays make the same bytes."""
    with zipfile.ZipFile(file, "w") as archive:
        for name in sorted(params):
            content = io.BytesIO()
            npy.write_array(content, params[name], version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)


def load_artefact(path: str | PathLike[str], attack: Attack, image_shape: ImageShape) -> Params:
    """Read an artefact drawn by this attack for this image shape. Safe on hostile files.

    Raises:
      DataError: not such a file; arrays missing or unknown (listed by − and +); another dtype or shape; not finite.
    """
    expected = {f"{name}.npy": array for name, array in attack.init(image_shape).items()}
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.namelist()
            difference = [f"- {name}" for name in sorted(expected.keys() - set(found))]
            difference += [f"+ {name}" for name in sorted(set(found) - expected.keys())]
            if difference or len(found) != len(expected):
                raise ValueError("\n".join([f"{len(found)} arrays, expected {len(expected)}:", *difference]))
            return {name.removesuffix(".npy"): _read(archive, name, like) for name, like in expected.items()}
    except READ_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: not this attack's artefact: {reason}; write it with save_artefact") from error


def _read(archive: zipfile.ZipFile, name: str, like: np.ndarray) -> np.ndarray:
    """One member. Its header is compared with the expected one as text: nothing in it is parsed or obeyed."""
    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is neither stored nor deflated")
    expected = io.BytesIO()
    npy.write_array_header_1_0(expected, npy.header_data_from_array_1_0(like))
    wanted = expected.getvalue()[len(PREFIX) + 2 :].strip()
    with archive.open(name) as member:
        prefix = member.read(len(PREFIX))
        header = member.read(int.from_bytes(member.read(2), "little")).strip()
        if prefix != PREFIX or header != wanted:
            raise ValueError(f"{name} is {bytes(header[:100])!r}, expected {wanted!r}")
        data = member.read(like.nbytes + 1)
    if len(data) != like.nbytes:
        raise EOFError(f"{name} holds {len(data)} bytes or more, expected {like.nbytes}")
    array = np.frombuffer(data, like.dtype).reshape(like.shape).copy()
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite")
    return array
