"""Figures over a threshold, a number of pruned filters, or an epoch."""

import math
from collections.abc import Sequence
from itertools import cycle
from typing import Literal

import numpy as np

from rnp_jax.defenses.result import Kind
from rnp_jax.report import palette
from rnp_jax.report.drawing import Axes, Figure, Line2D, MaxNLocator
from rnp_jax.report.schema import Choice, Oracle, Phase, Sweep, SweepPoint

LOSSES = ("loss",)
SHARES = ("acc", "accuracy", "asr", "ra", "share")
MAX_PHASES = 12
"""More histories than these are kept in the result but not drawn."""
LOG_RANGE = 30.0
"""A loss whose largest value is this many times its smallest is drawn on a logarithmic axis."""

_METRICS = {
    "asr": ("ASR", palette.ASR),
    "acc": ("ACC", palette.ACC),
    "ra": ("RA", palette.RA),
    "holdout_acc": ("ACC on held-out defense images", palette.HOLDOUT),
}

_THRESHOLD = {
    "mask": "threshold: filters with a mask at or below it are pruned",
    "score": "threshold: filters with a score above it are pruned",
    "weights": "threshold",
    "bounds": "threshold",
}

Over = Literal["threshold", "pruned"]


def find_used(sweeps: Sequence[Sweep], choice: Choice | None) -> Sweep | None:
    """The sweep of the ranking that the filters were chosen from; the first one where none is named; None of none."""
    named = (sweep for sweep in sweeps if choice is not None and sweep.ranking == choice.ranking)
    return next(named, next(iter(sweeps), None))


def knows_more(sweeps: Sequence[Sweep]) -> bool:
    """Whether there is more to draw than one ranking against the number of filters."""
    return len(sweeps) > 1 or any(point.threshold is not None for sweep in sweeps for point in sweep.points)


@palette.style()
def plot_ranking(sweep: Sweep, choice: Choice | None, oracle: Oracle | None) -> Figure:
    """ASR, ACC and RA as more filters are pruned in the order of one ranking, which fills the figure.

    One colour a metric, a band for its 95 % interval. A filled triangle marks the chosen point and an open one the
    oracle's, where they are points of this ranking.
    """
    figure = palette.new_figure(3.6)
    ax = figure.subplots()
    drawn = _draw_sweep(ax, sweep, "pruned", "-")
    choice = choice if choice is not None and choice.ranking == sweep.ranking else None
    oracle = oracle if oracle is not None and oracle.ranking == sweep.ranking else None
    _mark(ax, "pruned", choice, palette.INK, "full")
    _mark(ax, "pruned", oracle, palette.QUIET, "none")
    palette.percent_axis(ax)
    ax.margins(x=0.015)
    ax.set_xlabel("filters pruned")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    ax.set_ylabel("share of images")
    figure.legend(handles=_legend([], drawn, choice, oracle), loc="outside upper left", ncols=6)
    return figure


@palette.style()
def plot_sweeps(
    sweeps: Sequence[Sweep],
    choice: Choice | None,
    oracle: Oracle | None,
    kind: Kind = "mask",
) -> Figure:
    """ASR, ACC and RA of every ranking, against the threshold and against the number of filters pruned.

    One colour a metric, one line style a ranking, a band for the 95 % interval. Filled triangles mark the chosen point,
    open ones the oracle's. The left panel is left out where no point has a threshold.
    """
    has_threshold = any(point.threshold is not None for sweep in sweeps for point in sweep.points)
    panels: list[Over] = ["threshold", "pruned"] if has_threshold else ["pruned"]
    figure = palette.new_figure(4.1)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    drawn: set[str] = set()
    for ax, over in zip(axes, panels, strict=True):
        for sweep, line_style in zip(sweeps, _line_styles(len(sweeps)), strict=True):
            drawn |= _draw_sweep(ax, sweep, over, line_style)
        _mark(ax, over, choice, palette.INK, "full")
        _mark(ax, over, oracle, palette.QUIET, "none")
        palette.percent_axis(ax)
        ax.set_xlabel(_THRESHOLD[kind] if over == "threshold" else "")
    axes[-1].set_xlabel("filters pruned")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes[0].set_ylabel("share of images")
    figure.legend(handles=_legend(sweeps, drawn, choice, oracle), loc="outside upper left", ncols=4)
    return figure


def _line_styles(n: int) -> list:
    return [palette.LINE_STYLES[i % len(palette.LINE_STYLES)] for i in range(n)]


def _draw_sweep(ax: Axes, sweep: Sweep, over: Over, line_style) -> set[str]:
    """Draw each metric that the sweep knows; returns their field names."""
    drawn = set()
    for field, (_, color) in _METRICS.items():
        points = sorted(
            (x, share.value, share.low, share.high)
            for point in sweep.points
            if (x := _position(point, over)) is not None and (share := getattr(point, field)) is not None
        )
        if points:
            x, value, low, high = np.asarray(points).T
            ax.fill_between(x, low, high, color=color, alpha=0.13, linewidth=0)
            marker = "o" if len(points) <= 25 else ""
            ax.plot(x, value, color=color, linestyle=line_style, marker=marker, markersize=3)
            drawn.add(field)
    return drawn


def _position(point: SweepPoint | Choice | Oracle, over: Over) -> float | None:
    return point.threshold if over == "threshold" else point.pruned


def _mark(ax: Axes, over: Over, point: Choice | Oracle | None, color: str, fill: Literal["full", "none"]) -> None:
    x = None if point is None else _position(point, over)
    if x is not None:
        ax.axvline(x, color=color, linewidth=1, linestyle="-" if fill == "full" else ":", zorder=1)
        marker = {"marker": "v", "fillstyle": fill, "markersize": 8, "clip_on": False}
        ax.plot([x], [1.05], color=color, transform=ax.get_xaxis_transform(), **marker)


def _legend(sweeps: Sequence[Sweep], drawn: set[str], choice: Choice | None, oracle: Oracle | None) -> list[Line2D]:
    handles = [Line2D([], [], color=color, label=name) for field, (name, color) in _METRICS.items() if field in drawn]
    for sweep, line_style in zip(sweeps, _line_styles(len(sweeps)), strict=True):
        name = palette.label(f"ranking: {sweep.ranking}")
        handles.append(Line2D([], [], color=palette.QUIET, linestyle=line_style, label=name))
    triangle = {"linestyle": "none", "marker": "v", "markersize": 7}
    if choice is not None:
        handles.append(Line2D([], [], color=palette.INK, label="chosen from clean data", **triangle))
    if oracle is not None:
        handles.append(Line2D([], [], color=palette.QUIET, fillstyle="none", label="oracle: best by ASR", **triangle))
    return handles


@palette.style()
def plot_phases(phases: Sequence[Phase]) -> Figure:
    """Loss and accuracy at every epoch, one row for each of the first `MAX_PHASES` phases.

    A loss that explodes is drawn on a logarithmic axis. The last word of a series' name says what it is: ``train_loss``
    is a loss; ``acc``, ``accuracy``, ``asr``, ``ra`` and ``share`` shares of images; others (a rate) are not drawn.
    """
    phases = phases[:MAX_PHASES]
    figure = palette.new_figure(0.3 + 2.5 * len(phases))
    axes = figure.subplots(len(phases), 2, squeeze=False)
    for (left, right), phase in zip(axes, phases, strict=True):
        _draw_history(left, phase, LOSSES)
        _draw_history(right, phase, SHARES)
        left.set_title(palette.label(f"{phase.name}: loss"))
        right.set_title(palette.label(f"{phase.name}: accuracy"))
        _scale_loss(left)
        palette.percent_axis(right)
    return figure


def _draw_history(ax: Axes, phase: Phase, kinds: tuple[str, ...]) -> None:
    others = cycle(palette.SERIES)
    for name, series in phase.series.items():
        kind = name.rsplit("_", 1)[-1]
        if kind in kinds:
            values = np.asarray([math.nan if value is None else value for value in series])
            color = palette.ASR if kind == "asr" else next(others)
            marker = "o" if len(values) <= 60 else ""
            ax.plot(np.arange(1, len(values) + 1), values, color=color, marker=marker, label=_series_label(name))
    epochs = max((len(series) for series in phase.series.values()), default=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if epochs <= 1:
        ax.set_xlim(0.5, 1.5)
        ax.set_xticks([1])
    ax.set_xlabel("epoch")
    if ax.lines:
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderpad=0, handlelength=1.2, columnspacing=1)
    else:
        ax.text(0.5, 0.5, "not recorded", ha="center", va="center", color=palette.QUIET, transform=ax.transAxes)


def _series_label(name: str) -> str:
    """``train`` for ``train_loss``: the panel's title says the rest."""
    words = name.replace("_", " ")
    for said in (" loss", " accuracy", " acc"):
        words = words.removesuffix(said)
    return palette.label(words.upper() if words in ("asr", "ra") else words, 24)


def _scale_loss(ax: Axes) -> None:
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.lines] or [np.zeros(0)])
    positive = values[np.isfinite(values) & (values > 0)]
    if positive.size and positive.size == np.isfinite(values).sum() and positive.max() > LOG_RANGE * positive.min():
        palette.log_axis(ax)
