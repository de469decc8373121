"""The rows of a manifest: a table in a .csv, .jsonl or .parquet file that nobody trusts."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from rnp_jax.errors import ConfigError
from rnp_jax.regular_file import MIB, open_regular

Cells: TypeAlias = dict[str, Any]
"""One row of a manifest: its values by column."""

Rows: TypeAlias = Iterator[tuple[str, Cells]]
"""Rows, and where each stands in its file."""

_MOST_BYTES = 256 * MIB
_BATCH = 256  # rows; a few bytes of Parquet can stand for any number


def _read_csv(path: Path) -> Rows:
    """Rows of text under a first line of column names, UTF-8; a blank line is none.

    Raises:
      ConfigError: it cannot be read, names a column twice, or a row has too many or too few cells.
    """
    try:
        with _open_text(path) as file:
            reader = csv.reader(file, strict=True)
            names = [name.strip() for name in next(reader, [])]
            if len(set(names)) != len(names):
                raise ConfigError(f"{path}: a column name appears twice in {', '.join(names)}")
            for cells in reader:
                place = f"{path}, line {reader.line_num}"
                if cells and len(cells) != len(names):
                    raise ConfigError(f"{place}: {len(cells)} cells, expected {len(names)} ({', '.join(names)})")
                if cells:
                    yield place, dict(zip(names, cells, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from error


def _read_jsonl(path: Path) -> Rows:
    """One JSON object a line, UTF-8; a blank line is none.

    Raises:
      ConfigError: it cannot be read, or a line is no JSON object.
    """
    try:
        with _open_text(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}, line {number}", _read_object(line, f"{path}, line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _read_object(line: str, place: str) -> Cells:
    try:
        cells = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: not JSON: {error}") from error
    if not isinstance(cells, dict):
        raise ConfigError(f"{place}: a {type(cells).__name__}, expected an object of columns and values")
    return cells


def _read_parquet(path: Path) -> Rows:
    """Rows of a Parquet file.

    Raises:
      ConfigError: it cannot be read, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # imported late: few sweeps need it
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ConfigError(f"{path}: reading Parquet needs pyarrow; install it, or give .csv or .jsonl") from error
    try:
        with open_regular(path, _MOST_BYTES) as opened, parquet.ParquetFile(opened) as file:
            number = 0
            for batch in file.iter_batches(_BATCH):
                for cells in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", cells
    except (OSError, pa.ArrowException, ValueError, ArithmeticError) as error:  # of values that Python does not have
        raise _unreadable(path, error) from error


def _open_text(path: Path) -> TextIO:
    return io.TextIOWrapper(open_regular(path, _MOST_BYTES), encoding="utf-8-sig", newline="")


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")


READERS: dict[str, Callable[[Path], Rows]] = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
"""By the suffix of the file."""
