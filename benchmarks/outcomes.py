"""What a method made of a checkpoint, kept as one line of JSON each, so that later calls add to earlier ones."""

import os
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel

from rnp_jax.defenses.registry import METHODS, title
from rnp_jax.evaluation.metrics import Metrics, Proportion
from rnp_jax.report.comparison_text import markdown_table
from rnp_jax.report.schema import Result

HEAD = ("checkpoint", "seeds", "before: ACC / ASR / RA", "method", "after: ACC", "ASR", "RA", "worst class", "s")
RESULTS = Path(__file__).parent / "results"

NOT_THE_METHOD = ("load", "measure", "sweeps")
"""Stages of a run that are not the method's own."""

Pair = tuple[float | None, float | None]


class Line(BaseModel):
    """A run that is kept as one line."""

    @property
    def cell(self) -> Hashable:
        """What no two runs of a file share."""
        raise NotImplementedError


class Outcome(Line):
    """A defended network: true figures before and after, shares, None without a trigger.

    Attributes:
      bed: name of the checkpoint in ``benchmarks.test_beds``.
      attack: name of its attack, or ``clean``.
      method: that defended it, with its defaults.
      seed: of the clean images and of everything random.
      ranked: whether evidence may rank it: the method did not train on triggers that it recovered itself.
      acc, asr, ra: before and after.
      worst_class: accuracy that the class with the largest loss lost; None where it was not measured.
      defended: seconds of the method itself, compilation included.
      chosen: what the method says that it did.
      date: of the run.
    """

    bed: str
    attack: str
    method: str
    seed: int
    ranked: bool
    acc: Pair
    asr: Pair
    ra: Pair
    worst_class: float | None = None
    defended: float | None = None
    chosen: str = ""
    date: str = ""

    @property
    def cell(self) -> tuple[str, str, int]:
        """Bed, method and seed."""
        return self.bed, self.method, self.seed

    @property
    def left(self) -> float:
        """True ASR after; that of a clean network is 0."""
        return self.asr[1] or 0.0


def summarise(bed: str, result: Result, seed: int) -> Outcome:
    """What the document of a run on a bed says."""
    lost = [each.before.value - each.after.value for each in result.classes if each.before and each.after]
    return Outcome(
        bed=bed,
        attack="clean" if result.attack is None else result.attack.name,
        method=result.method,
        seed=seed,
        ranked=not METHODS[result.method].inverts,
        **{
            name: tuple(read_share(each, name) for each in (result.before, result.after))
            for name in ("acc", "asr", "ra")
        },
        worst_class=max(lost, default=None),
        defended=sum(stage.seconds for stage in result.timing if stage.stage not in NOT_THE_METHOD),
        chosen=result.choice.rule if result.choice else "",
        date=f"{result.created:%Y-%m-%d}",
    )


def read_share(metrics: Metrics, name: str) -> Any:
    """The value of a share by its name; None where it was not measured."""
    share: Proportion | None = getattr(metrics, name)
    return None if share is None else share.value


Kind = TypeVar("Kind", bound=Line)


def read_lines(path: Path, kind: type[Kind]) -> dict[Hashable, Kind]:
    """The runs of a file by cell; none where there is no file, the last one where a cell stands there twice."""
    if not path.is_file():
        return {}
    rows = [kind.model_validate_json(line) for line in path.read_text("utf-8").splitlines() if line]
    return {row.cell: row for row in rows}


def append_line(path: Path, line: Line) -> None:
    """One more line, on the disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(line.model_dump_json(exclude_defaults=True) + "\n")
        file.flush()
        os.fsync(file.fileno())


def make_table(outcomes: Iterable[Outcome]) -> str:
    """A line a checkpoint and method: means over seeds and their range, in %."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for each in outcomes:
        groups.setdefault((each.bed, each.method), []).append(each)
    lines = []
    for (bed, method), rows in groups.items():
        first = " / ".join(show_range([getattr(row, name)[0] for row in rows]) for name in ("acc", "asr", "ra"))
        own = [show_range([getattr(row, name)[1] for row in rows]) for name in ("acc", "asr", "ra")]
        lost = [100 * row.worst_class for row in rows if row.worst_class is not None]
        worst = f"-{np.mean(lost):.1f} ({max(lost):.1f})" if lost else "–"
        seconds = [row.defended for row in rows if row.defended is not None]
        took = f"{np.mean(seconds):.0f}" if seconds else "–"
        lines.append((bed, str(len(rows)), first, title(method), *own, worst, took))
    return markdown_table(HEAD, lines)


def make_matrix(outcomes: Sequence[Outcome]) -> str:
    """A line a checkpoint, a column a method: ASR / RA after, means over seeds in %; ASR and ACC before."""
    methods = [name for name in METHODS if any(each.method == name for each in outcomes)]
    lines = []
    for bed in dict.fromkeys(each.bed for each in outcomes):
        own = [each for each in outcomes if each.bed == bed]
        before = f"{_mean(own, 'acc', 0)} / {_mean(own, 'asr', 0)}"
        cells = [[each for each in own if each.method == name] for name in methods]
        after = [f"{_mean(cell, 'asr', 1)} / {_mean(cell, 'ra', 1)}" if cell else "" for cell in cells]
        lines.append((bed, before, *after))
    return markdown_table(("checkpoint", "before: ACC / ASR", *map(title, methods)), lines)


def _mean(outcomes: Sequence[Outcome], name: str, when: int) -> str:
    return show_range([getattr(each, name)[when] for each in outcomes]).split(" ")[0]


def show_range(shares: Sequence[float | None]) -> str:
    """The mean of shares in %, and the smallest and the largest where they differ; a dash for none."""
    values = [100 * share for share in shares if share is not None]
    if not values:
        return "–"
    mean = f"{np.mean(values):.1f}"
    return mean if max(values) - min(values) < 0.05 else f"{mean} ({min(values):.1f}–{max(values):.1f})"
