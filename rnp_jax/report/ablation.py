"""What an ablation measured: ``ablation.json``, of which ``docs/result.md`` documents every field."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rnp_jax.document import SCHEMA_VERSION, Count, Known, Moment, Part, Settings, Text, read_document
from rnp_jax.report.schema import Proportion, Versions


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
