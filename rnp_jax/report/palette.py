"""Colours and type of the figures: the Okabe-Ito palette, told apart under every common colour blindness.

A colour always means the same thing (`ACC` is blue in every figure that draws metrics); line styles tell rankings
apart. Where the axes are the metrics, colours and markers together tell methods.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from rnp_jax.defenses import METHODS
from rnp_jax.defenses.method import Marker
from rnp_jax.report.drawing import Axes, Axis, Figure, FuncFormatter, MaxNLocator, PercentFormatter, style_context
from rnp_jax.untrusted_text import spell_hidden

INK = "#1f2933"
QUIET = "#69737d"
GRID = "#e3e7eb"
PAPER = "#ffffff"

ACC = "#0072b2"
ASR = "#d55e00"
RA = "#009e73"
HOLDOUT = "#7b5ea7"
SERIES = ("#0072b2", "#cc79a7", "#009e73", "#e69f00")

_OTHERS: tuple[tuple[str, Marker], ...] = (
    ("#5b7f1d", (9, 1, 0)),
    ("#8e44ad", (10, 1, 0)),
    ("#00735c", (5, 0, 180)),
    ("#a04000", (7, 0, 0)),
    ("#345995", (9, 0, 0)),
    ("#7a5c61", (3, 1, 60)),
    ("#9a6324", (4, 1, 22)),
    ("#006d77", (5, 1, 36)),
)
_STAGES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#8c510a")
_HATCHES = (None, "///", "...", "xx")

LINE_STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)))

WIDTH = 9.0  # inches: 864 CSS pixels in the page

_LINE = 112  # letters of a legend that a figure's width has room for
_HANDLE = 5  # letters' room that an entry's mark and its distances take

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so a figure looks the same everywhere
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # a layer may be called "$x"
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.0,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "figure.facecolor": PAPER,
    "svg.hashsalt": "rnp_jax",  # equal figures give equal files
    "svg.fonttype": "path",
}


@contextmanager
def style() -> Iterator[None]:
    """Figures made and saved inside, or by a function it decorates, have this project's look; others keep theirs."""
    with style_context(["default", _STYLE]):
        yield


def new_figure(height: float) -> Figure:
    """An empty figure of the page's width and ``height`` inches that lays itself out."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def label(text: str, length: int = 40) -> str:
    """Untrusted text for a figure: spelled out where the font cannot draw it, cut in the middle where long."""
    plain = spell_hidden(text).encode("ascii", "backslashreplace").decode().replace("\n", "\\n")
    half = (length - 3) // 2
    return plain if len(plain) <= length else f"{plain[:half]}...{plain[-half:]}"


def method_looks(methods: Iterable[str]) -> dict[str, tuple[str, Marker]]:
    """Colour and marker of each method, as its record has them; unknown ones share out by name what no record has."""
    names, taken = set(methods), {method.marker for method in METHODS.values()}
    own = {name: (METHODS[name].colour, METHODS[name].marker) for name in names & set(METHODS)}
    free = [look for look in _OTHERS if look[1] not in taken]
    return own | {name: free[i % len(free)] for i, name in enumerate(sorted(names - set(METHODS)))}


def legend_columns(labels: Sequence[str], most: int = 9) -> int:
    """Into how many columns a legend across the figure fits, at most ``most``; one more than that would be cut off."""
    for columns in range(min(most, len(labels)), 1, -1):
        widths = [max(map(len, column)) + _HANDLE for column in np.array_split(np.asarray(labels, object), columns)]
        if sum(widths) <= _LINE:
            return columns
    return 1


def stage_look(i: int) -> dict[str, Any]:
    """Face colour and hatch of the i-th stage."""
    hatch = _HATCHES[i // len(_STAGES) % len(_HATCHES)]
    return {"facecolor": _STAGES[i % len(_STAGES)], "hatch": hatch, "edgecolor": PAPER, "linewidth": 0.8}


def percent_axis(ax: Axes) -> None:
    """The vertical axis shows shares from 0 to 100 %."""
    ax.set_ylim(-0.02, 1.02)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def narrow_percent_axis(ax: Axes) -> None:
    """The horizontal axis shows the shares that were drawn, in whole percents, over 5 of them or more."""
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, high - 0.05), high)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))


def log_axis(ax: Axes) -> None:
    """The vertical axis is logarithmic, its ticks plain numbers."""
    ax.set_yscale("log")
    plain_log_ticks(ax.yaxis)


def plain_log_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis as plain numbers, the small ones unlabelled."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def count_axis(ax: Axes, largest: int) -> None:
    """The vertical axis shows counts: linear up to 1, then logarithmic, so that 0 and 1 are told apart."""
    ax.set_yscale("symlog", linthresh=1)
    ticks = [0, *(10**power for power in range(len(str(max(largest, 1)))))]
    ax.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.set_yticks([], minor=True)
    ax.set_ylim(0, max(largest, 1) * 3)
