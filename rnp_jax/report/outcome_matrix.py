"""Attacks against methods in one coloured table: what became of each backdoor, and which method did best."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from rnp_jax.defenses import registry
from rnp_jax.report.comparison import Summary
from rnp_jax.report.comparison_text import name_method
from rnp_jax.report.html import Markup, element, join, table
from rnp_jax.report.leaderboard_matrix import UNDEFENDED, Matrix, list_results, name_line, say_who_sees
from rnp_jax.report.outcome import REMOVED, RULES, STILL_WORKS, Outcome, judge_row, judge_rows
from rnp_jax.report.sweep_reactivation import name_attempt, name_column, say_attempt
from rnp_jax.report.sweep_row import SweepRow

NAMED = 3
"""More checkpoints of an attack than these are counted, not named."""

FEWEST = 4
"""More methods than these are not all named in a page's headline."""

RISEN = 0.2
"""By how much ASR must rise, from one interval to the other, for an attempt to count as one that brings it back."""

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


def show_outcomes(rows: Sequence[SweepRow], matrix: Matrix) -> list[Markup | None]:
    """The table, and the rule that its words and colours follow."""
    cells, recovered = group_rows(rows), name_column(rows)
    lines = []
    for attack, summaries in matrix.lines:
        outcomes = [judge_rows(cells.get((attack, method), ())) for method in matrix.methods]
        best = _find_best(summaries, outcomes)
        shown = [
            _show_cell(method, summary, outcome, recovered, best=i in best)
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
        element("p", f"{recovered}: {say_attempt(rows)}", class_="quiet") if recovered else None,
    ]


def say_removed(rows: Sequence[SweepRow]) -> str:
    """How many backdoors each method removed while ACC was kept, the best first; empty where none is known to work."""
    counts: dict[str, list[bool]] = {}
    for row in rows:
        outcome = judge_row(row) if row.status == "ok" else None
        if outcome is not None and row.asr is not None and _tells(outcome) and not registry.sees_trigger(row.method):
            name = name_method({"method": row.method, "mode": row.mode})
            counts.setdefault(name, []).append(outcome == REMOVED)
    ranked, said = _rank(counts)
    if not ranked:
        return ""
    if not any(ranked[0][1]):
        return f"No method removes a backdoor and keeps ACC: {', '.join(said)}"
    (name, found), rest = ranked[0], said[1:]
    first = f"{name} removes {sum(found):,} of {len(found):,} backdoor" + "s" * (len(found) != 1) + " and keeps ACC"
    return ", ".join([first, *rest])


def say_recovered(rows: Sequence[SweepRow]) -> str:
    """How many of the backdoors that do not work after a method an attempt brings back; empty where none was made."""
    counts: dict[str, list[bool]] = {}
    for row in rows:
        before, after = row.asr, row.asr_reactivated
        if before is not None and after is not None and before.value <= STILL_WORKS:
            name = name_method({"method": row.method, "mode": row.mode})
            counts.setdefault(name, []).append(after.low - before.high > RISEN)
    ranked, said = _rank(counts)
    if not ranked:
        return ""
    return (
        f"Where ASR is at most {STILL_WORKS:.0%} after the method, {name_attempt(rows)} raises it by more than "
        f"{100 * RISEN:g} points, beyond the 95 % intervals: {', '.join(said)}."
    )


def _rank(counts: Mapping[str, list[bool]]) -> tuple[list[tuple[str, list[bool]]], list[str]]:
    """What holds of how many items of each method, the highest share first; and the first few of these in words."""
    ranked = sorted(counts.items(), key=lambda each: -sum(each[1]) / len(each[1]))
    said = [f"{name} {sum(found):,} of {len(found):,}" for name, found in ranked[:FEWEST]]
    if (more := len(ranked) - FEWEST) > 0:
        said[-1] += f"; {more:,} further method" + "s" * (more != 1)
    return ranked, said


def _tells(outcome: Outcome) -> bool:
    """Whether it is of a trigger that worked before."""
    return outcome.level != "unknown" and outcome.word != "ACC lost"


def _show_cell(method: str, summary: Summary | None, outcome: Outcome | None, recovered: str, *, best: bool) -> Markup:
    """What is known of a cell; it names its method too, for a narrow page, whose rows are no longer under a heading."""
    name = element("span", method, class_="method")
    if summary is None:
        return element("div", name, "\N{EN DASH}", class_="outcome")
    figures = [
        element("small", f"{name}\N{NO-BREAK SPACE}{share.value:.1%}")
        for name, share in (("ASR", summary.asr), ("ACC", summary.acc), (recovered, summary.asr_reactivated))
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
