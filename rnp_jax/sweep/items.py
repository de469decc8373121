"""The items of a sweep: what they are known by, and the plan that every worker reads."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator, TypeAdapter

from rnp_jax.atomic import write_atomic
from rnp_jax.errors import SweepError
from rnp_jax.regular_file import MIB, read_regular
from rnp_jax.source_version import code_version

PLAN = "plan.json"

_MOST_BYTES = 1024 * MIB  # some 500 an item


def _check_name(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("expected text")
    return value


FileName = Annotated[str, PlainValidator(_check_name)]
"""The name of a file, whose bytes may be no UTF-8; pydantic's own text may not."""


@dataclass(frozen=True)
class Item:
    """One checkpoint under one method.

    Attributes:
      key: digest of everything that decides its row (``make_key``).
      path: the checkpoint, as it was given.
      sha256: of its bytes as they were planned.
      method: the defense, or none for the figures of the checkpoint itself.
      group: items of one group share their compiled programs.
      overrides: options that a manifest gives for this checkpoint alone.
      data: digest of the data that it is judged on as they were planned; None where that is not known.
    """

    key: str
    path: FileName
    sha256: str
    method: str
    group: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    data: str | None = None


def make_key(**decisive: Any) -> str:
    """SHA-256 of what decides a row, and of this package's code: another version makes its rows anew."""
    text = json.dumps({"code": code_version(), **decisive}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def write_plan(out: Path, items: Sequence[Item]) -> None:
    """The plan, for the workers: whole or not at all."""
    write_atomic(out / PLAN, (json.dumps([asdict(item) for item in items]) + "\n").encode())


def read_plan(out: Path) -> tuple[Item, ...]:
    """The items of the sweep in this folder.

    Raises:
      SweepError: there is no plan, or it cannot be read.
    """
    try:
        return TypeAdapter(tuple[Item, ...]).validate_python(json.loads(read_regular(out / PLAN, _MOST_BYTES)))
    except (OSError, ValueError, RecursionError) as error:  # pydantic's errors are ValueErrors
        raise SweepError(f"{out / PLAN}: cannot read the plan of the sweep: {error}") from error
