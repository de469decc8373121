"""The heat maps of an ablation."""

from collections.abc import Iterable, Sequence

import numpy as np

from rnp_jax.errors import ResultError
from rnp_jax.report import palette
from rnp_jax.report.ablation import AblationCell
from rnp_jax.report.drawing import Axes, Figure, LinearSegmentedColormap, Normalize, PercentFormatter, ScalarMappable
from rnp_jax.report.schema import Proportion

_COLORS = LinearSegmentedColormap.from_list("asr", ["#f3f5f7", "#f6c9a3", palette.ASR, "#7a2f00"])


@palette.style()
def plot_ablation(cells: Iterable[AblationCell]) -> Figure:
    """Heat maps: ASR as colour, ACC in percent as number; one map a rule and scope, cells of several seeds averaged.

    Rows are radii and norm, columns alpha; a cell without colour was not run, or its ASR is not known.

    Raises:
      ResultError: there is no cell.
    """
    cells = list(cells)
    if not cells:
        raise ResultError("an ablation without cells cannot be drawn; run at least one setting.")
    rules, scopes = (list(dict.fromkeys(getattr(cell, axis) for cell in cells)) for axis in ("rule", "scope"))
    rows = list(dict.fromkeys((cell.norm, cell.radii) for cell in cells))
    rows.sort(key=lambda row: row[0])  # by norm; radii as they come
    alphas = sorted({cell.alpha for cell in cells})
    figure = palette.new_figure(1.1 + len(scopes) * (0.5 + 0.3 * len(rows)))
    grid = figure.subplots(len(scopes), len(rules), sharex=True, sharey=True, squeeze=False)
    small = len(rules) * len(alphas) > 16
    for line, scope in zip(grid, scopes, strict=True):
        for ax, rule in zip(line, rules, strict=True):
            chosen = [cell for cell in cells if (cell.rule, cell.scope) == (rule, scope)]
            _draw_map(ax, chosen, rows, alphas, 6.5 if small else 8.0)
            ax.set_title(palette.label(rule, 80 // len(rules)), fontsize=9)
        line[0].set_yticks(range(len(rows)), [palette.label(f"{radii}  p = {norm}", 36) for norm, radii in rows])
        line[0].set_ylabel(palette.label(f"{scope} scope"), fontweight="bold")
    for ax in grid[-1]:
        ax.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
        ax.set_xlabel("\N{GREEK SMALL LETTER ALPHA}")
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), _COLORS), ax=grid, location="top", aspect=50, fraction=0.05, shrink=0.6
    )
    bar.ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bar.set_label("colour: ASR; number: ACC in %")
    bar.outline.set_visible(False)
    return figure


def _draw_map(
    ax: Axes, cells: Sequence[AblationCell], rows: list[tuple[str, str]], alphas: list[float], size: float
) -> None:
    asr, acc = (_mean(cells, field, rows, alphas) for field in ("asr", "acc"))
    ax.imshow(asr, cmap=_COLORS, norm=Normalize(0, 1), aspect="auto", interpolation="none")
    ax.set_xticks(np.arange(len(alphas) + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    ax.grid(visible=False, which="major")
    ax.grid(color=palette.PAPER, linewidth=1.5, which="minor")
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(acc):
        if np.isfinite(value):
            ink = palette.PAPER if asr[i, j] > 0.55 else palette.INK
            ax.text(j, i, f"{100 * value:.1f}", ha="center", va="center", color=ink, fontsize=size)


def _mean(cells: Sequence[AblationCell], field: str, rows: list[tuple[str, str]], alphas: list[float]) -> np.ndarray:
    """Mean share by row and column; NaN where no cell knows it."""
    total, count = np.zeros((2, len(rows), len(alphas)))
    for cell in cells:
        share: Proportion | None = getattr(cell, field)
        if share is not None:
            place = rows.index((cell.norm, cell.radii)), alphas.index(cell.alpha)
            total[place] += share.value
            count[place] += 1
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
