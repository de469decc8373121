"""A sweep as one self-contained page: what became of its items, the matrix of means, a figure, and every item.

The page asks nothing of a network. Its Content-Security-Policy allows embedded images and, by hash, its own style sheet
and its own script; the script sorts, filters and pages the table of items, and the page is whole without it.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rnp_jax.report import wording
from rnp_jax.report.appendix import show_pairs, show_tree
from rnp_jax.report.comparison import Estimate
from rnp_jax.report.comparison_page import share_cell
from rnp_jax.report.comparison_text import name_method, show_rating, show_seconds
from rnp_jax.report.document import write_text
from rnp_jax.report.figures import render_svg
from rnp_jax.report.html import Markup, element, join, table
from rnp_jax.report.leaderboard_matrix import (
    MATRIX_WORDS,
    MEANINGS,
    METRICS,
    Metric,
    count_statuses,
    make_matrix,
    metric_table,
    say_verdict,
    sort_rows,
)
from rnp_jax.report.leaderboard_plots import MAX_PANELS, plot_items
from rnp_jax.report.leaderboard_table import LEVELS, link, show_items
from rnp_jax.report.page import render_document
from rnp_jax.report.schema import Versions
from rnp_jax.report.sections import LEVELS as BADGES
from rnp_jax.report.sections import embed_figure, section
from rnp_jax.report.sweep_row import Status, SweepRow
from rnp_jax.report.wording import UNKNOWN, seconds

SLOWEST = 10
MAX_LISTED = 500
"""More items of a status than these are in the table of items but not listed with their reasons."""

OPEN = 10
"""A list of more reasons than these is folded away."""

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
    """Write ``leaderboard.html``, whole or not at all.

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
    page = render_leaderboard(rows, config=config, versions=versions, created=created, title=title)
    return write_text(Path(out) / "leaderboard.html", page)


def render_leaderboard(
    rows: Sequence[SweepRow], *, config: Mapping, versions: Versions, created: datetime, title: str = "Sweep"
) -> str:
    """The page as text."""
    rows = sort_rows(rows)
    counts = count_statuses(rows)
    content = [
        _show_header(rows, counts, created, title),
        _show_counts(counts),
        *(_show_lost(rows, status) for status in LOST),
        _show_matrix(rows),
        _show_figure(rows),
        _show_slowest(rows),
        section("Items", show_items(rows)) if rows else None,
        section("Settings and versions", show_pairs(list(versions)), show_tree("Resolved configuration", dict(config))),
        element("footer", "Every item with its counts is beside this page: rows.jsonl, rows.csv, rows.parquet."),
    ]
    heading = f"{title} \N{MIDDLE DOT} rnp_jax report"
    return render_document(heading, *content, styles=("leaderboard.css",), script="leaderboard.js")


def _show_header(rows: Sequence[SweepRow], counts: Mapping[Status, int], created: datetime, title: str) -> Markup:
    spent = [row.seconds for row in rows if row.seconds is not None]
    facts = {
        "Items": f"{len(rows):,}",
        "Checkpoints": f"{len({row.checkpoint for row in rows}):,}",
        "Methods": f"{len({row.method for row in rows}):,}",
        "Attacks": f"{len({row.attack for row in rows if row.status == 'ok'}):,}",
        "Devices": ", ".join(sorted({row.device for row in rows if row.device})) or UNKNOWN,
        "Time of all items": show_seconds(sum(spent) if spent else None),
    }
    level = _level(counts)
    moment = created.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    badge = element("span", BADGES[level], class_="badge")
    return element(
        "header",
        element("p", badge, element("span", "Leaderboard of a sweep"), element("span", moment), class_="eyebrow"),
        element("h1", title),
        element("p", say_verdict(dict(counts)), class_="lead"),
        element("dl", *(element("div", element("dt", k), element("dd", v)) for k, v in facts.items()), class_="facts"),
        class_=level,
    )


def _level(counts: Mapping[Status, int]) -> str:
    if counts["failed"]:
        return "bad"
    if counts["rejected"] or counts["skipped"]:
        return "warning"
    return "ok" if counts["ok"] else "unknown"


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
    table_ = table(["Status", "Items", "Share", ""], [*rows, ["all", f"{total:,}", "", ""]], class_="points counts")
    return section("What became of the items", table_)


def _show_matrix(rows: Sequence[SweepRow]) -> Markup | None:
    matrix = make_matrix(rows)
    if not matrix.lines:
        return None
    parts = [element("p", MATRIX_WORDS, class_="quiet")]
    for metric in METRICS:
        names, found = metric_table(matrix, metric)
        if names:
            title, meaning = wording.DER if metric == "der" else wording.METRICS[metric]
            lines = [[attack, *(_estimate(each, metric) for each in estimates)] for attack, estimates in found]
            shown = table(["Attack", *names], lines, class_="compared")
            parts += [element("h3", title), element("p", meaning, class_="quiet"), shown]
    if matrix.further:
        parts.append(element("p", f"{matrix.further:,} further attacks are in the table of items."))
    return section("Attacks and defenses", *parts)


def _estimate(estimate: Estimate | None, metric: Metric) -> Markup:
    if estimate is None:
        return join("\N{EN DASH}")
    n = element("small", f"n = {estimate.n:,}")
    if metric == "der":
        return join(show_rating(estimate), n)
    return join(share_cell(estimate), n)


def _show_figure(rows: Sequence[SweepRow]) -> Markup | None:
    figure = plot_items(rows)
    if figure is None:
        return None
    caption = (
        "One point an item: grey crosses are the checkpoints as they came, coloured markers the same after the method, "
        "hollow where the head alone was pruned. The best corner is bottom right: low ASR, high ACC."
    )
    further = len({(row.mode, row.method) for row in rows if row.status == "ok" and row.acc and row.asr}) - MAX_PANELS
    if further > 0:
        caption += f" {further:,} further methods are in the tables."
    return section("Figure", *embed_figure("Attack success against accuracy", caption, render_svg(figure)))


def _show_lost(rows: Sequence[SweepRow], status: Status) -> Markup | None:
    lost = [row for row in rows if row.status == status]
    if not lost:
        return None
    lines = [[link(row), name_method(dict(row)), row.reason or UNKNOWN] for row in lost[:MAX_LISTED]]
    listed = table(["Checkpoint", "Method", "Reason"], lines, class_="listed")
    if len(lost) > OPEN:
        listed = element("details", element("summary", f"Show {len(lines):,} of {len(lost):,}"), listed)
    return section(LOST[status], listed)


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
