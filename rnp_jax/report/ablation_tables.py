"""What the settings of a score-based defense do: exponent, radii, norm, scope and threshold rule.

An ablation is written as a page, as ``ablation.json`` and as tables.
"""

from collections.abc import Sequence
from pathlib import Path

from rnp_jax.document import to_json, write_text
from rnp_jax.report.ablation import Ablation, AblationCell
from rnp_jax.report.ablation_page import render_ablation
from rnp_jax.report.ablation_plots import plot_ablation
from rnp_jax.report.comparison_text import csv_text, markdown_table
from rnp_jax.report.figures import save_figures
from rnp_jax.report.wording import UNKNOWN, number, percent

AXES = ("rule", "scope", "norm", "radii", "alpha", "seed")
_SHARES = ("acc", "asr", "ra")


def write_ablation(out_dir: str | Path, ablation: Ablation) -> Path:
    """Write ``ablation.json``, ``ablation.csv``, ``figures/ablation.png|svg``, ``report.html`` and ``ablation.md``.

    Returns:
      The path of ``ablation.md``, which is written last.

    Raises:
      ResultError: the folder cannot be written.
    """
    out_dir = Path(out_dir)
    files = save_figures(out_dir / "figures", {"ablation": plot_ablation(ablation.cells)}, known=())
    write_text(out_dir / "ablation.json", to_json(ablation))
    write_text(out_dir / "ablation.csv", to_csv(ablation.cells))
    write_text(out_dir / "report.html", render_ablation(ablation, files["ablation"].svg.read_bytes()))
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
