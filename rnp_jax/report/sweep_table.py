"""The rows of a sweep as tables: JSON lines, CSV, Parquet and Markdown.

CSV and Parquet have the same columns: a row's own fields, shares as ``acc``, ``acc_low``, ``acc_high``, ``acc_count``
and ``acc_total``, ``seconds`` in all, then, where a row has evidence or an attempt to bring the backdoor back, the
columns of these, and ``seconds: STAGE`` and ``covariate: NAME`` for each that occurs.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from rnp_jax.atomic import open_atomic
from rnp_jax.defenses import registry
from rnp_jax.document import SCHEMA_VERSION, write_text
from rnp_jax.errors import ResultError
from rnp_jax.regular_file import MIB, read_regular
from rnp_jax.report.comparison import RECOVERED, SHARES
from rnp_jax.report.comparison_text import csv_text, escape_markdown, markdown_table
from rnp_jax.report.leaderboard_matrix import (
    MATRIX_WORDS,
    MEANINGS,
    count_statuses,
    list_metrics,
    make_matrix,
    metric_table,
    say_doubts,
    say_verdict,
    say_who_sees,
    show_estimate,
    sort_rows,
)
from rnp_jax.report.sweep_evidence import LEVELS, TITLE, WORDS, count_levels, find_searched, list_items
from rnp_jax.report.sweep_reactivation import find_attempt
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.untrusted_text import spell_json

Kind = Literal["text", "category", "integer", "float", "truth"]

MAX_LISTED = 500
"""More items without a result, or with a note, than these are in the other tables but not in the Markdown."""

_MOST_BYTES = 1024 * MIB

_BEFORE: dict[str, Kind] = {
    "key": "text",
    "checkpoint": "text",
    "sha256": "text",
    "status": "category",
    "reason": "text",
    "architecture": "category",
    "classes": "integer",
    "attack": "category",
    "poison_rate": "float",
    "seed": "integer",
    "mode": "category",
    "method": "category",
}
_AFTER: dict[str, Kind] = {
    "der": "float",
    "pruned": "integer",
    "units": "integer",
    "doubt": "category",
    "precision": "category",
    "batch_size": "integer",
    "attempt": "integer",
    "device": "category",
    "report": "text",
    "note": "text",
    "seconds": "float",
}
_EVIDENCE: dict[str, Kind] = {
    "evidence": "category",
    "visible_before": "truth",
    "smallest_after": "float",
    "ordinary_after": "float",
}
_PARTS: dict[str, Kind] = {"value": "float", "low": "float", "high": "float", "count": "integer", "total": "integer"}


def write_tables(out: Path, rows: Sequence[SweepRow]) -> None:
    """Write ``rows.jsonl``, ``rows.csv``, ``rows.parquet`` and ``leaderboard.md``, each whole or not at all.

    Rows are ordered by path and method, so equal rows give equal files.

    Raises:
      ResultError: the folder cannot be written.
    """
    rows, out = sort_rows(rows), Path(out)
    columns = list(_columns(rows))
    write_text(out / "rows.jsonl", "".join(f"{_to_line(row)}\n" for row in rows))
    names = [name for name, _, _ in columns]
    write_text(out / "rows.csv", csv_text([names, *zip(*(values for _, _, values in columns), strict=True)]))
    _write_parquet(out / "rows.parquet", columns)
    write_text(out / "leaderboard.md", to_markdown(rows))


def read_rows(path: str | Path) -> tuple[SweepRow, ...]:
    """Read the ``rows.jsonl`` that `write_tables` wrote.

    Raises:
      ResultError: not readable, a line is not JSON or no row of this version, or two rows are of the same item.
    """
    try:
        lines = read_regular(path, _MOST_BYTES).removesuffix(b"\n").split(b"\n")
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}.") from error
    rows: dict[str, SweepRow] = {}
    for number, line in enumerate(lines if lines != [b""] else [], 1):
        row = _from_line(line, f"line {number} of {path}")
        if row.key in rows:
            raise ResultError(
                f"line {number} of {path} is a second row of item {row.key}; expected one row per item. "
                "Run the sweep again to rewrite its tables."
            )
        rows[row.key] = row
    return tuple(rows.values())


def _to_line(row: SweepRow) -> str:
    unasked = {"reactivation", *RECOVERED} if row.reactivation is None else None
    plain = row.model_dump(mode="json", exclude=unasked)
    return spell_json(json.dumps(plain, sort_keys=True, allow_nan=False, ensure_ascii=False))


def _from_line(line: bytes, where: str) -> SweepRow:
    try:
        return SweepRow.model_validate(json.loads(line))
    except ValidationError as error:  # a ValueError too, so it comes first
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise ResultError(
            f"{where} is not a row of a sweep: {problems}. Run the sweep again to rewrite its tables."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{where} is not JSON ({error}). Run the sweep again to rewrite its tables.") from error


def _columns(rows: Sequence[SweepRow]) -> Iterator[tuple[str, Kind, list]]:
    """Name, kind and values of every column."""
    for name, kind in _BEFORE.items():
        yield name, kind, [getattr(row, name) for row in rows]
    yield from _share_columns(rows, [*SHARES, "acc_before", "asr_before", "ra_before"])
    for name, kind in _AFTER.items():
        yield name, kind, [getattr(row, name) for row in rows]
    for name, kind in _EVIDENCE.items() if find_searched(rows) else ():
        yield name, kind, [getattr(row, name) for row in rows]
    if find_attempt(rows) is not None:
        yield "reactivation", "category", [row.reactivation for row in rows]
        yield from _share_columns(rows, RECOVERED)
    for stage in dict.fromkeys(stage.stage for row in rows for stage in row.timing):
        yield f"seconds: {stage}", "float", [_seconds(row, stage) for row in rows]
    for name in dict.fromkeys(name for row in rows for name in row.covariates):
        yield f"covariate: {name}", "float", [row.covariates.get(name) for row in rows]


def _share_columns(rows: Sequence[SweepRow], names: Sequence[str]) -> Iterator[tuple[str, Kind, list]]:
    for field in names:
        shares = [getattr(row, field) for row in rows]
        for part, kind in _PARTS.items():
            name = field if part == "value" else f"{field}_{part}"
            yield name, kind, [None if share is None else getattr(share, part) for share in shares]


def _seconds(row: SweepRow, stage: str) -> float | None:
    spent = [each.seconds for each in row.timing if each.stage == stage]
    return sum(spent) if spent else None


def _write_parquet(path: Path, columns: Sequence[tuple[str, Kind, list]]) -> None:
    import pyarrow as pa  # a sweep's end alone needs it
    import pyarrow.parquet as pq

    types: dict[Kind, Any] = {
        "text": pa.string(),
        "category": pa.dictionary(pa.int32(), pa.string()),
        "integer": pa.int64(),
        "float": pa.float64(),
        "truth": pa.bool_(),
    }
    arrays = [pa.array(values, types[kind]) for _, kind, values in columns]
    fields = [pa.field(name, types[kind]) for name, kind, _ in columns]
    schema = pa.schema(fields, metadata={"rnp_jax.schema_version": str(SCHEMA_VERSION)})
    try:
        with open_atomic(path) as file:
            pq.write_table(pa.Table.from_arrays(arrays, schema=schema), file)
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror}. Choose another output folder.") from error


def to_markdown(rows: Sequence[SweepRow]) -> str:
    """The attack x defense matrix of each metric, counts by status, what has no result with the reason, and notes."""
    counts = count_statuses(rows)
    lines = [[status, f"{count:,}", MEANINGS[status]] for status, count in counts.items()]
    total = ["all", f"{len(rows):,}", ""]
    lost = [[row.status, *_name(row), row.reason] for row in rows if row.status != "ok"]
    notes = [[*_name(row), row.note] for row in rows if row.note]
    parts = [
        "# Leaderboard",
        say_verdict(counts),
        *say_doubts(rows),
        *_show_matrix(rows),
        *_show_evidence(rows),
        "## Outcomes of the items",
        markdown_table(["Status", "Items", "Meaning"], [*lines, total]),
        *_list_first("Without a result", ["Status", "Checkpoint", "Method", "Reason"], lost),
        *_list_first("Notes", ["Checkpoint", "Method", "Note"], notes),
    ]
    return "\n\n".join(parts) + "\n"


def _show_matrix(rows: Sequence[SweepRow]) -> Iterator[str]:
    matrix = make_matrix(rows)
    if matrix.lines:
        yield f"{MATRIX_WORDS} {say_who_sees(rows)}".strip()
    for metric, (heading, meaning) in list_metrics(rows).items():
        names, found = metric_table(matrix, metric)
        cells = [
            [attack, *("" if each is None else show_estimate(each, metric) for each in estimates)]
            for attack, estimates in found
        ]
        if names:
            told = [escape_markdown(meaning)] if metric == "asr_reactivated" else []
            yield from (f"## {heading}", *told, markdown_table(["Attack", *names], cells))
    if matrix.further:
        yield f"{matrix.further:,} further attacks are in rows.csv."


def _show_evidence(rows: Sequence[SweepRow]) -> Iterator[str]:
    lines = count_levels(rows)
    if lines:
        heads = ["Method", *(level.capitalize() for level in LEVELS)]
        yield from (f"## {TITLE}", escape_markdown(WORDS), markdown_table(heads, lines))
        heads = ["Checkpoint", "Method", "Evidence", "Smallest after, pixels", "Ordinary after, pixels"]
        yield from _list_first("Evidence of each item", heads, list_items(rows))


def _list_first(heading: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """The first lines as a table, and how many there are besides; nothing where there is no line."""
    if lines:
        yield from (f"## {heading}", markdown_table(head, lines[:MAX_LISTED]))
    if len(lines) > MAX_LISTED:
        yield escape_markdown(f"{len(lines) - MAX_LISTED:,} further items are in rows.csv.")


def _name(row: SweepRow) -> list[str]:
    return [row.checkpoint, registry.title(row.method)]
