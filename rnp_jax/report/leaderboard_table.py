"""The table of every item of a sweep: its first rows as markup, and all of them as data for ``leaderboard.js``.

Every string of the data is text that the script sets as text; characters that hide or reorder text are spelled out as
`rnp_jax.report.html` does.
"""

import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import quote

from rnp_jax.report.comparison_text import name_method, show_seconds
from rnp_jax.report.html import Markup, element, escape, join, table
from rnp_jax.report.schema import Proportion
from rnp_jax.report.sweep_evidence import find_searched, say_level, say_size
from rnp_jax.report.sweep_reactivation import name_column
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.report.wording import UNKNOWN, percent
from rnp_jax.untrusted_text import spell_hidden

PAGE = 200
"""Rows shown at a time."""

COLUMNS = ("Checkpoint", "Attack", "Poisoned", "Method", "Status", "ACC", "ASR", "RA", "DER", "Pruned", "Time")
EVIDENCE = ("Evidence", "Trigger, px")
"""Columns that follow where some row has evidence."""

_BESIDE_ASR = COLUMNS.index("ASR") + 1
"""The place of ASR after an attempt to bring the backdoor back, where one was asked for."""

FILTERS = ("Status", "Attack", "Method", "Evidence")
NUMBERS = ("Poisoned", "ACC", "ASR", "RA", "DER", "Pruned", "Time", "Trigger, px")
LEVELS = {"ok": "ok", "rejected": "warning", "failed": "bad", "skipped": "unknown"}


class Cell(NamedTuple):
    """What a cell shows, what it is sorted by (None comes last), what stands below in small type, and its link."""

    text: str
    value: float | None = None
    small: str = ""
    href: str | None = None


def show_items(rows: Sequence[SweepRow]) -> Markup:
    """Controls that the script reveals, the first `PAGE` rows, and the data of all of them."""
    searched = bool(find_searched(rows))
    columns = [*COLUMNS, *EVIDENCE] if searched else [*COLUMNS]
    cells = [_cells(row) + _evidence(row) if searched else _cells(row) for row in rows]
    recovered = name_column(rows)
    if recovered:
        columns.insert(_BESIDE_ASR, recovered)
        for line, row in zip(cells, rows, strict=True):
            line.insert(_BESIDE_ASR, _recovered(row))
    rest = len(rows) - PAGE
    words = f"The first {PAGE:,} of {len(rows):,} items. Enable JavaScript to see the others, or open rows.csv."
    shown = [[_show(cell, name) for cell, name in zip(line, columns, strict=True)] for line in cells[:PAGE]]
    data = {
        "page": PAGE,
        "numbers": [i for i, name in enumerate(columns) if name in (*NUMBERS, recovered)],
        "levels": LEVELS,
        "status": COLUMNS.index("Status"),
        "rows": [[_data(cell) for cell in line] for line in cells],
    }
    return join(
        _controls(cells, columns),
        element("p", words, class_="quiet", id="rest") if rest > 0 else None,
        table(
            columns,
            shown,
            class_="compared items wide" if len(columns) > len(COLUMNS) else "compared items",
            id="items",
        ),
        element("script", _json(data), type="application/json", id="data"),
    )


def link(row: SweepRow) -> Markup:
    """The item's path, linked to its report where that is a relative path inside the sweep's folder."""
    return _show(Cell(row.checkpoint, href=safe_href(row.report)), "")


def safe_href(report: str | None) -> str | None:
    """A relative address inside the page's folder, percent-encoded; None where ``report`` is anything else."""
    if not report or report.startswith("/") or "\\" in report or not report.isprintable():
        return None
    if ".." in PurePosixPath(report).parts:
        return None
    return quote(str(PurePosixPath(report)))  # a colon is encoded too, so there is no scheme


def _cells(row: SweepRow) -> list[Cell]:
    rate = row.poison_rate
    done = row.status == "ok"
    pruned = "" if row.pruned is None else f"{row.pruned:,}"
    return [
        Cell(row.checkpoint, small=row.architecture or "", href=safe_href(row.report)),
        Cell(row.attack),
        Cell("" if rate is None else f"{100 * rate:.4g} %", rate),
        Cell(name_method({"method": row.method, "mode": row.mode}), small=f"seed {row.seed}"),
        Cell(row.status, small=row.reason or (f"in doubt: {row.doubt}" if row.doubt else "")),
        _share(row.acc, row.acc_before, done),
        _share(row.asr, row.asr_before, done),
        _share(row.ra, row.ra_before, done),
        Cell("" if row.der is None else f"{row.der:.3f}", row.der),
        Cell(pruned if done else "", row.pruned, "" if row.units is None else f"of {row.units:,}"),
        Cell(show_seconds(row.seconds) if row.timing else "", row.seconds),
    ]


def _evidence(row: SweepRow) -> list[Cell]:
    if row.evidence is None:
        return [Cell("")] * len(EVIDENCE)
    smallest = row.smallest_after
    return [Cell(say_level(row)), Cell(say_size(smallest), smallest, f"ordinary {say_size(row.ordinary_after)}")]


def _recovered(row: SweepRow) -> Cell:
    reached, control = row.asr_reactivated, row.asr_reactivated_control
    if reached is None:
        return Cell("" if row.reactivation is None else "\N{EN DASH}")
    return Cell(percent(reached), reached.value, "" if control is None else f"control {percent(control)}")


def _share(share: Proportion | None, before: Proportion | None, done: bool) -> Cell:
    small = "" if before is None else f"was {percent(before)}"
    if share is None:
        return Cell(UNKNOWN if done else "", None, small)
    return Cell(percent(share), share.value, small)


def _show(cell: Cell, column: str) -> Markup:
    text = element("a", cell.text, href=cell.href) if cell.href else escape(cell.text)
    if column == "Status":
        text = element("span", text, class_=f"badge {LEVELS[cell.text]}")
    return join(text, element("small", cell.small) if cell.small else None)


def _data(cell: Cell) -> list[str | float | None]:
    return [spell_hidden(cell.text), cell.value, spell_hidden(cell.small), cell.href]


def _controls(cells: Sequence[Sequence[Cell]], columns: Sequence[str]) -> Markup:
    search = element(
        "label", "Search", Markup('<input type="search" id="search" autocomplete="off" spellcheck="false">')
    )
    filters = [name for name in FILTERS if name in columns]
    return element(
        "div",
        element(
            "div",
            search,
            *(_choice(cells, name, columns.index(name)) for name in filters),
            class_="filter",
            role="search",
        ),
        element(
            "div",
            element("span", id="count", role="status"),
            element("button", "Previous", type="button", id="previous"),
            element("button", "Next", type="button", id="next"),
            class_="pager",
        ),
        id="controls",
        hidden="",
    )


def _choice(cells: Sequence[Sequence[Cell]], name: str, column: int) -> Markup:
    values = sorted({spell_hidden(line[column].text) for line in cells})
    options = [element("option", value, value=value) for value in values]
    return element(
        "label", name, element("select", element("option", "all", value=""), *options, data_column=column)
    )  # fmt: skip


def _json(data: dict) -> Markup:
    """JSON that ends no script element and begins no comment in it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
