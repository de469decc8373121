"""Writes that happen whole or not at all, and that say so where the disk is full.

What is being written is a draft, ``.HEX.part``, beside its place. Its writer holds a lock on it, so that the drafts of
processes that were killed can be told from those that are still being written, and removed. Since some file systems
keep locks from other machines, the name says which machine a draft is of, and those of others have an hour. It says
which process, too, since an empty draft may be one that its writer has just made and does not hold yet.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from rnp_jax.errors import DiskFullError, ResultError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write fails with where there is no room."""

_DRAFT = re.compile(r"\.[0-9a-f]{16}\.part")
_YOUNG = 60.0  # seconds for which an empty draft of a living process may still be without its lock
_FOREIGN = 3600.0  # seconds for which another machine may write a draft


@contextlib.contextmanager
def expect_room(path: str | PathLike[str]) -> Iterator[None]:
    """What is written in this block, at or below ``path``, needs room.

    Raises:
      DiskFullError: there is none.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise no_room(path, error) from error
        raise


def no_room(path: str | PathLike[str], error: OSError) -> DiskFullError:
    """The error that tells which write had no room."""
    return DiskFullError(f"{path}: {error.strerror}; free some space and run the same command again")


def find_full(error: object) -> int | None:
    """The code of a full disk where an error of another library tells of one in words."""
    return next((code for code in FULL if os.strerror(code) in str(error)), None)


@contextlib.contextmanager
def open_atomic(path: str | PathLike[str]) -> Iterator[BinaryIO]:
    """A draft beside ``path`` that takes its name, flushed to disk, when the block ends without an error.

    Raises:
      DiskFullError: there is no room; ``path`` is then as it was, and so below.
      OSError: the folder cannot be written.
    """
    target = Path(path)
    with expect_room(target):
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
      DiskFullError, OSError: as ``open_atomic``.
    """
    target = Path(path)
    with expect_room(target):
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
      DiskFullError, OSError: as ``open_atomic``.
    """
    with expect_room(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open_atomic(path) as file:
        file.write(content)


@contextlib.contextmanager
def put_in_place(path: str | PathLike[str]) -> Iterator[Path]:
    """Where a new file or folder is to be made: it takes the name ``path``, from what has it, at the block's end.

    What had the name stays where the block ends with an error.

    Raises:
      DiskFullError, OSError: as ``open_atomic``.
    """
    target = Path(path)
    with expect_room(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = _name_draft(target)
        draft.mkdir()
        descriptor = os.open(draft, os.O_RDONLY)
        try:
            _lock(descriptor)
            yield draft / "new"
            with contextlib.suppress(FileNotFoundError):
                target.replace(draft / "old")
            (draft / "new").replace(target)
            _sync_folder(target.parent)
        finally:
            os.close(descriptor)
            shutil.rmtree(draft, ignore_errors=True)


def open_to_append(path: str | PathLike[str]) -> BinaryIO:
    """A file to whose end all is written, made where there is none; a link is not followed.

    Raises:
      ResultError: it is a link, or no regular file.
      DiskFullError, OSError: as ``open_atomic``.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO must not block
    fault = ResultError(f"{path} is a link or no regular file, and would be written to; remove it")
    try:
        with expect_room(path):
            descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        raise (fault if error.errno in (errno.ELOOP, errno.ENXIO) else error) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise fault
    return open(descriptor, "ab")


def is_draft(path: Path) -> bool:
    """Whether a file or folder has the name of something that is, or was, being written."""
    return _DRAFT.fullmatch(path.name) is not None


def remove_drafts(*folders: Path, deep: bool = False) -> None:
    """Removes the drafts that killed processes left in these folders, and below them if ``deep``; follows no links."""
    for folder in folders:
        for parent, directories, files in os.walk(folder):
            for name in filter(_DRAFT.fullmatch, [*files, *directories]):
                _remove_dead(Path(parent, name))
            directories[:] = [name for name in directories if deep and not _DRAFT.fullmatch(name)]


def _remove_dead(draft: Path) -> None:
    """Removes a draft that nobody holds. Who has just made one may not hold it yet."""
    with contextlib.suppress(OSError):  # it is gone, or held, or nobody can tell
        descriptor = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            is_file = stat.S_ISREG(found.st_mode)
            is_empty = not (found.st_size if is_file else os.listdir(descriptor))
            is_new = is_empty and _is_alive(int(draft.name[5:11], 16))
            least = _FOREIGN if draft.name[1:5] != _machine() else _YOUNG * is_new
            if time.time() - found.st_mtime < least:
                return
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.unlink() if is_file else shutil.rmtree(draft)
        finally:
            os.close(descriptor)


def _name_draft(target: Path) -> Path:
    return target.with_name(f".{_machine()}{os.getpid():06x}{secrets.token_hex(3)}.part")


def _is_alive(process: int) -> bool:
    """Whether a process with this number is on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


@functools.cache
def _machine() -> str:
    """Four digits that tell this machine from most others."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]


@contextlib.contextmanager
def _open_draft(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside ``target``, gone at the end unless it took another name."""
    draft = _name_draft(target)
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:  # of a name that nobody asked for
        raise OSError(error.errno, error.strerror, str(target)) from error
    try:
        with open(descriptor, "wb") as file:
            _lock(descriptor)
            yield draft, file
    finally:
        draft.unlink(missing_ok=True)


def _lock(descriptor: int) -> None:
    """Holds a draft while this process lives; where the file system knows no locks, drafts of the dead stay."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


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
