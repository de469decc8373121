"""What a long command tells while it works: a line for every step on the screen and in ``run.log``, bars, seconds."""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from rnp_jax.atomic import expect_room, open_to_append
from rnp_jax.console import open_console
from rnp_jax.untrusted_text import spell_hidden


class RunLog:
    """Lines to the screen (standard error), unless it is ``quiet``, and to a file; the seconds of each stage."""

    def __init__(self, quiet: bool = False):
        self.console = open_console(stderr=True, quiet=quiet)
        self.timing: dict[str, float] = {}
        self._path: Path | None = None
        self._waiting: list[str] = []

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
        self._note(text)

    def warn(self, text: str) -> None:
        """A line that must not be overlooked."""
        text = f"WARNING: {text}"
        if not self.console.quiet:
            self.console.print(text, style="bold red", soft_wrap=True)
        self._note(text)

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
        self.timing[name] = self.timing.get(name, 0.0) + time.perf_counter() - started

    @contextlib.contextmanager
    def bar(self, name: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar of ``total`` steps, on a terminal; call what it gives for each."""
        columns = (
            TextColumn("{task.description:9}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as bars:
            task = bars.add_task(name, total=total)
            yield lambda: bars.advance(task)

    @contextlib.contextmanager
    def epochs(self) -> Iterator["EpochBars"]:
        """Bars for the epochs of one or more phases."""
        columns = (
            TextColumn("{task.description:9}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as bars:
            yield EpochBars(bars, self._note)


class EpochBars:
    """Receives the progress of phases: ``bars(phase, epoch, most, figures)``."""

    def __init__(self, bars: Progress, note: Callable[[str], None]):
        self._bars, self._note = bars, note
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, phase: str, epoch: int, most: int, figures: dict[str, float]) -> None:
        """Moves the phase's bar to the epoch just ended."""
        text = "  ".join(f"{name.replace('_', ' ')} {_show(name, value)}" for name, value in figures.items())
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(phase, total=most, figures="")
        self._bars.update(self._tasks[phase], completed=epoch, figures=text)
        line = f"{phase} epoch {epoch}/{most}  {text}"
        if not self._bars.console.is_terminal:  # where a bar would only show once it is full
            self._bars.console.print(line)
        self._note(line)


def _show(name: str, value: float) -> str:
    return f"{value:.3f}" if "accuracy" in name else f"{value:.4g}"
