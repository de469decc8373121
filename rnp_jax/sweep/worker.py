"""One process that claims items, runs them and commits their rows, until none is left for it."""

import errno
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from rnp_jax.errors import RnpError, SweepError
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.sweep.items import Item
from rnp_jax.sweep.ledger import MOST_CRASHES, Ledger, Member

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write fails with when there is no room."""


class Job(Protocol):
    """What is done to an item."""

    def load(self, item: Item) -> Any:
        """Reads it, beside the work on the item before; raises where it cannot be used."""
        ...

    def run(self, item: Item, loaded: Any, attempt: int) -> SweepRow:
        """Its row."""
        ...


def work(
    ledger: Ledger, items: Sequence[Item], job: Job, member: Member, may_go_on: Callable[[], bool] = lambda: True
) -> int:
    """Runs what nobody else has claimed, in the plan's order; the next item is read while one is computed.

    What goes wrong with an item becomes its row. One that was in a worker's hands when it died runs alone, nothing read
    beside it, so that a second crash is its own.

    Returns:
      How many rows this worker committed.

    Raises:
      SweepError: the disk is full; no claim and no part of a row is left behind.
    """
    claims, committed = _claims(ledger, items, member), 0

    def take() -> Item | None:
        return next(claims, None) if may_go_on() else None

    current, following, ahead = take(), None, None
    with ThreadPoolExecutor(1) as reader:
        try:
            while current is not None:
                loading = ahead or reader.submit(job.load, current)
                crashes = ledger.crashes(current.key)
                following, ahead = None if crashes else take(), None
                if following is not None and not ledger.crashes(following.key):
                    ahead = reader.submit(job.load, following)
                committed += ledger.commit(_run(job, current, loading, crashes + 1))
                current, following = following or take(), None
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise SweepError(f"{ledger.out}: {error.strerror}; make room and run the same command again") from error
        finally:
            for item in (current, following):
                if item is not None:
                    ledger.release(item.key)
    return committed


def _claims(ledger: Ledger, items: Sequence[Item], member: Member) -> Iterator[Item]:
    """The items this member gets, again and again from the first, until a pass gives none."""
    found = True
    while found:
        found, done = False, ledger.done()
        for item in items:
            if item.key in done or not ledger.claim(item.key, member):
                continue
            if ledger.crashes(item.key) >= MOST_CRASHES:
                ledger.commit(failed_row(item, "failed", _QUARANTINE, MOST_CRASHES))
                continue
            found = True
            yield item


_QUARANTINE = f"its worker died {MOST_CRASHES} times over it: quarantined (logs/ of the sweep may say why)"


def _run(job: Job, item: Item, loading: Future, attempt: int) -> SweepRow:
    try:
        loaded = loading.result()
    except RnpError as error:
        return failed_row(item, "rejected", str(error), attempt)
    except Exception as error:  # whatever becomes of one item, the others go on
        return failed_row(item, "failed", _describe(error), attempt)
    try:
        return job.run(item, loaded, attempt)
    except RnpError as error:
        return failed_row(item, "failed", str(error), attempt)
    except Exception as error:
        return failed_row(item, "failed", _describe(error), attempt)


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in FULL:
        raise error
    return f"{type(error).__name__}: {error}"


def failed_row(item: Item, status: str, reason: str, attempt: int = 1) -> SweepRow:
    """The row of an item that has no figures."""
    return SweepRow(
        key=item.key,
        checkpoint=item.path,
        sha256=item.sha256 or None,
        method=item.method,
        status=status,  # pyright: ignore[reportArgumentType]
        reason=reason[:2000],
        attempt=attempt,
    )
