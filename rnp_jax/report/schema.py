"""The machine-readable result of a run: one versioned, frozen document, written as ``result.json``.

``docs/result.md`` documents every field. Shares of images are always a `Proportion`, so that no figure travels without
its count; a float that may be unknown or non-finite is null in the file and None here, so a document survives a round
trip unchanged.
"""

import json
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
)

from rnp_jax.atomic import write_atomic
from rnp_jax.errors import ResultError

SCHEMA_VERSION = 1


def _known(value: Any) -> Any:
    """None for NaN and infinities."""
    return None if isinstance(value, float | np.floating) and not math.isfinite(value) else value


def _encodable(value: Any) -> Any:
    """A path as text, bytes that are no UTF-8 spelled out (``\\udcff``)."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    return text.encode("utf-8", "backslashreplace").decode() if isinstance(text, str) else text


def _plain(value: Any) -> Any:
    """Nested settings as JSON values."""
    if isinstance(value, Mapping):
        return {_encodable(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _known(_encodable(value))


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


Text = Annotated[str, BeforeValidator(_encodable)]
Known = Annotated[float | None, BeforeValidator(_known)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Settings = Annotated[dict[str, JsonValue], BeforeValidator(_plain)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Proportion(_Model):
    """A share of images and its 95 % Wilson score interval."""

    value: Share
    low: Share
    high: Share
    count: Count
    total: Annotated[int, Field(ge=1)]


class Metrics(_Model):
    """What a network does on the test set; None where it was not or cannot be measured."""

    acc: Proportion | None = None
    acc_without_target: Proportion | None = None
    asr: Proportion | None = None
    ra: Proportion | None = None
    der: Known = None


class Versions(_Model):
    """Software that computed the result."""

    rnp_jax: Text
    python: Text
    jax: Text
    jaxlib: Text
    flax: Text
    numpy: Text


class CheckpointInfo(_Model):
    """The file that was defended."""

    path: Text
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    container: Text
    state_dict_key: Text | None
    architecture: Text
    width: Count | None
    num_classes: Annotated[int, Field(ge=1)]
    parameters: Count
    filters: Count
    anomalies: tuple[Text, ...] = ()


class DataInfo(_Model):
    """The images that were used, and the network's normalisation of them."""

    name: Text
    defense_images: Count
    holdout_images: Count
    test_images: Count
    mean: tuple[float, ...]
    std: tuple[float, ...]


class AttackInfo(_Model):
    """The trigger that was tested, where it is known."""

    name: Text
    target: Count | None  # None for all-to-all
    mapping: Text
    triggered_images: Count
    constants: Settings = {}


class Choice(_Model):
    """The operating point a defender would choose, from clean data alone."""

    rule: Text
    ranking: Text
    threshold: Known
    pruned: Count
    holdout_acc_before: Proportion | None
    holdout_acc_after: Proportion | None
    budget: Known


class Oracle(_Model):
    """The operating point best by ASR, which a defender cannot see."""

    ranking: Text
    threshold: Known
    pruned: Count
    metrics: Metrics


class SweepPoint(_Model):
    """The network with its first ``pruned`` filters of a ranking pruned."""

    threshold: Known
    pruned: Count
    holdout_acc: Proportion | None = None
    holdout_loss: Known = None
    acc: Proportion | None = None
    acc_without_target: Proportion | None = None
    asr: Proportion | None = None
    ra: Proportion | None = None


class Sweep(_Model):
    """One ranking of the filters, pruned further and further."""

    ranking: Text
    points: tuple[SweepPoint, ...]


class Phase(_Model):
    """One optimisation and its history, one value an epoch."""

    name: Text
    series: dict[Text, tuple[Known, ...]]
    stopped: Text


class PrunedFilter(_Model):
    """A filter set to zero in the cleaned checkpoint."""

    layer: Text
    index: Count
    mask: Known
    damage: Known = None


class Stage(_Model):
    """Wall-clock time of one stage."""

    stage: Text
    seconds: Seconds


class Verdict(_Model):
    """What a reader should take away."""

    headline: Text
    detail: Text
    level: Literal["ok", "warning", "bad", "unknown"]


class Result(_Model):
    """One checkpoint, one defense, one run."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: Annotated[AwareDatetime, AfterValidator(_utc)]
    versions: Versions
    device: Text
    precision: Text
    seed: int
    command: Text | None = None
    checkpoint: CheckpointInfo
    data: DataInfo
    attack: AttackInfo | None = None
    method: Text
    config: Settings
    before: Metrics
    after: Metrics
    choice: Choice | None = None
    oracle: Oracle | None = None
    sweeps: tuple[Sweep, ...] = ()
    phases: tuple[Phase, ...] = ()
    pruned_filters: tuple[PrunedFilter, ...] = ()
    timing: tuple[Stage, ...] = ()
    warnings: tuple[Text, ...] = ()
    verdict: Verdict


def to_json(result: Result) -> str:
    """The document as JSON: UTF-8, keys sorted, no NaN; equal results give equal text."""
    document = result.model_dump(mode="json")
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def write_result(path: str | Path, result: Result) -> Path:
    """Write ``result.json`` whole or not at all.

    Raises:
      ResultError: the file cannot be written.
    """
    try:
        write_atomic(Path(path), to_json(result).encode())
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror}. Choose another output folder.") from error
    return Path(path)


def read_result(path: str | Path) -> Result:
    """Read a ``result.json`` of this schema version.

    Raises:
      ResultError: not readable, not JSON, of another schema version, or a field is missing, unknown or out of range.
    """
    try:
        document = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not JSON ({error}); expected a result.json written by rnp_jax.") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        raise ResultError(
            f"{path} has schema_version {version!r}, this rnp_jax reads {SCHEMA_VERSION}; "
            "read it with the rnp_jax that wrote it (see its field 'versions'), or run the defense again."
        )
    try:
        return Result.model_validate(document)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise ResultError(f"{path} does not follow schema version {SCHEMA_VERSION}: {problems}.") from error
