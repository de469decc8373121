"""Figures of a comparison: attack success against accuracy, and where the time goes."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rnp_jax.defenses import registry
from rnp_jax.report import palette
from rnp_jax.report.comparison import Estimate, Summary, summarise
from rnp_jax.report.comparison_text import by_attack, name_attack, name_method, show_seconds
from rnp_jax.report.drawing import Axes, Figure, Line2D, Patch, PercentFormatter
from rnp_jax.report.sweep_row import SweepRow

MAX_PANELS = 12
"""More attacks than these are in the tables but not drawn."""


@palette.style()
def plot_outcomes(rows: Iterable[SweepRow]) -> Figure | None:
    """ASR against ACC, one panel an attack and poison rate for the first `MAX_PANELS`; the best corner is bottom right.

    A method has a colour and a marker, hollow where the head alone was pruned; bars are 95 % intervals. None where no
    row has both figures.
    """
    tables = list(by_attack(row for row in rows if row.acc and row.asr).items())[:MAX_PANELS]
    if not tables:
        return None
    columns = 2 if len(tables) in (2, 4) else min(3, len(tables))
    lines = -(-len(tables) // columns)
    figure = palette.new_figure(0.9 + (2.6 if columns > 1 else 3.6) * lines)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    shown = [summary.keys for _, summaries in tables for summary in summaries]
    looks = palette.method_looks([str(keys["method"]) for keys in shown])
    for ax, ((attack, rate), summaries) in zip(grid.flat, tables, strict=False):
        for summary in summaries:
            _draw_outcome(ax, summary, *looks[str(summary.keys["method"])])
        ax.set_title(palette.label(name_attack(attack, rate), 100 // columns - 8))
        palette.percent_axis(ax)
        ax.tick_params(labelbottom=True)
    for ax in grid.flat[len(tables) :]:
        ax.set_axis_off()
    palette.narrow_percent_axis(grid[0, 0])
    for ax in grid[-1]:
        ax.set_xlabel("ACC")
    for ax in grid[:, 0]:
        ax.set_ylabel("ASR")
    handles = _legend(shown, looks)
    columns = palette.legend_columns([str(handle.get_label()) for handle in handles])
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, columnspacing=1.1, handletextpad=0.1)
    return figure


def _draw_outcome(ax: Axes, summary: Summary, color: str, marker: palette.Marker) -> None:
    if summary.acc is None or summary.asr is None:
        return
    ax.errorbar(
        summary.acc.value,
        summary.asr.value,
        xerr=_error(summary.acc),
        yerr=_error(summary.asr),
        color=color,
        marker=marker,
        markersize=7,
        markerfacecolor=palette.PAPER if summary.keys["mode"] == "head" else color,
        elinewidth=1,
        clip_on=False,
        zorder=3,
    )


def _error(estimate: Estimate) -> list[list[float]] | None:
    """Lengths below and above the value, as matplotlib wants them."""
    if estimate.low is None or estimate.high is None:
        return None
    return [[max(0.0, estimate.value - estimate.low)], [max(0.0, estimate.high - estimate.value)]]


def _legend(shown: Sequence[dict], looks: Mapping[str, tuple[str, palette.Marker]]) -> list[Line2D]:
    names = sorted({(registry.order(keys["method"]), keys["method"]) for keys in shown})
    modes = {keys["mode"] for keys in shown}
    handles = []
    for _, name in names:
        color, marker = looks[name]
        handles.append(Line2D([], [], color=color, marker=marker, markersize=7, ls="none", label=label_method(name)))
    if "head" in modes:
        hollow = {"markerfacecolor": palette.PAPER, "marker": "o", "markersize": 7, "ls": "none"}
        handles.append(Line2D([], [], color=palette.QUIET, label="hollow: head only", **hollow))
    return handles


def label_method(method: str, mode: str = "network") -> str:
    """A method in a figure: our own names as they are; others made safe to draw."""
    safe = method if method in registry.METHODS else palette.label(method, 24)
    return name_method({"method": safe, "mode": mode}) + " (sees the trigger)" * registry.sees_trigger(method)


@palette.style()
def plot_seconds(rows: Iterable[SweepRow]) -> Figure | None:
    """Mean seconds a run: in all on a logarithmic axis, and how the stages divide them; None where none were timed."""
    timed = [summary for summary in summarise(rows, ("mode", "method")) if summary.total]
    timed.sort(key=lambda each: registry.order(str(each.keys["method"])))
    if not timed:
        return None
    figure = palette.new_figure(1.05 + 0.3 * len(timed))
    total, split = figure.subplots(1, 2, sharey=True, width_ratios=[1, 1.25])
    totals = np.asarray([summary.total for summary in timed])
    places = range(len(timed))
    floor = 10 ** np.floor(np.log10(totals.min()) - 0.3)
    bars = total.barh(places, totals - floor, left=floor, color=palette.QUIET, height=0.62)
    total.bar_label(bars, labels=[show_seconds(each) for each in totals], padding=4)
    total.set_xscale("log")
    total.set_xlim(floor, totals.max() * (totals.max() / floor) ** 0.28)
    total.set_xlabel("seconds, logarithmic")
    palette.plain_log_ticks(total.xaxis)
    stages = list(dict.fromkeys(stage for summary in timed for stage in summary.seconds))
    for place, summary in enumerate(timed):
        end = 0.0
        for stage, spent in summary.seconds.items():
            split.barh(place, spent / totals[place], left=end, height=0.62, **palette.stage_look(stages.index(stage)))
            end += spent / totals[place]
    split.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    split.set_xlim(0, 1)
    split.set_xlabel("share of the time")
    names = [label_method(str(each.keys["method"]), str(each.keys["mode"])) for each in timed]
    total.set_yticks(places, names)
    total.set_ylim(len(timed) - 0.4, -0.6)
    for ax in (total, split):
        ax.grid(visible=False, axis="y")
        ax.tick_params(axis="y", length=0)
    handles = [Patch(**palette.stage_look(i), label=palette.label(stage, 24)) for i, stage in enumerate(stages)]
    columns = palette.legend_columns([str(handle.get_label()) for handle in handles], 6)
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, handlelength=1.1, handleheight=1.1)
    return figure
