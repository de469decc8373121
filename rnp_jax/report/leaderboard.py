"""A sweep as one self-contained page: the matrix of means, figures, what became of its items, and every item.

The page asks nothing of a network. Its Content-Security-Policy allows embedded images and, by hash, its own style sheet
and its own script; the script sorts, filters and pages the table of items, and the page is whole without it.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rnp_jax.document import write_text
from rnp_jax.report.appendix import show_pairs, show_tree
from rnp_jax.report.comparison_text import name_method, show_seconds
from rnp_jax.report.figures import save_figures
from rnp_jax.report.html import Markup, element, table
from rnp_jax.report.leaderboard_matrix import MEANINGS, count_statuses, say_doubts, say_verdict, sort_rows
from rnp_jax.report.leaderboard_plots import plot_leaderboard
from rnp_jax.report.leaderboard_sections import show_covariates, show_figures, show_matrix, show_methods
from rnp_jax.report.leaderboard_table import LEVELS, link, show_items
from rnp_jax.report.outcome_matrix import say_recovered, say_removed
from rnp_jax.report.page import render_document
from rnp_jax.report.schema import Versions
from rnp_jax.report.sections import LEVELS as BADGES
from rnp_jax.report.sections import section
from rnp_jax.report.sweep_evidence import show_evidence
from rnp_jax.report.sweep_row import Status, SweepRow
from rnp_jax.report.wording import UNKNOWN, seconds

SLOWEST = 10
MAX_LISTED = 500
"""More items of a status, or with a note, than these are in the table of items but not listed with what is said."""

OPEN = 10
"""A list of more items than these is folded away."""

FIGURES = ("outcomes", "items", "seconds")

LOST: dict[Status, str] = {"failed": "Failed", "rejected": "Rejected", "skipped": "Skipped"}


def write_leaderboard(
    out: Path,
    rows: Sequence[SweepRow],
    *,
    config: Mapping,
    versions: Versions,
    created: datetime,
    title: str = "Sweep",
) -> Path:
    """Write ``figures/*.png|svg`` and, last, ``leaderboard.html``, each whole or not at all.

    Args:
      out: the sweep's folder, which ``row.report`` is relative to.
      rows: one an item, in any order.
      config: resolved configuration.
      created: with its time zone.
      title: heading of the page.

    Returns:
      The path of ``leaderboard.html``.

    Raises:
      ResultError: the folder cannot be written.
    """
    folder = Path(out) / "figures"
    earlier = [path.stem for path in folder.glob("rates_*.svg")]
    files = save_figures(folder, plot_leaderboard(sort_rows(rows)), known=[*FIGURES, *earlier])
    svg = {name: file.svg.read_bytes() for name, file in files.items()}
    page = render_leaderboard(rows, svg, config=config, versions=versions, created=created, title=title)
    return write_text(Path(out) / "leaderboard.html", page)


def render_leaderboard(
    rows: Sequence[SweepRow],
    svg: Mapping[str, bytes],
    *,
    config: Mapping,
    versions: Versions,
    created: datetime,
    title: str = "Sweep",
) -> str:
    """The page as text; ``svg`` holds the figures to embed, by name."""
    rows = sort_rows(rows)
    counts = count_statuses(rows)
    content = [
        _show_header(rows, counts, created, title),
        show_matrix(rows),
        show_figures(rows, svg),
        show_evidence(rows),
        section("Items", show_items(rows)) if rows else None,
        _show_counts(counts),
        *(_list(LOST[status], "Reason", [row for row in rows if row.status == status], _reason) for status in LOST),
        _list("Notes", "Note", [row for row in rows if row.note], lambda row: row.note),
        _show_slowest(rows),
        show_methods(rows),
        show_covariates(rows),
        section("Settings and versions", show_pairs(list(versions)), show_tree("Resolved configuration", dict(config))),
        element(
            "footer", "The files next to this page list every item with its counts: rows.jsonl, rows.csv, rows.parquet."
        ),
    ]
    heading = f"{title} \N{MIDDLE DOT} rnp_jax report"
    return render_document(heading, *content, styles=("leaderboard.css",), script="leaderboard.js")


def _show_header(rows: Sequence[SweepRow], counts: Mapping[Status, int], created: datetime, title: str) -> Markup:
    spent = [row.seconds for row in rows if row.seconds is not None]
    facts = {
        "Items": f"{len(rows):,}",
        "Checkpoints": f"{len({row.checkpoint for row in rows}):,}",
        "Methods": f"{len({row.method for row in rows}):,}",
        "Attacks": f"{len({row.attack for row in rows if row.status == 'ok'} - {'none'}):,}",
        "Devices": ", ".join(sorted({row.device for row in rows if row.device})) or UNKNOWN,
        "Total time of the items": show_seconds(sum(spent) if spent else None),
    }
    said = [
        say_recovered(rows),
        *([say_verdict(dict(counts))] if counts["failed"] or not rows else []),
        *_say_lost(counts),
        *say_doubts(rows),
    ]
    level = _level(counts, doubted=bool(say_doubts(rows)))
    moment = created.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    badge = None if level == "unknown" else element("span", BADGES[level], class_="badge")
    return element(
        "header",
        element("p", badge, element("span", title), element("span", moment), class_="eyebrow"),
        element("h1", say_removed(rows) or title),
        *(element("p", text, class_="lead") for text in said if text),
        element("dl", *(element("div", element("dt", k), element("dd", v)) for k, v in facts.items()), class_="facts"),
        class_=level,
    )


def _say_lost(counts: Mapping[Status, int]) -> list[str]:
    """How many items could not be tried; nothing where there are none."""
    lost = counts["rejected"] + counts["skipped"]
    return [f"{lost:,} of {sum(counts.values()):,} items could not be run: see their status below."] if lost else []


def _level(counts: Mapping[Status, int], *, doubted: bool) -> str:
    """How far the items can be relied on: a matter of what ran, and not of what it found."""
    if counts["failed"]:
        return "bad"
    return "warning" if counts["rejected"] or counts["skipped"] or doubted else "unknown"


def _show_counts(counts: Mapping[Status, int]) -> Markup:
    total = sum(counts.values())
    rows = [
        [
            element("span", status, class_=f"badge {LEVELS[status]}"),
            f"{n:,}",
            f"{n / max(total, 1):.1%}",
            MEANINGS[status],
        ]
        for status, n in counts.items()
    ]
    table_ = table(
        ["Status", "Items", "Share", "Meaning"], [*rows, ["all", f"{total:,}", "", ""]], class_="points counts"
    )
    return section("Status of the items", element("p", say_verdict(dict(counts))), table_)


def _list(heading: str, column: str, rows: Sequence[SweepRow], say: Callable[[SweepRow], str]) -> Markup | None:
    """Items with what is said of each; folded away where they are many."""
    if not rows:
        return None
    lines = [[link(row), name_method(dict(row)), say(row)] for row in rows[:MAX_LISTED]]
    listed = table(["Checkpoint", "Method", column], lines, class_="listed")
    if len(rows) > OPEN:
        listed = element("details", element("summary", f"Show {len(lines):,} of {len(rows):,}"), listed)
    return section(heading, listed)


def _reason(row: SweepRow) -> str:
    return row.reason or UNKNOWN


def _show_slowest(rows: Sequence[SweepRow]) -> Markup | None:
    timed = sorted(
        ((row.seconds, i) for i, row in enumerate(rows) if row.seconds is not None), key=lambda t: (-t[0], t[1])
    )
    if not timed:
        return None
    lines = []
    for spent, i in timed[:SLOWEST]:
        stages = ", ".join(f"{stage.stage} {seconds(stage.seconds)}" for stage in rows[i].timing)
        lines.append([link(rows[i]), name_method(dict(rows[i])), seconds(spent), stages, rows[i].device or UNKNOWN])
    head = ["Checkpoint", "Method", "Time", "Stages", "Device"]
    return section("Slowest items", table(head, lines, class_="listed"))
