"""Writes that happen whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def open_atomic(path: str | PathLike[str]) -> Iterator[BinaryIO]:
    """A draft beside ``path`` that takes its name, flushed to disk, when the block ends without an error.

    Raises:
      OSError: the folder cannot be written, or the disk is full; ``path`` is then as it was.
    """
    target = Path(path)
    with _open_draft(target) as (draft, file):
        yield file
        _sync(file)
        draft.replace(target)
    _sync_folder(target.parent)


def create_atomic(path: str | PathLike[str], content: bytes) -> bool:
    """``path`` with ``content``, whole, unless it is there already; of several that try, one succeeds.

    Returns:
      Whether this call made it.

    Raises:
      OSError: as ``open_atomic``.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _open_draft(target) as (draft, file):
        file.write(content)
        _sync(file)
        try:
            os.link(draft, target)
        except FileExistsError:
            return False
    _sync_folder(target.parent)
    return True


def write_atomic(path: str | PathLike[str], content: bytes) -> None:
    """Replaces ``path`` by ``content`` in one step, making its folder where there is none.

    Raises:
      OSError: as ``open_atomic``.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open_atomic(path) as file:
        file.write(content)


@contextlib.contextmanager
def _open_draft(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside ``target``, gone at the end unless it took another name."""
    draft = target.with_name(f".{secrets.token_hex(8)}.part")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(descriptor, "wb") as file:
            yield draft, file
    finally:
        draft.unlink(missing_ok=True)


def _sync(file: BinaryIO) -> None:
    """Onto the disk."""
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes a new name survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
