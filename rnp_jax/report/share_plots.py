"""Figure of where a model's predictions go while it unlearns."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from rnp_jax.errors import ResultError
from rnp_jax.report import palette
from rnp_jax.report.drawing import Figure, MaxNLocator


@palette.style()
def plot_shares(shares: Mapping[str, Float[np.ndarray, "E K"]], label: int, names: Sequence[str]) -> Figure:
    """Share of each of K labels among the predictions after each of E epochs, a panel a mode; one label stands out.

    Raises:
      ResultError: no shares, values outside [0, 1], or another number of names than of labels.
    """
    rows = [np.asarray(each, np.float64) for each in shares.values()]
    fits = rows and all(row.ndim == 2 and row.shape[1] == len(names) and row.size for row in rows)
    if not fits or any(row.min() < 0 or row.max() > 1 + 1e-6 for row in rows) or not 0 <= label < len(names):
        raise ResultError(
            f"shares of shape {[row.shape for row in rows]} for {len(names)} labels and label {label}: expected "
            "[E, K] in [0, 1], one or more, and one of the labels"
        )
    figure = palette.new_figure(3.0)
    axes = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
    for ax, (mode, row) in zip(axes, zip(shares, rows, strict=True), strict=True):
        epochs = np.arange(1, len(row) + 1)
        others = np.delete(row, label, axis=1)
        ax.plot(epochs, others, color=palette.QUIET, linewidth=0.8, alpha=0.7)
        ax.plot([], [], color=palette.QUIET, linewidth=0.8, label="each other label" if ax is axes[0] else None)
        shown = f"label {palette.label(names[label], 20)}" if ax is axes[0] else None
        ax.plot(epochs, row[:, label], color=palette.ASR, linewidth=2, marker="o", markersize=3, label=shown)
        ax.axhline(1 / len(names), color=palette.INK, linewidth=0.8, ls=":", label="even" if ax is axes[0] else None)
        if len(rows) > 1:
            ax.set_title(f"batch norm: {palette.label(mode, 20)}")
        ax.set_xlabel("epoch of unlearning")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlim(1, max(2, len(row)))
    axes[0].set_ylim(-0.02, 1.02)
    axes[0].set_ylabel("share of predictions")
    palette.percent_axis(axes[0])
    figure.legend(loc="outside upper center", ncols=3)
    return figure
