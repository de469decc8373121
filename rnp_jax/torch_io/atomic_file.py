"""Writing a file that appears whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from rnp_jax.errors import CheckpointError


@contextlib.contextmanager
def open_atomically(path: str | PathLike[str], *, overwrite: bool) -> Iterator[BinaryIO]:
    """A temporary file beside `path` that takes its name, flushed to disk, when the block ends without an error.

    Raises:
      CheckpointError: `path` exists and `overwrite` is False, or it cannot be written (no space, no such folder).
    """
    target = Path(path)
    if not overwrite and os.path.lexists(target):
        raise CheckpointError(path, "exists already; choose another name, or pass overwrite=True")
    name = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.part")
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with open(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
        _sync_folder(target.parent)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CheckpointError(path, f"cannot be written: {getattr(error, 'strerror', None) or error}") from error


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
