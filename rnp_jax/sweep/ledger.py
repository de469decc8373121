"""Who works on what, and what is done: files in one folder that any number of processes and machines share.

An item is claimed by creating ``claims/KEY``, and done once ``rows/KEY.json`` is there; both are created, never
replaced, so of several that try one succeeds. A process holds a lock on ``members/NAME`` while it lives, and touches
that file: on its own machine it is dead when the lock is free, for others when it has been silent for the lease.

A row is on the disk before it is visible. A claim is a second name (a hard link) of its holder's file, which says who
that is and is on the disk from the start: one step, and after a power cut a claim is there whole or not at all.

A supervisor that sees its worker die turns the worker's claims into ``crashes/KEY.N``. Claims of a worker whose
supervisor is gone too (the machine went down, somebody killed everything) are void, and no crash.
"""

import fcntl
import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TextIO

from pydantic import ValidationError

from rnp_jax.atomic import create_atomic
from rnp_jax.errors import SweepError
from rnp_jax.report.sweep_row import SweepRow

MOST_CRASHES = 2
"""After so many an item is quarantined."""


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
        for folder in (self.rows_folder, self._claims, self._crashes, self._members):
            folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def join(self, supervisor: str = "") -> Iterator[Participant]:
        """Takes part, alive to the others until the block ends or the process does.

        Raises:
          SweepError: the folder cannot be written.
        """
        member = Participant(f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}", supervisor)
        path, ended = self._members / member.name, threading.Event()
        with path.open("x") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._introduce(member, file)

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

    def _introduce(self, member: Participant, file: TextIO) -> None:
        """Writes who it is into a member's file, through to the disk, before a claim can show it to others."""
        try:
            json.dump(member, file)
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                file.close()  # tries once more to write
            (self._members / member.name).unlink()
            message = (
                f"{self.out}: {error.strerror}; free some space (or repair the disk) and run the same command again"
            )
            raise SweepError(message) from error

    def is_alive(self, name: str) -> bool:
        """Whether a member still works, as far as can be seen from here."""
        path = self._members / name
        try:
            with path.open() as file:
                if name.split(":")[0] != socket.gethostname():
                    return self._now() - os.fstat(file.fileno()).st_mtime < self.lease
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
                return False
        except FileNotFoundError:
            return False

    def _now(self) -> float:
        """The file server's clock."""
        probe = self._members / f".{secrets.token_hex(8)}"
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
            return Participant(*json.loads((self._claims / key).read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise SweepError(f"{self._claims / key}: not a valid claim file: {error}; remove it") from error

    def _void(self, key: str) -> None:
        """Takes a dead member's claim away; one that was made in between goes back."""
        aside = self._claims / f".{secrets.token_hex(8)}"
        try:
            (self._claims / key).rename(aside)
        except FileNotFoundError:
            return
        if any(self.is_alive(name) for name in Participant(*json.loads(aside.read_bytes())) if name):
            create_atomic(self._claims / key, aside.read_bytes())
        aside.unlink()

    def release(self, key: str) -> None:
        """Gives a claim back."""
        (self._claims / key).unlink(missing_ok=True)

    def is_done(self, key: str) -> bool:
        """Whether the item has its row."""
        return (self.rows_folder / f"{key}.json").exists()

    def done(self) -> set[str]:
        """The keys that have a row."""
        return {name.removesuffix(".json") for name in os.listdir(self.rows_folder) if name.endswith(".json")}

    def commit(self, row: SweepRow) -> bool:
        """Makes the row visible and gives the claim back; False where another row was there first, which stays.

        Raises:
          OSError: it cannot be written; then nothing is visible.
        """
        content = (row.model_dump_json() + "\n").encode()
        made = create_atomic(self.rows_folder / f"{row.key}.json", content)
        self.release(row.key)
        return made

    def row(self, key: str) -> SweepRow | None:
        """The visible row of an item.

        Raises:
          SweepError: it cannot be read.
        """
        path = self.rows_folder / f"{key}.json"
        try:
            return SweepRow.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise SweepError(f"{path}: cannot read the row: {error}; remove it to run the item again") from error

    def crashes(self, key: str) -> int:
        """How often an item was in the hands of a worker that died under its supervisor's eyes."""
        return sum((self._crashes / f"{key}.{number}").exists() for number in range(1, MOST_CRASHES + 1))

    def record_crashes(self, supervisor: Participant, process: int | None = None) -> list[str]:
        """Turns the claims of a worker that died into crashes; returns the items.

        Args:
          supervisor: the worker's.
          process: the worker's, on this machine; by default every worker of that supervisor is meant.
        """
        prefix = "" if process is None else f"{socket.gethostname()}:{process}:"
        found = []
        for claim in self._claims.iterdir():
            holder = None if claim.name.startswith(".") else self._claimant(claim.name)
            if holder is not None and holder.supervisor == supervisor.name and holder.name.startswith(prefix):
                claim.replace(self._crashes / f"{claim.name}.{min(self.crashes(claim.name) + 1, MOST_CRASHES)}")
                found.append(claim.name)
        return found
