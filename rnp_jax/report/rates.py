"""How a defense fares as fewer or more training images are poisoned."""

import re
from collections.abc import Iterable

import numpy as np

from rnp_jax.defenses import registry
from rnp_jax.errors import ResultError
from rnp_jax.report import palette
from rnp_jax.report.comparison import Summary, summarise
from rnp_jax.report.comparison_plots import label_method
from rnp_jax.report.drawing import Axes, Figure, Line2D
from rnp_jax.report.sweep_row import SweepRow

COLUMNS = 4
MAX_FIGURES = 6
"""More attacks than these are in the tables but not drawn."""

_CURVES = {"acc": ("ACC", palette.ACC, "o"), "asr": ("ASR", palette.ASR, "s"), "ra": ("RA", palette.RA, "^")}


def find_several_rates(rows: Iterable[SweepRow]) -> dict[str, list[SweepRow]]:
    """The rows by attack, of attacks that were run at two poison rates or more."""
    by_attack: dict[str, list[SweepRow]] = {}
    for row in rows:
        if row.poison_rate is not None:
            by_attack.setdefault(row.attack, []).append(row)
    return {attack: each for attack, each in by_attack.items() if len({row.poison_rate for row in each}) > 1}


def plot_all_rates(rows: Iterable[SweepRow]) -> dict[str, Figure]:
    """A figure for each attack at several rates, the first `MAX_FIGURES` of them, named ``rates_1_badnets``."""
    several = list(find_several_rates(rows).items())[:MAX_FIGURES]
    names = [re.sub(r"[^a-z0-9]+", "_", attack.lower()).strip("_")[:40] for attack, _ in several]
    return {
        f"rates_{i}_{name}".rstrip("_"): plot_rates(each)
        for i, (name, (_, each)) in enumerate(zip(names, several, strict=True), 1)
    }


@palette.style()
def plot_rates(rows: Iterable[SweepRow]) -> Figure:
    """ACC, ASR and RA against the poison rate of one attack, one panel a method; bars are 95 % intervals.

    The axis is logarithmic; a rate of 0 (no poison) stands apart at its left.

    Raises:
      ResultError: the rows are of several attacks, or none has a poison rate.
    """
    rows = [row for row in rows if row.poison_rate is not None]
    attacks = sorted({row.attack for row in rows})
    if len(attacks) != 1:
        raise ResultError(f"a figure of poison rates shows one attack; these rows have {', '.join(attacks) or 'none'}.")
    panels: dict[tuple[str, str], list[Summary]] = {}
    for summary in summarise(rows, ("mode", "method", "poison_rate")):
        panels.setdefault((str(summary.keys["method"]), str(summary.keys["mode"])), []).append(summary)
    ordered = sorted(panels, key=lambda panel: (registry.order(panel[0]), panel[1] == "head"))
    columns = min(COLUMNS, len(ordered))
    lines = -(-len(ordered) // columns)
    figure = palette.new_figure(0.8 + 2.15 * lines)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    rates = sorted({row.poison_rate for row in rows if row.poison_rate is not None})
    for ax, panel in zip(grid.flat, ordered, strict=False):
        _draw_curves(ax, panels[panel], rates)
        ax.set_title(label_method(*panel).replace(" (", "\n("), fontsize=9)
        ax.tick_params(labelbottom=True, labelsize=7.5)
    for ax in grid.flat[len(ordered) :]:
        ax.set_axis_off()
    palette.percent_axis(grid[0, 0])
    _label_rates(grid[0, 0], rates)
    figure.supxlabel("share of training images that are poisoned", fontsize=9)
    handles = [Line2D([], [], color=color, marker=marker, label=name) for name, color, marker in _CURVES.values()]
    title = figure.legend(handles=handles, loc="outside upper left", ncols=3, title=palette.label(attacks[0]))
    title.set_alignment("left")
    return figure


def _draw_curves(ax: Axes, summaries: list[Summary], rates: list[float]) -> None:
    for field, (_, color, marker) in _CURVES.items():
        points = [(_place(summary.keys["poison_rate"], rates), getattr(summary, field)) for summary in summaries]
        known = [(x, share) for x, share in points if share is not None]
        if known:
            x, values = [x for x, _ in known], np.asarray([share.value for _, share in known])
            low, high = ([getattr(s, e) for _, s in known] for e in ("low", "high"))
            errors = np.asarray([values - np.asarray(low), np.asarray(high) - values]).clip(0)
            ax.errorbar(x, values, yerr=errors, color=color, marker=marker, elinewidth=1, clip_on=False)


def _place(rate: object, rates: list[float]) -> float:
    """Of a rate on the axis: its logarithm; for 0, half a decade below the smallest."""
    positive = [each for each in rates if each > 0]
    if rate:
        return float(np.log10(float(str(rate))))
    return float(np.log10(min(positive))) - 0.5 if positive else 0.0


def _label_rates(ax: Axes, rates: list[float]) -> None:
    """A tick at every rate, those too close to the one before unlabelled."""
    places = [_place(rate, rates) for rate in rates]
    span, last, names = max(places[-1] - places[0], 0.5), -np.inf, []
    for rate, place in zip(rates, places, strict=True):
        roomy = place - last >= 0.13 * span
        names.append(f"{100 * rate:.3g}%" if roomy else "")
        last = place if roomy else last
    ax.set_xticks(places, names, fontsize=7.5)
    ax.set_xlim(places[0] - 0.07 * span, places[-1] + 0.07 * span)
