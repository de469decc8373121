"""The figure of a calibration: every known model's score, the threshold, and the ROC curve of those held out."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from rnp_jax.errors import ResultError
from rnp_jax.report import palette
from rnp_jax.report.drawing import Axes, Figure, Line2D, PercentFormatter


class KnownScore(NamedTuple):
    """The score of a model labelled clean or backdoored; ``attack`` is None for a clean one."""

    name: str
    attack: str | None
    score: float
    role: Literal["calibration", "held-out", "weak"]


CLEAN, BACKDOORED = palette.ACC, palette.ASR


@palette.style()
def plot_calibration(
    scores: list[KnownScore], threshold: float, clean_below: float, mark: float | None = None
) -> Figure:
    """Every model's score in a row a kind, filled where it chose the threshold; the ROC of the models held out.

    ``mark`` is the score of a model whose truth is not known; it is in view, wherever it lies.

    Raises:
      ResultError: the models held out are not of both kinds.
    """
    low, high = (
        np.asarray([each.score for each in scores if each.role == "held-out" and bool(each.attack) == kind])
        for kind in (False, True)
    )
    if not len(low) or not len(high):
        raise ResultError(f"{len(low)} clean and {len(high)} backdoored models held out: expected some of each")
    kinds = sorted({each.attack or "" for each in scores})
    figure = palette.new_figure(1.5 + 0.24 * len(kinds))
    rows, roc = figure.subplots(1, 2, width_ratios=[1.7, 1])
    _draw_scores(rows, scores, kinds)
    shown = [each.score for each in scores] + [threshold, clean_below] + ([] if mark is None else [mark])
    room = 0.04 * max(max(shown) - min(shown), 0.1)
    rows.set_xlim(min(0.0, min(shown) - room), max(1.0, max(shown) + room))
    rows.axvspan(min(clean_below, threshold), threshold, color=palette.GRID, zorder=0)
    rows.axvline(threshold, color=palette.INK, linewidth=1.2)
    _name_line(rows, "threshold", threshold, palette.INK, right=mark is None or threshold >= mark)
    if mark is not None:
        rows.axvline(mark, color=palette.HOLDOUT, linewidth=2, ls="--")
        _name_line(rows, f"this model: {mark:.2f}", mark, palette.HOLDOUT, right=mark > threshold)
    _draw_roc(roc, low, high, threshold)
    handles = [
        Line2D([], [], ls="none", marker="o", color=palette.QUIET, label="chose the threshold"),
        Line2D([], [], ls="none", marker="o", color=palette.QUIET, mfc=palette.PAPER, label="held out"),
        Line2D([], [], ls="none", marker="x", color=palette.QUIET, label="backdoor hardly works"),
        Line2D([], [], lw=7, color=palette.GRID, label="neither"),
    ]
    if mark is not None:
        handles.append(Line2D([], [], color=palette.HOLDOUT, lw=2, ls="--", label="this model"))
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), columnspacing=1.4)
    return figure


def _name_line(ax: Axes, name: str, place: float, color: str, *, right: bool) -> None:
    """The name of a vertical line, above the axes and away from the middle of what is drawn."""
    low, high = ax.get_xlim()
    share = (place - low) / (high - low)
    right = right if 0.3 < share < 0.7 else share <= 0.3
    offset, side = ((3, 3), "left") if right else ((-3, 3), "right")
    ax.annotate(
        name, (place, 1), offset, xycoords=("data", "axes fraction"), textcoords="offset points", ha=side, color=color,
        fontsize=8.5,
    )  # fmt: skip


def _draw_scores(ax: Axes, scores: list[KnownScore], kinds: list[str]) -> None:
    for each in scores:
        color = BACKDOORED if each.attack else CLEAN
        face = palette.PAPER if each.role == "held-out" else color
        marker = "x" if each.role == "weak" else "o"
        place = kinds.index(each.attack or "")
        ax.plot(each.score, place, marker, color=color, markerfacecolor=face, markersize=6, clip_on=False, zorder=3)
    ax.set_yticks(range(len(kinds)), [palette.label(kind, 24) or "clean" for kind in kinds])
    ax.set_ylim(len(kinds) - 0.5, -0.5)
    ax.set_xlabel("score")
    ax.tick_params(axis="y", length=0)


def _draw_roc(ax: Axes, low: Float[np.ndarray, "n"], high: Float[np.ndarray, "m"], threshold: float) -> None:
    cuts = np.concatenate([[np.inf], np.sort(np.concatenate([low, high]))[::-1], [-np.inf]])
    ax.plot(*((values[None] >= cuts[:, None]).mean(1) for values in (low, high)), color=palette.HOLDOUT, clip_on=False)
    ax.plot((low > threshold).mean(), (high > threshold).mean(), "o", color=palette.INK, clip_on=False, zorder=3)
    ax.plot([0, 1], [0, 1], color=palette.QUIET, linewidth=0.8, linestyle=":")
    ax.set_title("ROC of the models held out")
    ax.set_xlabel("clean models called backdoored")
    ax.set_ylabel("backdoored models detected")
    ax.set_xlim(-0.01, 1.01)
    palette.percent_axis(ax)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
