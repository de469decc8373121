"""Names and figures of compared methods as text, and tables as Markdown and CSV."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

from rnp_jax.defenses import registry
from rnp_jax.report.comparison import Estimate, Summary, summarise
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.report.wording import UNKNOWN, seconds
from rnp_jax.untrusted_text import spell_hidden

GROUP = ("attack", "poison_rate", "mode", "method")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def by_attack(rows: Iterable[SweepRow]) -> dict[tuple[str, float | None], list[Summary]]:
    """The summaries of each attack at each poison rate, methods in the order of a table."""
    tables: dict[tuple, list[Summary]] = {}
    for summary in summarise(rows, GROUP):
        tables.setdefault((summary.keys["attack"], summary.keys["poison_rate"]), []).append(summary)
    for summaries in tables.values():
        summaries.sort(key=lambda each: registry.order(str(each.keys["method"])))
    return tables


def name_attack(attack: str, poison_rate: float | None) -> str:
    """``badnets, 10 % poisoned``."""
    rate = "poison rate unknown" if poison_rate is None else f"{100 * poison_rate:.4g} % poisoned"
    return f"{attack}, {rate}"


def name_method(keys: dict) -> str:
    """``CLP``, or ``CLP, head`` where the head alone was pruned."""
    return registry.title(str(keys["method"])) + (", head" if keys.get("mode") == "head" else "")


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


def show_count(count: Estimate | None) -> str:
    """Up to four digits; ± half the interval where there is one."""
    if count is None:
        return UNKNOWN
    return f"{count.value:,.4g}" if count.high is None else f"{count.value:,.4g} ± {count.high - count.value:,.3g}"


def show_seconds(total: float | None) -> str:
    """As elsewhere in a report; unknown where nothing was timed."""
    return UNKNOWN if total is None else seconds(total)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of escaped cells."""
    lines = [list(map(escape_markdown, head)), ["---"] * len(head)]
    lines += [list(map(escape_markdown, row)) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape_markdown(text: str) -> str:
    """Text that stays text in a table's cell, whatever it holds."""
    visible = spell_hidden(text).replace("\n", "\\n")
    return re.sub(r"([\\`*_\[\]|#!~$])", r"\\\1", visible).replace("&", "&amp;").replace("<", "&lt;")


def csv_text(lines: Iterable[Iterable]) -> str:
    """Lines as CSV, hidden characters spelled out.

    Text that a spreadsheet would run as a formula is made text by a leading apostrophe.
    """
    file = io.StringIO()
    csv.writer(file).writerows([[_inert(cell) for cell in line] for line in lines])
    return file.getvalue()


def _inert(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    return ("'" if cell.startswith(_FORMULA) else "") + spell_hidden(cell)
