"""Attacks against methods in one coloured table: what became of each backdoor, and which method did best."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from rnp_jax.defenses import registry
from rnp_jax.report.comparison import Summary
from rnp_jax.report.comparison_text import name_method
from rnp_jax.report.html import Markup, element, join, table
from rnp_jax.report.leaderboard_matrix import UNDEFENDED, Matrix, list_results, name_line, say_who_sees
from rnp_jax.report.outcome import REMOVED, RULES, Outcome, judge_row, judge_rows
from rnp_jax.report.sweep_row import SweepRow

NAMED = 3
"""More checkpoints of an attack than these are counted, not named."""

FEWEST = 4
"""More methods than these are not all named in a page's headline."""

BEST = (
    "Best: the highest DER in its row, of the methods that remove the backdoor or, where none does, of those that "
    "leave none working. Methods that see the trigger do not count."
)


def group_rows(rows: Sequence[SweepRow]) -> dict[tuple[str, str], list[SweepRow]]:
    """The items with a result, of each attack and method."""
    found: dict[tuple[str, str], list[SweepRow]] = {}
    for row in list_results(rows):
        key = name_line(row.attack, row.poison_rate), name_method({"method": row.method, "mode": row.mode})
        found.setdefault(key, []).append(row)
    return found


def show_outcomes(rows: Sequence[SweepRow], matrix: Matrix) -> list[Markup]:
    """The table, and the rule that its words and colours follow."""
    cells = group_rows(rows)
    lines = []
    for attack, summaries in matrix.lines:
        outcomes = [judge_rows(cells.get((attack, method), ())) for method in matrix.methods]
        best = _find_best(summaries, outcomes)
        shown = [
            _show_cell(method, summary, outcome, best=i in best)
            for i, (method, summary, outcome) in enumerate(zip(matrix.methods, summaries, outcomes, strict=True))
        ]
        names = _name_checkpoints([row for (of, _), items in cells.items() if of == attack for row in items])
        lines.append([join(attack, element("small", names)), *shown])
    rules = [
        element("li", element("span", words, class_=f"badge {level}"), f" {meaning}")
        for level, (words, meaning) in RULES.items()
    ]
    return [
        table(["Attack and checkpoints", *matrix.methods], lines, class_="compared outcomes"),
        element("ul", *rules, class_="rules quiet"),
        element("p", f"{BEST} {say_who_sees(rows)}".strip(), class_="quiet"),
    ]


def say_removed(rows: Sequence[SweepRow]) -> str:
    """How many backdoors each method removed while ACC was kept, the best first; empty where none is known to work."""
    counts: dict[str, list[bool]] = {}
    for row in rows:
        outcome = judge_row(row) if row.status == "ok" else None
        if outcome is not None and row.asr is not None and _tells(outcome) and not registry.sees_trigger(row.method):
            name = name_method({"method": row.method, "mode": row.mode})
            counts.setdefault(name, []).append(outcome == REMOVED)
    ranked = sorted(counts.items(), key=lambda each: -sum(each[1]) / len(each[1]))
    if not ranked:
        return ""
    said = [f"{name} {sum(found):,} of {len(found):,}" for name, found in ranked[:FEWEST]]
    if (more := len(ranked) - FEWEST) > 0:
        said[-1] += f"; {more:,} further method" + "s" * (more != 1)
    if not any(ranked[0][1]):
        return f"No method removes a backdoor and keeps ACC: {', '.join(said)}"
    (name, found), rest = ranked[0], said[1:]
    first = f"{name} removes {sum(found):,} of {len(found):,} backdoor" + "s" * (len(found) != 1) + " and keeps ACC"
    return ", ".join([first, *rest])


def _tells(outcome: Outcome) -> bool:
    """Whether it is of a trigger that worked before."""
    return outcome.level != "unknown" and outcome.word != "ACC lost"


def _show_cell(method: str, summary: Summary | None, outcome: Outcome | None, *, best: bool) -> Markup:
    """What is known of a cell; it names its method too, for a narrow page, whose rows are no longer under a heading."""
    name = element("span", method, class_="method")
    if summary is None:
        return element("div", name, "\N{EN DASH}", class_="outcome")
    figures = [
        element("small", f"{name}\N{NO-BREAK SPACE}{share.value:.1%}")
        for name, share in (("ASR", summary.asr), ("ACC", summary.acc))
        if share is not None
    ]
    word = None if outcome is None else element("strong", outcome.word)
    mark = element("span", "best", class_="best") if best else None
    return element("div", name, word, mark, *figures, class_="outcome" + (f" {outcome.level}" if outcome else ""))


def _find_best(summaries: Sequence[Summary | None], outcomes: Sequence[Outcome | None]) -> set[int]:
    """The columns with the highest rating to three decimals, of the green ones if there are any."""
    rated = {
        i: (outcome.level == "ok", round(summary.der.value, 3))
        for i, (summary, outcome) in enumerate(zip(summaries, outcomes, strict=True))
        if summary is not None
        and summary.der is not None
        and summary.keys["method"] != UNDEFENDED
        and not registry.sees_trigger(str(summary.keys["method"]))
        and outcome is not None
        and outcome.level in ("ok", "warning")
    }
    highest = max(rated.values(), default=None)
    return {i for i, each in rated.items() if each == highest}


def _name_checkpoints(rows: Sequence[SweepRow]) -> str:
    """Their file names, as paths where two files have the same name; a count where they are many."""
    paths = list(dict.fromkeys(row.checkpoint for row in rows))
    names = [PurePosixPath(path.replace("\\", "/")).name for path in paths]
    shown = names if len(set(names)) == len(names) else paths
    return ", ".join(shown) if len(shown) <= NAMED else f"{len(shown):,} checkpoints"
