"""Figures of attempts to bring a backdoor back: ASR by budget, and the straight way to the backdoored network."""

from collections.abc import Sequence

import numpy as np

from rnp_jax.evaluation.metrics import Proportion
from rnp_jax.reactivation import Attempt, Curve
from rnp_jax.report import palette
from rnp_jax.report.drawing import Axes, Figure, MaxNLocator

CAPTIONS = {
    "budget": (
        "ASR by budget",
        (
            "How often the trigger works while the network is retuned, and after retuning with more triggered images. "
            "The clean reference, retuned in the same way, is the floor; bars are 95 % intervals."
        ),
    ),
    "path": (
        "The straight way to the backdoored network",
        (
            "The weights go from the network (0) to the backdoored original (1), the statistics of batch norm "
            "estimated anew at each point. A hill in the backdoor's loss is a barrier; without one, the defense was "
            "shallow. Bands are 95 % intervals."
        ),
    ),
}
"""Heading and caption of each figure, in the order of the page."""

_COLORS = {"purified": palette.ASR, "reference": palette.ACC}


def plot_attempts(attempts: Sequence[Attempt], original: Proportion | None = None) -> dict[str, Figure]:
    """The figures that the attempts have curves for, by name.

    Args:
      attempts: with their curves.
      original: ASR of the backdoored network before any attempt, where it is known.
    """
    curves: dict[str, list[Curve]] = {}
    for curve in (curve for attempt in attempts for curve in attempt.curves):
        curves.setdefault(curve.figure, []).append(curve)
    figures = {}
    if {"epochs", "images"} <= set(curves):
        figures["budget"] = _plot_budget(curves["epochs"], curves["images"], original)
    if {"path", "barrier"} <= set(curves):
        figures["path"] = _plot_path(curves["path"], curves["barrier"])
    return figures


@palette.style()
def _plot_budget(epochs: Sequence[Curve], images: Sequence[Curve], original: Proportion | None) -> Figure:
    figure = palette.new_figure(3.6)
    left, right = figure.subplots(1, 2, sharey=True)
    for curve in epochs:
        without = ", 0 " in curve.name
        _draw(left, curve, _color(curve.name), linestyle=":" if without else "-", marker="o")
    for curve in images:
        _draw(right, curve, _color(curve.name), marker="o")
    for ax in (left, right):
        palette.percent_axis(ax)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if original is not None:
            label = "backdoored original, untouched" if ax is left else None
            ax.axhline(original.value, color=palette.QUIET, linewidth=1, linestyle="--", label=label)
    left.set_title("ASR while it is retuned")
    left.set_xlabel("epoch")
    right.set_title("ASR after retuning")
    right.set_xlabel("triggered images among the attacker's")
    figure.legend(handles=left.get_legend_handles_labels()[0], loc="outside lower center", ncols=2)
    return figure


@palette.style()
def _plot_path(shares: Sequence[Curve], losses: Sequence[Curve]) -> Figure:
    figure = palette.new_figure(3.6)
    left, right = figure.subplots(1, 2)
    for curve in shares:
        kind, _, name = curve.name.partition(", ")
        _draw(left, curve, _color(name), linestyle="-" if kind == "ASR" else ":")
    for curve in losses:
        _draw(right, curve, _color(curve.name))
    palette.percent_axis(left)
    left.set_title("ASR and ACC")
    right.set_title("Loss of the backdoor")
    right.set_ylim(bottom=0)
    for ax in (left, right):
        ax.set_xlabel("way from the network (0) to the backdoored original (1)")
        ax.set_xlim(0, 1)
    figure.legend(handles=left.get_legend_handles_labels()[0], loc="outside lower center", ncols=4)
    return figure


def _draw(ax: Axes, curve: Curve, color: str, linestyle: str = "-", marker: str = "") -> None:
    x, y = np.asarray(curve.x), np.asarray([np.nan if value is None else value for value in curve.y])
    ax.plot(x, y, color=color, linestyle=linestyle, marker=marker, label=palette.label(curve.name, 60), clip_on=False)
    if not curve.low:
        return
    low, high = (np.asarray(ends, float) for ends in (curve.low, curve.high))
    if marker:
        errors = np.stack([y - low, high - y]).clip(0)
        ax.errorbar(x, y, yerr=errors, color=color, elinewidth=1, fmt="none", clip_on=False)
    else:
        ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def _color(name: str) -> str:
    return _COLORS.get(name.partition(",")[0], palette.QUIET)
