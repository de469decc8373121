"""The items of a sweep: what they are known by, and the plan that every worker reads."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rnp_jax.atomic import write_atomic
from rnp_jax.errors import SweepError
from rnp_jax.source_version import code_version

PLAN = "plan.json"


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
    """

    key: str
    path: str
    sha256: str
    method: str
    group: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)


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
        return TypeAdapter(tuple[Item, ...]).validate_json((out / PLAN).read_bytes())
    except (OSError, ValidationError) as error:
        raise SweepError(f"{out / PLAN}: cannot read the plan of the sweep: {error}") from error
