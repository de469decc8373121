"""One process that claims items, runs them and commits their rows, until none is left for it."""

import errno
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from rnp_jax.atomic import no_room
from rnp_jax.errors import AbsentError, OutsideError, RnpError
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.sweep.items import Item
from rnp_jax.sweep.ledger import MOST_CRASHES, Ledger, Participant

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EROFS)
"""What no checkpoint is to blame for: too many open files, a file server or disk that went away."""

_LONGEST = 2000  # characters of a reason


class Job(Protocol):
    """What is done to items."""

    def hand_size(self, item: Item) -> int:
        """How many items of this one's group and method it can run at once."""
        ...

    def load(self, item: Item) -> Any:
        """Reads one, beside the work on those before; raises where it cannot be used."""
        ...

    def run_hand(self, items: Sequence[Item], loaded: Sequence[Any], attempt: int) -> Sequence[SweepRow]:
        """Their rows, in order. Where it raises and they are several, each is run again by itself."""
        ...


class _Hand(NamedTuple):
    """Items that are run at once: of one group and method, or alone if there was a crash before this attempt."""

    items: list[Item]
    attempt: int
    loading: list[Future]


class _Aside(NamedTuple):
    """An item that cannot be run for now, through no fault of its own."""

    key: str
    reason: str


def work(
    ledger: Ledger, items: Sequence[Item], job: Job, member: Participant, may_go_on: Callable[[], bool] = lambda: True
) -> int:
    """Runs what nobody else has claimed, in the plan's order; the next hand is read while one is computed.

    What goes wrong with an item becomes its row; where something is missing, it is set aside. One that was in a
    worker's hands when it died runs alone, nothing
    claimed or read beside it, so that a second crash is its own.

    Returns:
      How many rows this worker committed.

    Raises:
      OutsideError: no item is to blame, such as for a full disk; no claim and no part of a row is left behind.
    """
    claims, committed = _Claims(ledger, items, member), 0
    with ThreadPoolExecutor(1) as reader:

        def take() -> _Hand | None:
            taken, attempt = claims.take(job.hand_size) if may_go_on() else ([], 1)
            return _Hand(taken, attempt, [reader.submit(job.load, item) for item in taken]) if taken else None

        try:
            current = take()
            while current is not None:
                following = take() if current.attempt == 1 else None
                for outcome in _run(job, current):
                    if isinstance(outcome, _Aside):
                        ledger.set_aside(outcome.key, outcome.reason)
                    else:
                        committed += ledger.commit(outcome)
                    claims.held.remove(outcome.key)
                current = following or take()
        finally:
            for key in claims.held:
                ledger.release(key)
    return committed


class _Claims:
    """What a member claims: hand by hand, again and again from the plan's first item, until a pass gives none.

    ``held`` are the keys that are claimed and not yet done.
    """

    def __init__(self, ledger: Ledger, items: Sequence[Item], member: Participant):
        self._ledger, self._items, self._member = ledger, items, member
        self._waiting: deque[Item] = deque()
        self._found = True
        self.held: set[str] = set()

    def take(self, most: Callable[[Item], int]) -> tuple[list[Item], int]:
        """The next hand, and which attempt at it this is.

        It is empty where nothing is left, and where the next item crashed before while others are held.
        """
        hand: list[Item] = []
        while (item := self._peek()) is not None:
            if hand and (_kind(item) != _kind(hand[0]) or len(hand) >= most(hand[0])):
                break
            self._waiting.popleft()
            if not self._ledger.claim(item.key, self._member):
                continue
            tried = self._ledger.attempts(item.key)
            if tried and self._ledger.crashes(item.key) >= MOST_CRASHES:
                self._ledger.commit(failed_row(item, "failed", _QUARANTINE, MOST_CRASHES))
            elif not tried:
                self._hold(hand, item)
            elif self.held:
                self._ledger.release(item.key)
                self._waiting.appendleft(item)
                break
            else:
                self._hold(hand, item)
                return hand, tried + 1
        return hand, 1

    def _hold(self, hand: list[Item], item: Item) -> None:
        hand.append(item)
        self.held.add(item.key)
        self._found = True

    def _peek(self) -> Item | None:
        if not self._waiting and self._found:
            done = self._ledger.done() | self.held
            self._waiting.extend(item for item in self._items if item.key not in done)
            self._found = False
        return self._waiting[0] if self._waiting else None


def _kind(item: Item) -> tuple[str, str]:
    return item.group, item.method


_QUARANTINE = f"quarantined: its worker died {MOST_CRASHES} times while running it (logs/ of the sweep may say why)"


def _run(job: Job, hand: _Hand) -> Iterator[SweepRow | _Aside]:
    items, loaded = [], []
    for item, loading in zip(hand.items, hand.loading, strict=True):
        try:
            loaded.append(loading.result())
            items.append(item)
        except AbsentError as error:
            yield _Aside(item.key, describe_error(error))
        except Exception as error:  # whatever becomes of one item, the others go on
            status = "rejected" if isinstance(error, RnpError) else "failed"
            yield failed_row(item, status, describe_error(error), hand.attempt)
    if items:
        yield from _run_loaded(job, items, loaded, hand.attempt)


def _run_loaded(job: Job, items: list[Item], loaded: list[Any], attempt: int) -> Iterator[SweepRow | _Aside]:
    try:
        rows = job.run_hand(items, loaded, attempt)
    except Exception as error:
        reason = describe_error(error)
        if len(items) == 1 and isinstance(error, AbsentError):
            yield _Aside(items[0].key, reason)
            return
        if len(items) == 1:
            yield failed_row(items[0], "failed", reason, attempt)
            return
    else:
        yield from rows
        return
    for item, own in zip(items, loaded, strict=True):
        yield from _run_loaded(job, [item], [own], attempt)


def describe_error(error: Exception) -> str:
    """The reason that a row gives, in at most 2,000 characters.

    Raises:
      OutsideError: no row is to be made of it.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OutsideError):
            raise cause
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_room(cause.filename or "a temporary file", cause) from error
        if isinstance(cause, OSError) and cause.errno in _SHORTAGES:
            raise OutsideError(f"{cause}; mend this and run the same command again") from error
        cause = cause.__cause__ or cause.__context__
    text = str(error) if isinstance(error, RnpError) else f"{type(error).__name__}: {error}"
    return text[:_LONGEST]


def failed_row(item: Item, status: str, reason: str, attempt: int = 1) -> SweepRow:
    """The row of an item that has no figures."""
    return SweepRow(
        key=item.key,
        checkpoint=item.path,
        sha256=item.sha256 or None,
        method=item.method,
        status=status,  # pyright: ignore[reportArgumentType]
        reason=reason[:_LONGEST],
        attempt=attempt,
    )
