"""Why a worker died or does not go on, and what that means for the items in its hands.

A crash, such as a segmentation fault or memory that ran out, is held against them: after some, an item is quarantined.
A signal that somebody sent is not, nor is a process that somebody stopped: the items are run again, and set aside for
the next command where that happens to one again and again. An item that takes longer than it may has failed.
"""

import signal
import time
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from rnp_jax.sweep.items import Item
from rnp_jax.sweep.ledger import Ledger, Participant
from rnp_jax.sweep.worker import failed_row

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a worker that was told to end."""

MOST_KILLS = 5
"""Workers that may be killed from outside over an item before it is left to the next command."""

STOPPED_SECONDS = 60.0
"""How long a worker may be stopped (SIGSTOP) before another takes its place."""

_SENT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_LOOK = 1.0  # seconds between two looks at a worker


def count_memory_kills() -> int | None:
    """How many processes this machine has killed as memory ran out, since it started; None where it does not say."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def is_from_outside(status: int, memory_kills: int | None) -> bool:
    """Whether a process ended because somebody wanted it to.

    Args:
      status: its exit status, the negative number of a signal that ended it.
      memory_kills: what ``count_memory_kills`` gave when it started.
    """
    if status == -signal.SIGKILL:
        return memory_kills is not None and count_memory_kills() == memory_kills
    return status == TERMINATED or -status in _SENT


def is_stopped(process: int) -> bool:
    """Whether a process of this machine is stopped, as far as the machine says."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    return False


class Patience:
    """How long one worker has not gone on: it claims or finishes nothing, or is stopped."""

    def __init__(self, item_seconds: float | None):
        self._most = item_seconds
        self._looked = self._changed = self._ran = time.monotonic()
        self._held: Collection[str] = ()

    def is_due(self) -> bool:
        """Whether it is time for another look."""
        return time.monotonic() - self._looked >= _LOOK

    def look(self, held: Collection[str], stopped: bool) -> str | None:
        """Why it should end, ``late`` or ``stopped``; None as long as it may go on."""
        now = self._looked = time.monotonic()
        if set(held) != set(self._held):
            self._held, self._changed = held, now
        if not stopped:
            self._ran = now
        elif now - self._ran > STOPPED_SECONDS:
            return "stopped"
        late = self._most is not None and held and now - self._changed > self._most
        return "late" if late else None


class Consequences:
    """What becomes of the items in the hands of one supervisor's dead workers.

    ``item_seconds`` is how long an item may take; None for as long as it takes.
    """

    def __init__(self, ledger: Ledger, items: Collection[Item], item_seconds: float | None):
        self._ledger, self.item_seconds = ledger, item_seconds
        self._items: Mapping[str, Item] = {item.key: item for item in items}
        self._kills: Counter[str] = Counter()

    def killed(self, supervisor: Participant, process: int | None = None) -> None:
        """Somebody ended the worker: an item alone is free, or set aside; of several, each is run again by itself."""
        found = self._ledger.claims_of(supervisor, process)
        if len(found) != 1:
            self._part(found)
            return
        self._kills.update(found)
        if self._kills[found[0]] < MOST_KILLS:
            self._ledger.release(found[0])
        else:
            self._ledger.set_aside(found[0], f"its worker was killed or stopped from outside {MOST_KILLS} times")

    def late(self, supervisor: Participant, process: int | None = None) -> None:
        """The worker took too long: one item alone has failed; of several, each is run again by itself."""
        found = self._ledger.claims_of(supervisor, process)
        if len(found) == 1 and found[0] in self._items:
            (key,) = found
            reason = f"took more than {self.item_seconds:g} seconds (--item-seconds)"
            self._ledger.commit(failed_row(self._items[key], "failed", reason, self._ledger.attempts(key) + 1))
        else:
            self._part(found)

    def _part(self, keys: Collection[str]) -> None:
        for key in keys:
            self._ledger.suspect(key)
            self._ledger.release(key)
