"""Who works on what, and what is done: files in one folder that any number of processes and machines share.

An item is claimed by creating ``claims/KEY``, and done once ``rows/KEY.json`` is there; both are created, never
replaced, so of several that try one succeeds. A process holds a lock on ``members/NAME`` while it lives, and touches
that file: on its own machine it is dead when the lock is free, for others when it has been silent for the lease.

An item that nobody can run for now, as its data are not there, has no row: ``rows/KEY.aside`` says why, and counts as
done until the next command, which tries again.

A row is on the disk before it is visible. A claim is a second name (a hard link) of its holder's file, which says who
that is and is on the disk from the start: one step, and after a power cut a claim is there whole or not at all.

A supervisor that sees its worker die turns the worker's claims into ``crashes/KEY.N``, unless somebody else killed the
worker (`rnp_jax.sweep.faults`); ``crashes/KEY.0`` has an item run alone, and nothing more. Claims of a worker whose
supervisor is gone too (the machine went down, somebody killed everything) are void, and no crash.
"""

import fcntl
import json
import os
import secrets
import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pydantic import ValidationError

from rnp_jax.atomic import create_atomic, expect_room
from rnp_jax.errors import SweepError
from rnp_jax.regular_file import MIB, open_regular, read_regular
from rnp_jax.report.sweep_row import SweepRow

MOST_CRASHES = 2
"""After so many an item is quarantined."""

_ASIDE = ".aside"
_ROW_BYTES = 16 * MIB


class Participant(NamedTuple):
    """A process that takes part: its own name, and that of the supervisor that watches it, if any."""

    name: str
    supervisor: str = ""


class Ledger:
    """The shared folder of a sweep; ``lease`` is how many seconds another machine may be silent."""

    def __init__(self, out: Path, lease: float = 60.0):
        self.out, self.lease = out, lease
        self.rows_folder, self._claims = out / "rows", out / "claims"
        self._crashes, self._members = out / "crashes", out / "members"
        with expect_room(out):
            for folder in (self.rows_folder, self._claims, self._crashes, self._members):
                folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def join(self, supervisor: str = "") -> Iterator[Participant]:
        """Takes part, alive to the others until the block ends or the process does.

        Raises:
          DiskFullError, OSError: the folder cannot be written.
        """
        member = Participant(f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}", supervisor)
        path, ended = self._members / member.name, threading.Event()
        with self._introduce(member, path) as file:

            def beat() -> None:
                while not ended.wait(self.lease / 4):
                    os.utime(file.fileno())

            thread = threading.Thread(target=beat, daemon=True)
            thread.start()
            try:
                yield member
            finally:
                ended.set()
                thread.join()
                path.unlink(missing_ok=True)

    def _introduce(self, member: Participant, path: Path) -> BinaryIO:
        """A member's file, locked, which says who it is: on the disk before a claim can show it to others."""
        with expect_room(path):
            file = path.open("xb")
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(json.dumps(member).encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                path.unlink()
                with suppress(OSError):
                    file.close()  # tries once more to write
                raise
        return file

    def is_alive(self, name: str) -> bool:
        """Whether a member still works, as far as can be seen from here."""
        path = self._members / name
        try:
            with open_regular(path) as file:
                if name.split(":")[0] != socket.gethostname():
                    return self._now() - os.fstat(file.fileno()).st_mtime < self.lease
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
                return False
        except FileNotFoundError:
            return False

    def bury(self, process: int) -> None:
        """Removes the member's file of a process of this machine that is dead."""
        for path in self._members.glob(f"{socket.gethostname()}:{process}:*"):
            if not self.is_alive(path.name):
                path.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Removes the members' files and the useless claims that killed processes left; for whoever is alone here."""
        for path in self._members.iterdir():
            if path.name.startswith(".") or not self.is_alive(path.name):
                path.unlink(missing_ok=True)
        for path in self._claims.iterdir():
            if path.name.startswith(".") or self.is_done(path.name):
                path.unlink(missing_ok=True)

    def _now(self) -> float:
        """The file server's clock."""
        probe = self._members / f".{secrets.token_hex(8)}"
        with expect_room(probe):
            probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink()

    def claim(self, key: str, member: Participant) -> bool:
        """Whether the item is this member's now: neither done nor another living member's.

        Raises:
          SweepError: the member's file is gone, or a claim is no claim.
        """
        while not self.is_done(key):
            if self._link(self._members / member.name, self._claims / key):
                if not self.is_done(key):
                    return True
                self.release(key)  # its row came between the look and the claim
                return False
            if self.is_held(key):
                return False
            self._void(key)
        return False

    def _link(self, file: Path, claim: Path) -> bool:
        """Gives a member's file the claim's name too, unless another file has it."""
        try:
            with expect_room(claim):
                os.link(file, claim)
        except FileExistsError:
            return False
        except FileNotFoundError as error:
            raise SweepError(f"{file} was removed while the sweep ran; run the same command again") from error
        return True

    def is_held(self, key: str) -> bool:
        """Whether a member that lives, or whose supervisor does, has claimed the item."""
        return self.holder(key) is not None

    def holder(self, key: str) -> Participant | None:
        """The member that has claimed the item, if it lives or its supervisor does."""
        member = self._claimant(key)
        return member if member is not None and any(self.is_alive(name) for name in member if name) else None

    def _claimant(self, key: str) -> Participant | None:
        try:
            return _read_claim(self._claims / key)
        except FileNotFoundError:
            return None

    def _void(self, key: str) -> None:
        """Takes a dead member's claim away; one that was made in between goes back."""
        aside = self._claims / f".{secrets.token_hex(8)}"
        try:
            (self._claims / key).rename(aside)
        except FileNotFoundError:
            return
        if any(self.is_alive(name) for name in _read_claim(aside) if name):
            create_atomic(self._claims / key, read_regular(aside, MIB))
        aside.unlink()

    def release(self, key: str) -> None:
        """Gives a claim back."""
        (self._claims / key).unlink(missing_ok=True)

    def _row(self, key: str) -> Path:
        return self.rows_folder / f"{key}.json"

    def _aside(self, key: str) -> Path:
        return self.rows_folder / f"{key}{_ASIDE}"

    def is_done(self, key: str) -> bool:
        """Whether the item has its row, or is set aside."""
        return self._row(key).exists() or self._aside(key).exists()

    def done(self) -> set[str]:
        """The keys that have a row, and those that are set aside."""
        names = map(os.path.splitext, os.listdir(self.rows_folder))
        return {key for key, suffix in names if suffix in (".json", _ASIDE)}

    def set_aside(self, key: str, reason: str) -> None:
        """Leaves an item to the next command, and gives the claim back."""
        create_atomic(self._aside(key), reason.encode("utf-8", "backslashreplace"))
        self.release(key)

    def why_aside(self, key: str) -> str | None:
        """Why an item is set aside; None where it is not."""
        try:
            return read_regular(self._aside(key), MIB).decode("utf-8", "replace")
        except FileNotFoundError:
            return None

    def forget(self, keys: Collection[str], statuses: Collection[str] = ()) -> None:
        """Lets items be run again: all that are set aside, and those of the keys whose row has one of the statuses."""
        for path in self.rows_folder.glob(f"*{_ASIDE}"):
            path.unlink(missing_ok=True)
        for key in keys if statuses else ():
            row = self.row(key)
            if row is not None and row.status in statuses:
                for number in range(MOST_CRASHES + 1):
                    (self._crashes / f"{key}.{number}").unlink(missing_ok=True)
                self._row(key).unlink(missing_ok=True)

    def commit(self, row: SweepRow) -> bool:
        """Makes the row visible and gives the claim back; False where another row was there first, which stays.

        Raises:
          DiskFullError, OSError: it cannot be written; then nothing is visible.
        """
        content = (row.model_dump_json() + "\n").encode()
        made = create_atomic(self._row(row.key), content)
        self._suspicion(row.key).unlink(missing_ok=True)
        self.release(row.key)
        return made

    def row(self, key: str) -> SweepRow | None:
        """The visible row of an item.

        Raises:
          SweepError: it cannot be read.
        """
        path = self._row(key)
        try:
            return SweepRow.model_validate_json(read_regular(path, _ROW_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise SweepError(f"{path}: cannot read the row: {error}; remove it to run the item again") from error

    def crashes(self, key: str) -> int:
        """How often an item was in the hands of a worker that died under its supervisor's eyes."""
        return sum((self._crashes / f"{key}.{number}").exists() for number in range(1, MOST_CRASHES + 1))

    def suspect(self, key: str) -> None:
        """Has an item be run alone from now on, as one of several in the hands of a worker that was ended."""
        if not self.is_done(key):
            self._suspicion(key).touch()

    def _suspicion(self, key: str) -> Path:
        return self._crashes / f"{key}.0"

    def attempts(self, key: str) -> int:
        """How often an item is known to have been tried without an outcome; after the first it is run alone."""
        return self.crashes(key) + self._suspicion(key).exists()

    def record_crashes(self, supervisor: Participant, process: int | None = None) -> list[str]:
        """Turns the claims of a worker that died into crashes; returns the items.

        Args:
          supervisor: the worker's.
          process: as in ``claims_of``.
        """
        found = self.claims_of(supervisor, process)
        for key in found:
            (self._claims / key).replace(self._crashes / f"{key}.{min(self.crashes(key) + 1, MOST_CRASHES)}")
        return found

    def claims_of(self, supervisor: Participant, process: int | None = None) -> list[str]:
        """The items that a worker has claimed.

        Args:
          supervisor: the worker's.
          process: the worker's, on this machine; by default every worker of that supervisor is meant.
        """
        prefix = "" if process is None else f"{socket.gethostname()}:{process}:"
        found = []
        for key in os.listdir(self._claims):
            holder = None if key.startswith(".") else self._claimant(key)
            if holder is not None and holder.supervisor == supervisor.name and holder.name.startswith(prefix):
                found.append(key)
        return found


def _read_claim(path: Path) -> Participant:
    """Who made a claim.

    Raises:
      FileNotFoundError: there is none.
      SweepError: it is not as members make it.
    """
    try:
        names = json.loads(read_regular(path, MIB))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise SweepError(f"{path}: not a valid claim file: {error}; remove it") from error
    if not isinstance(names, list) or len(names) != 2 or not all(map(_is_name, names)) or not names[0]:
        raise SweepError(f"{path}: not a valid claim file: expected a member's name and its supervisor's; remove it")
    return Participant(*names)


def _is_name(value: object) -> bool:
    """Whether this is empty, or can be the name of a file among the members'."""
    return isinstance(value, str) and value not in (".", "..") and not {"/", "\0"} & set(value)
