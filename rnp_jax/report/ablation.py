"""What the settings of a score-based defense do: exponent, radii, norm, scope and threshold rule.

An ablation is written as ``ablation.json``; ``docs/result.md`` documents every field.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from rnp_jax.document import (
    SCHEMA_VERSION,
    Count,
    Known,
    Moment,
    Part,
    Settings,
    Text,
    read_document,
    to_json,
    write_text,
)
from rnp_jax.errors import ResultError
from rnp_jax.report import palette
from rnp_jax.report.comparison_text import csv_text, markdown_table
from rnp_jax.report.drawing import Axes, Figure, LinearSegmentedColormap, Normalize, PercentFormatter, ScalarMappable
from rnp_jax.report.figures import save_figures
from rnp_jax.report.schema import Proportion, Versions
from rnp_jax.report.wording import UNKNOWN, number, percent

AXES = ("rule", "scope", "norm", "radii", "alpha", "seed")
_SHARES = ("acc", "asr", "ra")
_COLORS = LinearSegmentedColormap.from_list("asr", ["#f3f5f7", "#f6c9a3", palette.ASR, "#7a2f00"])


class AblationCell(Part):
    """One setting, one run."""

    alpha: float
    radii: Text
    norm: Text
    scope: Text
    rule: Text
    seed: int = 0
    acc: Proportion | None = None
    asr: Proportion | None = None
    ra: Proportion | None = None
    pruned: Count | None = None
    rank_correlation: Annotated[Known, Field(ge=-1, le=1)] = None


class Ablation(Part):
    """Runs of one defense on one checkpoint or a few, its settings varied."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: Moment
    versions: Versions
    device: Text
    config: Settings
    reference: Text
    cells: Annotated[tuple[AblationCell, ...], Field(min_length=1)]


def read_ablation(path: str | Path) -> Ablation:
    """Read an ``ablation.json`` of this schema version.

    Raises:
      ResultError: not readable, not JSON, of another schema version, or a field is missing, unknown or out of range.
    """
    return read_document(path, Ablation)


def write_ablation(out_dir: str | Path, ablation: Ablation) -> Path:
    """Write ``ablation.json``, ``ablation.csv``, ``ablation.md`` and ``figures/ablation.png|svg``.

    Returns:
      The path of ``ablation.md``.

    Raises:
      ResultError: the folder cannot be written.
    """
    out_dir = Path(out_dir)
    save_figures(out_dir / "figures", {"ablation": plot_ablation(ablation.cells)}, known=())
    write_text(out_dir / "ablation.json", to_json(ablation))
    write_text(out_dir / "ablation.csv", to_csv(ablation.cells))
    return write_text(out_dir / "ablation.md", to_markdown(ablation))


def to_markdown(ablation: Ablation) -> str:
    """One line a cell, and what the rank correlation refers to."""
    head = ("Rule", "Scope", "Norm", "Radii", "Alpha", "Seed", "ACC", "ASR", "RA", "Pruned", "Rank correlation")
    rows = [
        [cell.rule, cell.scope, cell.norm, cell.radii, f"{cell.alpha:g}", f"{cell.seed}"]
        + [percent(getattr(cell, field)) for field in _SHARES]
        + [UNKNOWN if cell.pruned is None else f"{cell.pruned:,}", number(cell.rank_correlation)]
        for cell in sorted(ablation.cells, key=lambda cell: [getattr(cell, axis) for axis in AXES])
    ]
    reference = markdown_table(["Reference of the rank correlation"], [[ablation.reference]])
    return f"# Ablation\n\n{reference}\n\n{markdown_table(head, rows)}\n"


def to_csv(cells: Sequence[AblationCell]) -> str:
    """One line a cell; shares with their intervals, unknown is empty."""
    parts = ("value", "low", "high", "count", "total")
    shares = [f"{field}{'' if part == 'value' else '_' + part}" for field in _SHARES for part in parts]
    lines: list[list] = [[*AXES, *shares, "pruned", "rank_correlation"]]
    for cell in cells:
        known = [getattr(cell, field) for field in _SHARES]
        values = [None if share is None else getattr(share, part) for share in known for part in parts]
        lines.append([*(getattr(cell, axis) for axis in AXES), *values, cell.pruned, cell.rank_correlation])
    return csv_text(lines)


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
