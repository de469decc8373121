"""Which checkpoints a sweep is about: files, folders, patterns, and manifests that say more about each."""

import csv
import dataclasses
import difflib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pydantic

from rnp_jax.attacks import get_attack
from rnp_jax.card import CARD_SUFFIX, TRIGGER_SUFFIX
from rnp_jax.config import Constants
from rnp_jax.data import parse_normalization
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.models.registry import ARCHITECTURES, suggest

Cells: TypeAlias = dict[str, Any]
"""One row of a manifest: its values by column."""

Rows: TypeAlias = Iterator[tuple[str, Cells]]
"""Rows, and where each stands in its file."""

SUFFIXES = (".pt", ".pth", ".tar", ".ckpt", ".bin", ".safetensors")
"""The files of a folder that are taken for checkpoints."""

_BESIDE = (CARD_SUFFIX, TRIGGER_SUFFIX)
_CONSTANT = "constants."


@dataclass(frozen=True)
class Entry:
    """A checkpoint, and what is said about it alone; None leaves it to the sweep's own options.

    Attributes:
      path: the file, as it was named.
      key, architecture, image_shape, normalization, extractor: as in ``SourceOptions``.
      data: as in ``DataOptions``.
      attack, target, mapping, constants, artefact: as in ``TriggerOptions``.

    Raises:
      ConfigError: a value that no checkpoint can have.
    """

    path: str
    key: str | None = None
    architecture: str | None = None
    image_shape: tuple[int, int, int] | None = None
    normalization: str | None = None
    extractor: str | None = None
    data: str | None = None
    attack: str | None = None
    target: int | None = None
    mapping: Literal["all_to_one", "all_to_all"] | None = None
    constants: Constants | None = None
    artefact: str | None = None

    def __post_init__(self):
        _check_path(self.path)
        if self.architecture is not None and self.architecture not in ARCHITECTURES:
            raise ConfigError(f"unknown architecture {self.architecture!r}; {suggest(self.architecture)}")
        if self.image_shape is not None and min(self.image_shape) < 1:
            raise ConfigError(f"image_shape {self.image_shape}; expected height, width and channels of 1 or more")
        if self.target is not None and self.target < 0:
            raise ConfigError(f"target {self.target}; expected the number of a class, 0 or more")
        if self.attack not in (None, "card", "none"):
            get_attack(self.attack)
        if self.normalization is not None:
            try:
                parse_normalization(self.normalization)
            except DataError as error:
                raise ConfigError(str(error)) from error

    @property
    def overrides(self) -> dict[str, Any]:
        """What is said about it, by the names of the fields; JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)[1:]}
        if self.image_shape is not None:
            values["image_shape"] = list(self.image_shape)
        return {name: value for name, value in values.items() if value is not None}


COLUMNS = tuple(field.name for field in dataclasses.fields(Entry))
"""What a manifest can say; an attack's constants also one a column, as ``constants.NAME``."""

_ENTRY = pydantic.TypeAdapter(Entry)
_CONSTANTS = pydantic.TypeAdapter(Constants)


def read_entries(inputs: Sequence[str]) -> tuple[Entry, ...]:
    """The checkpoints that the inputs name, in their order; those of a folder or a pattern by name.

    An input is a file, which need not exist; a folder, for all files below it that end as ``SUFFIXES`` do; a pattern
    with ``*``, ``?``, ``[]`` or ``**``, for all files that match; or a manifest (.csv, .jsonl, .parquet), a table with
    a column ``path`` and any other ``COLUMNS``. Paths in a manifest are relative to it; an empty cell says nothing.
    Symbolic links to folders are followed only where they are named. A file that is named twice with the same words
    about it counts once.

    Raises:
      ConfigError: nothing is there, or a manifest has an unknown column or an impossible value (with its row).
    """
    if not inputs:
        raise ConfigError(
            "no checkpoints: give files, folders, quoted patterns such as 'models/**/*.pt', or a manifest"
        )
    unique: dict[tuple[str, str], Entry] = {}
    for given in inputs:
        for entry in _read_input(given):
            words = json.dumps(entry.overrides, sort_keys=True)
            unique.setdefault((os.path.realpath(entry.path), words), entry)
    return tuple(unique.values())


def _read_input(given: str) -> Iterable[Entry]:
    _check_path(given)
    path = Path(given)
    if path.is_dir():
        return [Entry(found) for found in _walk(path)]
    if path.suffix in _READERS:
        return _read_manifest(path)
    if any(sign in given for sign in "*?[") and not os.path.lexists(path):
        return [Entry(found) for found in _match(path)]
    return [Entry(given)]


def _check_path(path: str) -> None:
    if not path or "\0" in path:
        raise ConfigError(f"path {path!r}; expected the path of a checkpoint")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise ConfigError(f"path {path!r} cannot be the name of a file") from error


def _walk(folder: Path) -> list[str]:
    def refuse(error: OSError) -> None:
        raise ConfigError(f"{error.filename} cannot be listed: {error.strerror}") from error

    found = [
        os.path.join(place, name)
        for place, _, names in os.walk(folder, onerror=refuse)
        for name in names
        if name.lower().endswith(SUFFIXES)
    ]
    if not found:
        raise ConfigError(f"{folder} contains no checkpoint: no file ends in {', '.join(SUFFIXES)}")
    return sorted(found)


def _match(pattern: Path) -> list[str]:
    parts = [*pattern.parts, "*"] if pattern.parts[-1] == "**" else list(pattern.parts)
    first = next(i for i, part in enumerate(parts) if any(sign in part for sign in "*?["))
    try:
        matches = Path(*parts[:first]).glob("/".join(parts[first:]))
        found = [str(path) for path in matches if not path.is_dir() and not path.name.endswith(_BESIDE)]
    except ValueError as error:
        raise ConfigError(f"{pattern}: {error}; write it as models/**/*.pt") from error
    if not found:
        raise ConfigError(f"{pattern} matches no file; put it in quotes so that the shell does not expand it")
    return sorted(set(found))


def _read_manifest(path: Path) -> Iterator[Entry]:
    empty = True
    for place, cells in _READERS[path.suffix](path):
        empty = False
        try:
            yield _ENTRY.validate_python(_read_row(cells, path.parent))
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from error
        except pydantic.ValidationError as error:
            lines = [f"{'.'.join(map(str, e['loc'])) or 'row'}: {e['msg']} (given {e['input']!r:.200})"
                     for e in error.errors()]  # fmt: skip
            raise ConfigError(f"{place}: {'; '.join(lines)}") from error
    if empty:
        raise ConfigError(f"{path} has no rows; expected one row per checkpoint, with its path")


def _read_row(cells: Cells, folder: Path) -> dict[str, Any]:
    """A row's values as ``Entry`` takes them."""
    _check_columns(cells)
    values = {name: value for name, value in cells.items() if not _is_empty(value)}
    if "path" not in values:
        raise ConfigError("no path; expected the path of a checkpoint in the column path")
    singles = {name: values.pop(name) for name in list(values) if name.startswith(_CONSTANT)}
    if singles or "constants" in values:
        values["constants"] = _read_constants(values.get("constants", {}), singles)
    if isinstance(shape := values.get("image_shape"), str):
        values["image_shape"] = shape.strip("[]() ").split(",")
    for name in ("path", "extractor", "artefact"):
        if isinstance(value := values.get(name), str):
            values[name] = os.path.join(folder, value)
    data = values.get("data")
    if isinstance(data, str) and os.path.exists(beside := os.path.join(folder, data)):  # else it is a name
        values["data"] = beside
    return values


def _check_columns(names: Iterable[str]) -> None:
    for name in names:
        if name in COLUMNS or (name.startswith(_CONSTANT) and name != _CONSTANT):
            continue
        near = difflib.get_close_matches(name, COLUMNS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known columns: {', '.join(COLUMNS)}, {_CONSTANT}NAME"
        raise ConfigError(f"unknown column {name!r}; {hint}")


def _read_constants(together: Any, singles: Cells) -> dict[str, str]:
    """An attack's constants, from a mapping or its JSON text, and from columns of their own."""
    if isinstance(together, str):
        try:
            together = json.loads(together)
        except ValueError as error:
            raise ConfigError(f'constants {together!r}: not JSON ({error}); write {{"NAME": VALUE}}') from error
    if not isinstance(together, dict):
        raise ConfigError(f'constants {together!r}: expected a mapping such as {{"NAME": VALUE}}')
    given = {name: value for name, value in together.items() if value is not None}
    for column, value in singles.items():
        name = column.removeprefix(_CONSTANT)
        if name in given:
            raise ConfigError(f"the constant {name} is given twice, in constants and in {column}")
        given[name] = value
    return _CONSTANTS.validate_python(given)


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and value != value)


def _read_csv(path: Path) -> Rows:
    """Rows of text under a first line of column names, UTF-8; a blank line is none.

    Raises:
      ConfigError: it cannot be read, names a column twice, or a row has too many or too few cells.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
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
        with path.open(encoding="utf-8-sig") as file:
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
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for cells in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", cells
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")


_READERS: dict[str, Callable[[Path], Rows]] = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
