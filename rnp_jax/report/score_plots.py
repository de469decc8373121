"""Figures of filter scores: how they spread, and which filters of each layer stand out."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from rnp_jax.report import palette
from rnp_jax.report.drawing import Axes, Figure, Line2D
from rnp_jax.report.values import Marks, Values

BINS = 40
GOLDEN = 0.618034  # multiples of it, modulo 1, spread evenly for any number of dots


@palette.style()
def plot_score_histogram(scores: Values, pruned: Marks, threshold: float | None) -> Figure:
    """Filters by score on logarithmic axes, pruned ones apart; zeros and infinities have bins of their own."""
    values, marks = np.concatenate(list(scores.values())), np.concatenate(list(pruned.values()))
    figure = palette.new_figure(3.0)
    ax = figure.subplots()
    low, high = _decades(values)
    places = _gutters(np.log10(np.where(values > 0, values, 1)), values, low, high, (high - low) / BINS)
    width = (high - low) / BINS
    edges = low + width * np.arange(-3, BINS + 4)
    cut, kept = (np.histogram(places[which], edges)[0] for which in (marks, ~marks))
    ax.bar(edges[:-1] + width * 0.28, cut, width * 0.42, color=palette.ASR, label=f"pruned ({cut.sum():,})")
    ax.bar(edges[:-1] + width * 0.7, kept, width * 0.42, color=palette.ACC, label=f"kept ({kept.sum():,})")
    palette.count_axis(ax, int(max(kept.max(), cut.max())))
    if threshold is not None and threshold > 0:
        ax.axvline(np.log10(threshold), color=palette.INK, linewidth=1, ls="--", label=f"threshold {threshold:.4g}")
    _label_decades(ax, values, low, high, width)
    ax.grid(visible=False, axis="x")
    ax.set_xlabel("score")
    ax.set_ylabel("filters")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


@palette.style()
def plot_scores_by_layer(scores: Values, pruned: Marks, thresholds: Mapping[str, float | None]) -> Figure:
    """One line a layer, one dot a filter, its score over the median of its layer on a logarithmic axis.

    Pruned filters are orange, a bar marks the layer's threshold. Only scores above 0 count for the median; zeros and
    infinities stand apart at either end.
    """
    medians = [_median(value) for value in scores.values()]
    relative = [value / median for value, median in zip(scores.values(), medians, strict=True)]
    low, high = _decades(np.concatenate(relative))
    height = 0.27 if len(scores) <= 24 else 0.185
    figure = palette.new_figure(0.95 + height * len(scores))
    ax = figure.subplots()
    gap = (high - low) / BINS
    size = 9 if sum(map(len, relative)) <= 2000 else 5
    for row, (value, mark, median) in enumerate(zip(relative, pruned.values(), medians, strict=True)):
        x = _gutters(np.log10(np.where(value > 0, value, 1)), value, low, high, gap)
        y = row + 0.66 * (np.arange(value.size) * GOLDEN % 1 - 0.5)
        look = {"linewidths": 0, "rasterized": True}
        ax.scatter(x[~mark], y[~mark], s=size, color=palette.ACC, alpha=0.5, **look)
        ax.scatter(x[mark], y[mark], s=size * 2, color=palette.ASR, **look)
        limit = thresholds.get(list(scores)[row])
        if limit is not None and limit > 0 and low <= np.log10(limit / median) <= high:
            ax.plot(2 * [np.log10(limit / median)], [row - 0.42, row + 0.42], color=palette.INK, linewidth=1.3)
    _label_decades(ax, np.concatenate(relative), low, high, gap)
    ax.axvline(0, color=palette.QUIET, linewidth=0.8, zorder=0)
    ax.set_xlabel("score / median score of its layer")
    _label_layers(ax, list(scores), [f"{mark.sum():,} / {mark.size:,}" for mark in pruned.values()])
    dot = {"linestyle": "none", "marker": "o", "markersize": 5}
    handles = [
        Line2D([], [], color=palette.ASR, label="pruned", **dot),
        Line2D([], [], color=palette.ACC, label="kept", **dot),
    ]
    if any(limit is not None for limit in thresholds.values()):
        handles.append(Line2D([], [], color=palette.INK, ls="none", marker="|", ms=9, label="threshold of its layer"))
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    figure.legend(
        handles=[Line2D([], [], alpha=0, label="pruned / filters")], loc="outside upper right", handlelength=0
    )
    return figure


def _label_layers(ax: Axes, layers: list[str], counts: list[str]) -> None:
    size = 8.0 if len(layers) <= 30 else 7.0
    rows = range(len(layers))
    ax.set_yticks(rows, [palette.label(layer, 30) for layer in layers], fontsize=size)
    ax.set_ylim(len(layers) - 0.5, -0.5)
    right = ax.twinx()
    right.set_ylim(ax.get_ylim())
    right.set_yticks(rows, counts, fontsize=size)
    for side in (ax, right):
        side.grid(visible=False, axis="y")
        side.tick_params(axis="y", length=0)
        side.spines[["left", "right"]].set_visible(False)


def _median(scores: Float[np.ndarray, "F"]) -> float:
    """Of the scores that are neither 0 nor infinite; 1 where there is none."""
    usable = scores[(scores > 0) & np.isfinite(scores)]
    return float(np.median(usable)) if usable.size else 1.0


def _decades(values: Float[np.ndarray, "F"]) -> tuple[float, float]:
    """Powers of ten that hold every value but 0 and infinity, with a little room; a decade at least."""
    usable = values[(values > 0) & np.isfinite(values)]
    if not usable.size:
        return -1.0, 1.0
    logs = np.log10(usable.astype(np.float64))
    middle, half = (logs.min() + logs.max()) / 2, max(float(np.ptp(logs)) * 0.52, 0.5)
    return float(middle - half), float(middle + half)


def _gutters(
    logs: Float[np.ndarray, "F"], values: Float[np.ndarray, "F"], low: float, high: float, width: float
) -> Float[np.ndarray, "F"]:
    """The logarithms, with zeros two and a half bins below the axis and infinities as far above it."""
    placed = np.where(values > 0, logs, low - 2.5 * width)
    return np.where(np.isinf(values), high + 2.5 * width, placed)


def _label_decades(ax: Axes, values: Float[np.ndarray, "F"], low: float, high: float, width: float) -> None:
    """Ticks at 1, 2 and 5 of each decade, or at whole decades where there are many; gutters named where used."""
    leads = (1, 2, 5) if high - low <= 3 else (1,)
    every = max(1, int(high - low) // 10 + 1)
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    ticks = {np.log10(lead) + d: f"{lead * 10.0**d:g}" for d in decades if d % every == 0 for lead in leads}
    ticks = {place: name for place, name in ticks.items() if low <= place <= high}
    left, right = (3.5 * width * present.any() for present in (values == 0, np.isinf(values)))
    if left:
        ticks[low - 2.5 * width] = "0"
    if right:
        ticks[high + 2.5 * width] = "\N{INFINITY}"
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set_xlim(low - left, high + right)
