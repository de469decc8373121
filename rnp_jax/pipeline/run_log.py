"""What a long command tells while it works: a line for every step on the screen and in ``run.log``, bars, seconds.

With ``--log-format json`` each is a JSON object on a line of standard output instead; ``log_lines`` says what is in it.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from rnp_jax.atomic import expect_room, open_to_append
from rnp_jax.console import open_console
from rnp_jax.evaluation.metrics import Metrics
from rnp_jax.log_style import current_style
from rnp_jax.pipeline.log_lines import write_line
from rnp_jax.pipeline.pace import Pace, tell_left
from rnp_jax.pipeline.tables import metrics_table
from rnp_jax.untrusted_text import spell_hidden

_EVERY = 10.0  # seconds between two JSON lines of a bar


class RunLog:
    """Lines to the screen (standard error) and to a file, and the seconds of each stage.

    On the screen it tells in the style that ``--quiet`` and ``--log-format`` ask for, or nothing if it is ``quiet``.
    """

    def __init__(self, quiet: bool = False):
        self._silent, self._style = quiet, current_style()
        self.console = open_console(stderr=True, quiet=quiet or self._style.quiet or self._style.json)
        self._always = open_console(stderr=True, quiet=quiet or self._style.json)
        self.timing: dict[str, float] = {}
        self._path: Path | None = None
        self._waiting: list[str] = []

    @property
    def draws(self) -> bool:
        """Whether there is a screen for bars and tables that change."""
        return self.console.is_terminal and not self.console.quiet

    def write_to(self, path: Path) -> None:
        """From now on every line goes to the file too, after those said so far.

        Raises:
          ResultError: the path is a link, or no regular file.
          DiskFullError, OSError: it cannot be written; so does every later line.
        """
        self._path = path
        self._append("".join(self._waiting))
        self._waiting.clear()

    def say(self, text: str) -> None:
        """One line, with the time in the file."""
        if not self.console.quiet:  # where rich would still lay the line out
            self.console.print(text, soft_wrap=True)
        self.tell("note", text=text)
        self._note(text)

    def warn(self, text: str) -> None:
        """A line that must not be overlooked."""
        if not self._always.quiet:
            self._always.print(f"WARNING: {text}", style="bold red", soft_wrap=True)
        self.tell("warning", text=text)
        self._note(f"WARNING: {text}")

    def show(self, figures: Mapping[str, Metrics], *, wanted: bool = False) -> None:
        """A table of figures, a column a model; if it is what the command was ``wanted`` for, on standard output."""
        screen = open_console(quiet=self._always.quiet) if wanted else self.console
        if not screen.quiet:
            screen.print(metrics_table(figures))
        self.tell("figures", figures={name: _plain(metrics) for name, metrics in figures.items()})

    def conclude(self, text: str, *, verdict: Mapping[str, Any] | None = None, **paths: Path | str) -> None:
        """What came of the command, said last.

        Args:
          text: for people.
          verdict: for scripts, where there is one.
          **paths: what was written, by what it is.
        """
        if not self._always.quiet:
            self._always.print(text, soft_wrap=True)
        self.tell("result", text=text, verdict=verdict, paths={name: str(path) for name, path in paths.items()})
        self._note(text)

    def tell(self, event: str, **fields: Any) -> None:
        """A JSON line, where the log is one of those."""
        if self._style.json and not self._silent:
            write_line(event, quiet=self._style.quiet, **fields)

    def _note(self, text: str) -> None:
        self._append(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z {text}\n")

    def _append(self, lines: str) -> None:
        if self._path is None:
            self._waiting.append(lines)
            return
        with expect_room(self._path), open_to_append(self._path) as file:
            file.write(spell_hidden(lines).encode())

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage."""
        started = time.perf_counter()
        yield
        self.spend(name, time.perf_counter() - started)

    def spend(self, stage: str, seconds: float) -> None:
        """Adds to the seconds of a stage."""
        self.timing[stage] = self.timing.get(stage, 0.0) + seconds
        self.tell("stage", stage=stage, seconds=seconds)

    @contextlib.contextmanager
    def bar(self, name: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar of ``total`` steps, on a terminal; call what it gives for each."""
        columns = (
            TextColumn("{task.description:9}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        pace, told, count = Pace(), time.monotonic(), 0
        with Progress(*columns, console=self.console, disable=not self.draws) as bars:
            task = bars.add_task(name, total=total)

            def advance() -> None:
                nonlocal told, count
                bars.advance(task)
                count, now = count + 1, time.monotonic()
                left = pace.left(count, total)
                if now - told >= _EVERY or count == total:
                    told = now
                    self.tell("progress", name=name, done=count, total=total, seconds_left=left)

            yield advance

    @contextlib.contextmanager
    def epochs(self, done: int = 0) -> Iterator["EpochBars"]:
        """Bars for the epochs of one or more phases; of the first one, an earlier run may have ``done`` some."""
        columns = (
            TextColumn("{task.description:9}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
        )
        with Progress(*columns, console=self.console, disable=not self.draws) as bars:
            yield EpochBars(bars, self, done)

    def tell_epoch(
        self, phase: str, epoch: int, most: int, figures: Mapping[str, float], left: float | None, shown: str
    ) -> None:
        """A line of an epoch's figures, on the screen only where no bar shows them; ``shown`` is ``left`` in words."""
        text = "  ".join(f"{name.replace('_', ' ')} {_show(name, value)}" for name, value in figures.items())
        line = f"{phase} epoch {epoch}/{most}  {text}"
        if not self.draws:
            self.console.print("  ".join(filter(None, (line, shown))), soft_wrap=True)
        self.tell("epoch", phase=phase, epoch=epoch, epochs=most, figures=dict(figures), seconds_left=left)
        self._note(line)


class EpochBars:
    """Receives the progress of phases: ``bars(phase, epoch, most, figures)``."""

    def __init__(self, bars: Progress, log: RunLog, done: int = 0):
        self._bars, self._log, self._done = bars, log, done
        self._tasks: dict[str, TaskID] = {}
        self._paces: dict[str, Pace] = {}
        self._reached: dict[str, int] = {}
        self._next = Pace(done)

    def __call__(self, phase: str, epoch: int, most: int, figures: dict[str, float]) -> None:
        """Moves the phase's bar to the epoch just ended."""
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(phase, total=most, figures="", left="")
        if epoch <= self._reached.get(phase, epoch):  # it began, for the first time or again, where another ended
            self._paces[phase] = self._next if self._done < epoch else Pace()
        self._reached[phase] = epoch
        pace = self._paces[phase]
        left = pace.left(epoch, most)
        text = "  ".join(f"{name.replace('_', ' ')} {_show(name, value)}" for name, value in figures.items())
        shown = tell_left(left, rough=pace.rough) if epoch < most else ""
        self._bars.update(self._tasks[phase], completed=epoch, figures=text, left=shown)
        self._log.tell_epoch(phase, epoch, most, figures, left, shown)
        self._next, self._done = Pace(), 0


def _plain(metrics: Metrics) -> dict[str, float | None]:
    shares = {name: share and share.value for name, share in metrics.shares.items()}
    return {**shares, "der": metrics.der}


def _show(name: str, value: float) -> str:
    return f"{value:.3f}" if "accuracy" in name else f"{value:.4g}"
