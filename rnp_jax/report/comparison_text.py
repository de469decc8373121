"""A comparison as Markdown and CSV."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

from rnp_jax.report import methods
from rnp_jax.report.comparison import KEYS, SHARES, Comparison, ComparisonRow, Estimate, Summary, summarise
from rnp_jax.report.wording import UNKNOWN, seconds

GROUP = ("attack", "poison_rate", "mode", "method")
NUMBERS = ("der", "pruned", "units")
HEAD = ("Method", "Runs", "ACC", "ASR", "RA", "DER", "Pruned", "Seconds")
INTERVALS = (
    "Means over runs with 95 % t-intervals, cut to 0-100 %; of a single run, its share with its Wilson interval."
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def by_attack(rows: Iterable[ComparisonRow]) -> dict[tuple[str, float | None], list[Summary]]:
    """The summaries of each attack at each poison rate, methods in the order of a table."""
    tables: dict[tuple, list[Summary]] = {}
    for summary in summarise(rows, GROUP):
        tables.setdefault((summary.keys["attack"], summary.keys["poison_rate"]), []).append(summary)
    for summaries in tables.values():
        summaries.sort(key=lambda each: methods.order(str(each.keys["method"])))
    return tables


def name_attack(attack: str, poison_rate: float | None) -> str:
    """``badnets, 10 % poisoned``."""
    rate = "poison rate unknown" if poison_rate is None else f"{100 * poison_rate:.4g} % poisoned"
    return f"{attack}, {rate}"


def name_method(keys: dict) -> str:
    """``CLP``, or ``CLP, head`` where the head alone was pruned."""
    return methods.title(str(keys["method"])) + (", head" if keys.get("mode") == "head" else "")


def show_share(share: Estimate | None) -> str:
    """``93.21% (92.80-93.62)``, with an en dash."""
    if share is None:
        return UNKNOWN
    if share.low is None or share.high is None:
        return f"{share.value:.2%}"
    return f"{share.value:.2%} ({100 * share.low:.2f}\N{EN DASH}{100 * share.high:.2f})"


def show_rating(der: Estimate | None) -> str:
    """Three decimals; ± half the interval where there is one."""
    if der is None:
        return UNKNOWN
    return f"{der.value:.3f}" if der.high is None else f"{der.value:.3f} ± {der.high - der.value:.3f}"


def show_pruned(summary: Summary) -> str:
    """``12 of 512``: means over runs."""
    if summary.pruned is None:
        return UNKNOWN
    units = "" if summary.units is None else f" of {summary.units.value:,.4g}"
    return f"{summary.pruned.value:,.4g}{units}"


def show_seconds(total: float | None) -> str:
    """As elsewhere in a report; unknown where nothing was timed."""
    return UNKNOWN if total is None else seconds(total)


def to_markdown(comparison: Comparison) -> str:
    """One table an attack and poison rate, methods as rows, then the notes of single runs."""
    parts = ["# Defenses compared", INTERVALS]
    for (attack, rate), summaries in by_attack(comparison.rows).items():
        rows = [[*_cells(summary)] for summary in summaries]
        parts += [f"## {escape_markdown(name_attack(attack, rate))}", markdown_table(HEAD, rows)]
    if any(row.method == "oracle" for row in comparison.rows):
        parts.append(f"The oracle is {methods.ORACLE_NOTE}.")
    notes = [row for row in comparison.rows if row.note]
    if notes:
        said = [f"- {escape_markdown(f'{name_run(row)}: {row.note}')}" for row in notes]
        parts += ["## Notes", "\n".join(said)]
    return "\n\n".join(parts) + "\n"


def name_run(row: ComparisonRow) -> str:
    """The run in a few words."""
    where = name_attack(row.attack, row.poison_rate)
    return f"{name_method({'method': row.method, 'mode': row.mode})} on {where}, seed {row.seed}"


def _cells(summary: Summary) -> list[str]:
    shares = [show_share(getattr(summary, field)) for field in ("acc", "asr", "ra")]
    rest = [show_rating(summary.der), show_pruned(summary), show_seconds(summary.total)]
    note = f" ({methods.ORACLE_NOTE})" if summary.keys["method"] == "oracle" else ""
    return [name_method(summary.keys) + note, f"{summary.n}", *shares, *rest]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of escaped cells."""
    lines = [list(map(escape_markdown, head)), ["---"] * len(head)]
    lines += [list(map(escape_markdown, row)) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape_markdown(text: str) -> str:
    """Text that stays text in a table's cell, whatever it holds."""
    visible = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return re.sub(r"([\\`*_\[\]|#!~$])", r"\\\1", visible).replace("&", "&amp;").replace("<", "&lt;")


def to_csv(rows: Sequence[ComparisonRow]) -> str:
    """One line a run; shares with interval and counts, a column a stage and a covariate; unknown is empty."""
    stages = list(dict.fromkeys(stage.stage for row in rows for stage in row.timing))
    covariates = list(dict.fromkeys(name for row in rows for name in row.covariates))
    shares = [f"{field}{part}" for field in SHARES for part in ("", "_low", "_high", "_count", "_total")]
    extra = [*(f"seconds: {stage}" for stage in stages), *(f"covariate: {name}" for name in covariates)]
    lines: list[list] = [[*KEYS, *shares, *NUMBERS, *extra, "note"]]
    for row in rows:
        values = [getattr(row, field) for field in KEYS]
        for field in SHARES:
            share = getattr(row, field)
            values += [None] * 5 if share is None else [share.value, share.low, share.high, share.count, share.total]
        values += [getattr(row, field) for field in NUMBERS]
        spent = summarise([row])[0].seconds
        values += [spent.get(stage) for stage in stages]
        lines.append([*values, *(row.covariates.get(name) for name in covariates), row.note])
    return csv_text(lines)


def csv_text(lines: Iterable[Iterable]) -> str:
    """Lines as CSV. Text that a spreadsheet would run as a formula is made text by a leading apostrophe."""
    file = io.StringIO()
    csv.writer(file).writerows([[_inert(cell) for cell in line] for line in lines])
    return file.getvalue()


def _inert(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
