"""Figures of a sweep: of its means, and attack success against accuracy, a point an item, before and after."""

from collections.abc import Sequence

import numpy as np

from rnp_jax.defenses import registry
from rnp_jax.report import palette
from rnp_jax.report.comparison_plots import label_method, plot_outcomes, plot_seconds
from rnp_jax.report.drawing import Figure, Line2D
from rnp_jax.report.leaderboard_matrix import list_results
from rnp_jax.report.rates import plot_all_rates
from rnp_jax.report.sweep_row import SweepRow

MAX_PANELS = 12
"""More methods than these are in the tables but not drawn."""

MAX_VECTORS = 500
"""More points than these are drawn as pixels, so that the figure stays small."""


def plot_leaderboard(rows: Sequence[SweepRow]) -> dict[str, Figure]:
    """The figures that the rows have the data for, by name, in the page's order."""
    results = list_results(rows)
    figures = {"outcomes": plot_outcomes(results), "items": plot_items(rows), **plot_all_rates(results)}
    figures["seconds"] = plot_seconds(row for row in rows if row.status == "ok")
    return {name: figure for name, figure in figures.items() if figure is not None}


@palette.style()
def plot_items(rows: Sequence[SweepRow]) -> Figure | None:
    """ASR against ACC, a panel a method; grey crosses are the checkpoints as they came. None where none has both."""
    shown = [row for row in rows if row.status == "ok" and row.acc and row.asr]
    panels: dict[tuple[bool, tuple, str], list[SweepRow]] = {}
    for row in shown:
        panels.setdefault((row.mode == "head", registry.order(row.method), row.method), []).append(row)
    if not panels:
        return None
    keys = sorted(panels)[:MAX_PANELS]
    columns = 2 if len(keys) in (2, 4) else min(3, len(keys))
    lines = -(-len(keys) // columns)
    figure = palette.new_figure(0.7 + (2.6 if columns > 1 else 3.8) * lines)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    looks = palette.method_looks([method for _, _, method in keys])
    pixels = len(shown) > MAX_VECTORS
    for ax, key in zip(grid.flat, keys, strict=False):
        head, _, method = key
        color, marker = looks[method]
        _draw(ax, panels[key], "_before", c=palette.QUIET, marker="x", alpha=0.45, zorder=2, rasterized=pixels)
        face = "none" if head else color
        _draw(
            ax,
            panels[key],
            "",
            edgecolors=color,
            facecolors=face,
            marker=marker,
            alpha=0.7,
            zorder=3,
            rasterized=pixels,
        )
        ax.set_title(label_method(method, "head" if head else "network"))
        palette.percent_axis(ax)
        ax.tick_params(labelbottom=True)
    for ax in grid.flat[len(keys) :]:
        ax.set_axis_off()
    palette.narrow_percent_axis(grid[0, 0])
    for ax in grid.flat[max(0, len(keys) - columns) : len(keys)]:  # the lowest of each column
        ax.set_xlabel("ACC")
    for ax in grid[:, 0]:
        ax.set_ylabel("ASR")
    before = Line2D([], [], color=palette.QUIET, marker="x", ls="none", label="before the method")
    after = Line2D([], [], color=palette.INK, marker="o", ls="none", label="after the method, in its colour and marker")
    figure.legend(handles=[before, after], loc="outside upper left", ncols=2, handletextpad=0.1)
    return figure


def _draw(ax, rows: Sequence[SweepRow], suffix: str, **look) -> None:
    pairs = [(getattr(row, f"acc{suffix}"), getattr(row, f"asr{suffix}")) for row in rows]
    points = np.asarray([(acc.value, asr.value) for acc, asr in pairs if acc and asr]).reshape(-1, 2)
    ax.scatter(points[:, 0], points[:, 1], s=22, linewidths=0.9, clip_on=False, **look)
