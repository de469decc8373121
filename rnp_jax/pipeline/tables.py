"""Metrics as a table on the terminal."""

from collections.abc import Mapping

from rich.table import Column, Table
from rich.text import Text

from rnp_jax.evaluation.metrics import Metrics, Proportion

_FIGURES = (
    ("ACC", "acc"),
    ("ACC without target", "acc_without_target"),
    ("ASR", "asr"),
    ("RA", "ra"),
)


def metrics_table(columns: Mapping[str, Metrics]) -> Table:
    """One row a figure, one column a model, each share with its 95 % interval; unknown figures are left out."""
    table = Table("", *(Column(Text(name)) for name in columns), "images")
    for label, name in _FIGURES:
        values: list[Proportion | None] = [getattr(metrics, name) for metrics in columns.values()]
        known = [value for value in values if value is not None]
        if known:
            table.add_row(label, *(_cell(value) for value in values), str(known[0].total))
    return table


def _cell(value: Proportion | None) -> str:
    if value is None:
        return ""
    low, high = value.interval
    return f"{value.value:7.2%} ({100 * low:.1f}–{100 * high:.1f})"
