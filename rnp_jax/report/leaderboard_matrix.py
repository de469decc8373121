"""A sweep in a few numbers: what became of its items, and the attack x defense matrix of its means."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from rnp_jax.defenses import registry
from rnp_jax.report import wording
from rnp_jax.report.comparison import RECOVERED, Estimate, Summary
from rnp_jax.report.comparison_text import by_attack, name_attack, name_method, show_count, show_rating, show_share
from rnp_jax.report.sweep_reactivation import name_column, say_attempt
from rnp_jax.report.sweep_row import STATUSES, Status, SweepRow

Metric = Literal["acc", "asr", "ra", "der", "pruned", "asr_reactivated"]

METRICS: dict[Metric, tuple[str, str]] = {
    "acc": wording.METRICS["acc"],
    "asr": wording.METRICS["asr"],
    "ra": wording.METRICS["ra"],
    "der": wording.DER,
    "pruned": ("Pruned", "Filters or hidden units that the method prunes."),
}
"""Name and meaning of what the matrix shows, a table each; ``list_metrics`` has those of a sweep."""

UNDEFENDED = next(name for name, method in registry.METHODS.items() if method.changes == "nothing")
"""The method whose rows are the checkpoints as they came."""

MAX_ATTACKS = 40
"""More attacks than these are in the table of rows but not in the matrix."""

MEANINGS: dict[Status, str] = {
    "ok": "The method ran, and its result was measured.",
    "rejected": "The file cannot be used.",
    "failed": "The method or the machine could not finish.",
    "skipped": "Never tried.",
}
MATRIX_WORDS = (
    "Means over the checkpoints of an attack with 95 % t-intervals, cut to 0-100 %; for a single checkpoint, its share "
    f"with its Wilson interval. {registry.title(UNDEFENDED)}: the same checkpoints, unchanged."
)


class Matrix(NamedTuple):
    """Attacks as rows, defenses as columns.

    Attributes:
      methods: names of the columns.
      lines: name of the attack, and a summary a column; None where the sweep has no such item with a result.
      further: attacks beyond `MAX_ATTACKS`.
    """

    methods: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Summary | None, ...]], ...]
    further: int


def sort_rows(rows: Iterable[SweepRow]) -> list[SweepRow]:
    """By path, method and then whatever else tells items apart: the order of every table."""
    return sorted(rows, key=lambda row: (row.checkpoint, row.method, row.mode, row.seed, row.key))


def count_statuses(rows: Iterable[SweepRow]) -> dict[Status, int]:
    """Items of each status; they add up to the rows."""
    counts = Counter(row.status for row in rows)
    return {status: counts[status] for status in STATUSES}


def say_verdict(counts: dict[Status, int]) -> str:
    """What the sweep's exit code says, in a sentence."""
    total, failed = sum(counts.values()), counts["failed"]
    if not total:
        return "The sweep has no items."
    if failed:
        return f"{failed:,} of {_items(total)} failed, so the sweep's exit code is not zero."
    return f"None of {_items(total)} failed: the sweep's exit code is zero."


def say_doubts(rows: Iterable[SweepRow]) -> list[str]:
    """How many items may be measured on networks that are opened wrongly; nothing where there are none."""
    doubted = sum(row.doubt is not None for row in rows)
    if not doubted:
        return []
    text = (
        f"{_items(doubted)} in doubt: the accuracy is hardly better than guessing, or far under what the file states, "
        "so the network may not be computed as it was trained. The notes say what to check."
    )
    return [text]


def say_who_sees(rows: Iterable[SweepRow]) -> str:
    """A sentence on the methods that know the trigger; empty where there are none."""
    names = sorted({row.method for row in rows if registry.sees_trigger(row.method)}, key=registry.order)
    if not names:
        return ""
    verb = "sees" if len(names) == 1 else "see"
    return (
        f"{', '.join(map(registry.title, names))} {verb} the trigger, which no defender knows: a bound, not a defense."
    )


def show_estimate(estimate: Estimate | None, metric: Metric) -> str:
    """An entry of the matrix as text."""
    return {"der": show_rating, "pruned": show_count}.get(metric, show_share)(estimate)


def list_metrics(rows: Sequence[SweepRow]) -> dict[Metric, tuple[str, str]]:
    """Name and meaning of each metric; ASR after an attempt to bring the backdoor back where one was asked for."""
    found = list(METRICS.items())
    if column := name_column(rows):
        found.insert(list(METRICS).index("asr") + 1, ("asr_reactivated", (column, say_attempt(rows))))
    return dict(found)


def metric_table(matrix: Matrix, metric: Metric) -> tuple[list[str], list[tuple[str, list[Estimate | None]]]]:
    """Names of the columns that know the metric, and each attack's name with its estimates in those columns."""
    found = [[None if each is None else getattr(each, metric) for each in line] for _, line in matrix.lines]
    known = [i for i in range(len(matrix.methods)) if any(line[i] is not None for line in found)]
    lines = [(name, [line[i] for i in known]) for (name, _), line in zip(matrix.lines, found, strict=True)]
    return [matrix.methods[i] for i in known], lines


def _items(count: int) -> str:
    return f"{count:,} item" + "s" * (count != 1)


def make_matrix(rows: Sequence[SweepRow]) -> Matrix:
    """Means over rows that are ok. Checkpoints that the sweep did not also evaluate undefended get a row of their own.

    Attacks come in the order of their first row, defenses as in a comparison's tables, heads after networks.
    """
    tables = by_attack(list_results(rows))
    columns = {
        (each.keys["mode"] == "head", registry.order(str(each.keys["method"]))): name_method(each.keys)
        for summaries in tables.values()
        for each in summaries
    }
    names = tuple(columns[place] for place in sorted(columns))
    lines = []
    for (attack, rate), summaries in list(tables.items())[:MAX_ATTACKS]:
        found = {name_method(each.keys): each for each in summaries}
        lines.append((name_line(attack, rate), tuple(found.get(name) for name in names)))
    return Matrix(names, tuple(lines), max(0, len(tables) - MAX_ATTACKS))


def list_results(rows: Iterable[SweepRow]) -> list[SweepRow]:
    """The rows that are ok; then for each checkpoint that was not evaluated undefended, one as if it had been."""
    done = [row for row in rows if row.status == "ok"]
    known = {(row.checkpoint, row.mode) for row in done if row.method == UNDEFENDED}
    found: dict[tuple, SweepRow] = {}
    for row in done:
        if row.acc_before is not None and (row.checkpoint, row.mode) not in known:
            before = {"acc": row.acc_before, "asr": row.asr_before, "ra": row.ra_before}
            rest = {"acc_without_target": None, "der": None, "pruned": None, "timing": (), "covariates": {}}
            rest |= {"reactivation": None, **dict.fromkeys(RECOVERED)}
            found.setdefault(
                (row.checkpoint, row.mode), row.model_copy(update={"method": UNDEFENDED, **before, **rest})
            )
    return [*done, *found.values()]


def name_line(attack: str, rate: float | None) -> str:
    """The attack of a line."""
    return "no known trigger" if attack == "none" and not rate else name_attack(attack, rate)
