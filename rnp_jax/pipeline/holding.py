"""One run at a time for each place that is written to; a second is told whose it is.

A run holds a lock on a hidden file there while it lives, so that a lock that nobody holds is one of a run that was
killed. Runs that do the same may share the place. Where the file system knows no locks, nobody is held up.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from rnp_jax.atomic import expect_room, remove_drafts
from rnp_jax.errors import DataError

LOCK = ".lock"
"""The hidden file, in a folder that is held."""

STATES = "states"
"""The folder, in a folder that is held, of what an unfinished run keeps to go on from."""

_MOST = 4096  # bytes that it has
_PATIENCE = 5.0  # seconds that another run may take to say who it is, or to leave
_POLL = 0.02


@contextlib.contextmanager
def hold_folder(folder: Path, command: str, share: str | None = None) -> Iterator[bool]:
    """Makes this the one run that writes into a folder, or one of those with the same ``share``.

    Drafts that killed runs left in the folder are removed first.

    Args:
      folder: made where there is none, and gone again if nothing is written.
      command: what this run is called.
      share: tells which runs do the same; by default none does.

    Yields:
      Whether this run is alone there as yet.

    Raises:
      DataError: another run writes there.
      DiskFullError, OSError: the folder cannot be written.
    """
    is_new = not folder.exists()
    with expect_room(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with _hold(folder / LOCK, str(folder), command, share) as alone:
            if alone:
                remove_drafts(folder, deep=True)
            yield alone
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # something was written
                folder.rmdir()


@contextlib.contextmanager
def hold_new(out: Path, command: str, finished: str) -> Iterator[None]:
    """Makes this the one run that writes into a folder which holds no finished result.

    Raises:
      DataError: another run writes there, or has finished there.
      DiskFullError, OSError: as ``hold_folder``.
    """
    with hold_folder(out, command):
        if (out / finished).exists():
            shutil.rmtree(out / STATES, ignore_errors=True)
            raise DataError(f"{out} already contains a finished result; choose another folder with --out")
        yield


def check_unfinished(out: Path, command: str, finished: str) -> None:
    """Requires that a folder lacks the file that a run writes last; removes what a run left that was killed after it.

    Raises:
      DataError, DiskFullError, OSError: as ``hold_new``, where the file is there.
    """
    if (out / finished).exists():
        with hold_new(out, command, finished):
            pass


@contextlib.contextmanager
def hold_file(path: Path, command: str) -> Iterator[None]:
    """Makes this the one run that writes a file and those that are named after it; its folder is made.

    Drafts that killed runs left in the folder are removed first.

    Raises:
      DataError, DiskFullError, OSError: as ``hold_folder``.
    """
    with expect_room(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]  # the longest names leave no room for more
    with _hold(path.with_name(f".{name}{LOCK}"), str(path), command, None):
        remove_drafts(path.parent)
        yield


@contextlib.contextmanager
def _hold(lock: Path, place: str, command: str, share: str | None) -> Iterator[bool]:
    since = datetime.now(UTC)
    holder = f"process {os.getpid()} on {socket.gethostname()} ({command}, since {since:%Y-%m-%d %H:%M:%S}Z)"
    descriptor, alone = _take(lock, place, holder, share)
    try:
        yield alone
    finally:
        if (alone and share is None) or _try(descriptor, fcntl.LOCK_EX):
            lock.unlink(missing_ok=True)
        os.close(descriptor)


def _take(lock: Path, place: str, holder: str, share: str | None) -> tuple[int, bool]:
    """The locked file, and whether nobody else had it."""
    end, found = time.monotonic() + _PATIENCE, {}
    while True:
        with expect_room(lock):
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            if _try(descriptor, fcntl.LOCK_EX):
                if _is_named(descriptor, lock):
                    _write(descriptor, {"holder": holder, "share": share})
                    if share is None or _try(descriptor, fcntl.LOCK_SH):
                        return os.dup(descriptor), True
            else:
                found = _read(descriptor) or found
                shared = share is not None and found.get("share") == share
                if shared and _try(descriptor, fcntl.LOCK_SH) and _is_named(descriptor, lock):
                    return os.dup(descriptor), False
                if (found and not shared) or time.monotonic() > end:
                    raise DataError(
                        f"{place} is being written by {found.get('holder', 'another process')}; wait until it ends, "
                        "or choose another place with --out"
                    )
        finally:
            os.close(descriptor)
        time.sleep(_POLL)


def _try(descriptor: int, kind: int) -> bool:
    """Whether a lock can be had at once, or the file system knows none."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_named(descriptor: int, lock: Path) -> bool:
    """Whether the locked file is still the one there: whoever leaves removes it."""
    try:
        named = os.stat(lock)
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)


def _write(descriptor: int, values: dict[str, str | None]) -> None:
    os.ftruncate(descriptor, 0)
    with contextlib.suppress(OSError):  # a full disk is told by what is written next
        os.pwrite(descriptor, json.dumps(values).encode(), 0)


def _read(descriptor: int) -> dict[str, str]:
    """What the holder says; nothing where it has not come to say it yet."""
    try:
        found = json.loads(os.pread(descriptor, _MOST, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
