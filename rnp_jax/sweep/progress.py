"""What a sweep shows while it runs: done, failed, rate and time left, a line a group."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.live import Live
from rich.table import Table

from rnp_jax.pipeline.pace import tell_left
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.sweep.items import Item
from rnp_jax.sweep.ledger import Ledger

_REFRESH = 0.5
_LINE_EVERY = 10.0  # seconds between two lines where there is no terminal to draw on


class SweepProgress:
    """Told what is done, it keeps the table on the screen; without a terminal, lines now and then.

    ``finished`` is called once with each row that was not there before.
    """

    def __init__(
        self, ledger: Ledger, items: Sequence[Item], log: RunLog, finished: Callable[[SweepRow], None] | None = None
    ):
        self._ledger, self._log, self._finished = ledger, log, None
        self._group = {item.key: item.group for item in items}
        self._total = Counter(self._group.values())
        self._seen: dict[str, str] = {}
        self._look()
        self._finished = finished
        self._before = Counter(self._group[key] for key in self._seen)
        self._started = self._drawn = time.monotonic()  # what is read of an earlier run takes its time
        self._live = Live(self.table(), console=log.console, auto_refresh=False, transient=False)

    def __enter__(self) -> "SweepProgress":
        if self._log.draws:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._look()
        if self._log.draws:
            self._live.update(self.table(), refresh=True)
            self._live.stop()

    def watch(self) -> None:
        """Takes a look, not more often than anyone could see."""
        now = time.monotonic()
        if now - self._drawn < (_REFRESH if self._log.draws else _LINE_EVERY):
            return
        self._drawn = now
        self._look()
        if self._log.draws:
            self._live.update(self.table(), refresh=True)
        else:
            done, before = len(self._seen), sum(self._before.values())
            rate, left = self._judge(done - before, len(self._group) - done)
            earlier = f" ({before} of them by an earlier run)" if before else ""
            parts = (f"{done} of {len(self._group)} done{earlier}", f"{60 * rate:.3g} per minute", tell_left(left))
            self._log.say(", ".join(filter(None, parts)))
            self._log.tell("progress", name="items", done=done, total=len(self._group), seconds_left=left)

    def _judge(self, fresh: int, left: int) -> tuple[float, float | None]:
        """Items a second, and the seconds left, by those that this run has finished alone."""
        rate = fresh / max(time.monotonic() - self._started, 1e-9)
        return rate, left / rate if rate else None

    def _look(self) -> None:
        for key in self._ledger.done() & set(self._group) - set(self._seen):
            row = self._ledger.row(key)
            if row is not None:
                self._seen[key] = row.status
                if self._finished is not None:
                    self._finished(row)

    def table(self) -> Table:
        """A line a group."""
        table = Table("group", "done", "failed", "per minute", "left")
        done = Counter(self._group[key] for key in self._seen)
        failed = Counter(self._group[key] for key, status in self._seen.items() if status == "failed")
        for group, total in self._total.items():
            fresh, open_ones = done[group] - self._before[group], total - done[group]
            rate, left = self._judge(fresh, open_ones)
            pace = f"{60 * rate:.3g}" if fresh else ""
            shown = tell_left(left).removesuffix(" left") if open_ones else ""
            table.add_row(_name(group), f"{done[group]} of {total}", str(failed[group]), pace, shown)
        return table


def _name(group: str) -> str:
    """A group as a person names it: architecture, width, classes."""
    try:
        told = json.loads(group)
    except ValueError:
        return group
    return f"{told['name']} width {told['width']}, {told['num_classes']} classes, {told['data'] or 'data as given'}"
