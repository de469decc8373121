"""Which checkpoints a sweep is about: files, folders, patterns, and manifests that say more about each."""

import dataclasses
import difflib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic

from rnp_jax.attacks import get_attack
from rnp_jax.card import CARD_SUFFIX, TRIGGER_SUFFIX
from rnp_jax.checks import MOST_CLASSES, check_image_shape, check_number
from rnp_jax.config import Constants
from rnp_jax.data import parse_normalization
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.models.registry import ARCHITECTURES, suggest
from rnp_jax.sweep.manifest_rows import READERS, Cells

SUFFIXES = (".pt", ".pth", ".tar", ".ckpt", ".bin", ".safetensors")
"""The files of a folder that are taken for checkpoints."""

_BESIDE = (CARD_SUFFIX, TRIGGER_SUFFIX)
_CONSTANT = "constants."
_MOST_ROWS = 1_000_000
_LONGEST_TEXT = 4096


@dataclass(frozen=True)
class Entry:
    """A checkpoint, and what is said about it alone; None leaves it to the sweep's own options.

    Attributes:
      path: the file, as it was named.
      key, prefix, architecture, image_shape, normalization, extractor: as in ``SourceOptions``.
      data: as in ``DataOptions``.
      attack, target, mapping, constants, artefact: as in ``TriggerOptions``.

    Raises:
      ConfigError: a value that no checkpoint can have.
    """

    path: str
    key: str | None = None
    prefix: str | None = None
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
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), str):
                _check_text(field.name, value)
        if self.architecture is not None and self.architecture not in ARCHITECTURES:
            raise ConfigError(f"unknown architecture {self.architecture!r}; {suggest(self.architecture)}")
        if self.image_shape is not None:
            check_image_shape(self.image_shape)
        if self.target is not None:
            check_number("target", self.target, 0, MOST_CLASSES - 1, integer=True)
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
    if path.suffix in READERS:
        return _read_manifest(path)
    if any(sign in given for sign in "*?[") and not os.path.lexists(path):
        return [Entry(found) for found in _match(path)]
    return [Entry(given)]


def _check_path(path: str) -> None:
    if not path:
        raise ConfigError("path ''; expected the path of a checkpoint")
    _check_text("path", path)


def _check_text(name: str, text: str) -> None:
    """Requires what can be the name of a file, and be written into one."""
    if "\0" in text or len(text) > _LONGEST_TEXT:
        raise ConfigError(f"{name} {text!r:.200}; expected up to {_LONGEST_TEXT} letters, none of them NUL")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ConfigError(f"{name} {text!r} cannot be the name of a file") from error


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
    row = 0
    for row, (place, cells) in enumerate(READERS[path.suffix](path), 1):
        if row > _MOST_ROWS:
            raise ConfigError(f"{path} has more than {_MOST_ROWS:,} rows; give several sweeps a manifest each")
        try:
            yield _ENTRY.validate_python(_read_row(cells, path.parent))
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from error
        except pydantic.ValidationError as error:
            lines = [f"{'.'.join(map(str, e['loc'])) or 'row'}: {e['msg']} (given {e['input']!r:.200})"
                     for e in error.errors()]  # fmt: skip
            raise ConfigError(f"{place}: {'; '.join(lines)}") from error
    if not row:
        raise ConfigError(f"{path} has no rows; expected one row per checkpoint, with its path")


def _read_row(cells: Cells, folder: Path) -> dict[str, Any]:
    """A row's values as ``Entry`` takes them."""
    _check_columns(cells)
    values = {name: value for name, value in cells.items() if not _is_empty(value)}
    for name, value in values.items():
        if not isinstance(value, str | int | float | list | dict):
            raise ConfigError(f"{name} is a {type(value).__name__}, expected a text or a number")
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
        except (ValueError, RecursionError) as error:
            raise ConfigError(f'constants {together!r:.200}: not JSON ({error}); write {{"NAME": VALUE}}') from error
    if not isinstance(together, dict):
        raise ConfigError(f'constants {together!r:.200}: expected a mapping such as {{"NAME": VALUE}}')
    given = {name: value for name, value in together.items() if value is not None}
    for column, value in singles.items():
        name = column.removeprefix(_CONSTANT)
        if name in given:
            raise ConfigError(f"the constant {name} is given twice, in constants and in {column}")
        given[name] = value
    for name, value in given.items():
        if not isinstance(value, str | int | float):
            raise ConfigError(f"the constant {name} is a {type(value).__name__}, expected a number or a text")
        _check_text(f"the constant {name}", str(value))
    return _CONSTANTS.validate_python(given)


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and value != value)
