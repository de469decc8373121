"""Documents that a machine reads: frozen, versioned, closed to unknown fields, and free of NaN.

A float that may be unknown or non-finite is null in the file and None here, so a document survives a round trip
unchanged.
"""

import json
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

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
from rnp_jax.regular_file import MIB, read_regular
from rnp_jax.untrusted_text import spell_json

SCHEMA_VERSION = 1

_MOST_BYTES = 256 * MIB

Document = TypeVar("Document", bound=BaseModel)


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
Moment = Annotated[AwareDatetime, AfterValidator(_utc)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Settings = Annotated[dict[str, JsonValue], BeforeValidator(_plain)]


class Part(BaseModel):
    """A frozen part of a document that takes no unknown field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def to_json(document: BaseModel) -> str:
    """The document as JSON: UTF-8, keys sorted, no NaN, nothing hidden; equal documents give equal text."""
    plain = document.model_dump(mode="json")
    return spell_json(json.dumps(plain, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)) + "\n"


def write_text(path: str | Path, text: str) -> Path:
    """Write a file of a report whole or not at all.

    Raises:
      ResultError: the file cannot be written.
    """
    try:
        write_atomic(path, text.encode())
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror}. Choose another output folder.") from error
    return Path(path)


def read_document(path: str | Path, model: type[Document]) -> Document:
    """Read a document of this schema version that `to_json` wrote.

    Raises:
      ResultError: not readable, not JSON, of another schema version, or a field is missing, unknown or out of range.
    """
    try:
        document = json.loads(read_regular(path, _MOST_BYTES))
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not JSON ({error}); expected a document written by rnp_jax.") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        raise ResultError(
            f"{path} has schema_version {version!r}, this rnp_jax reads {SCHEMA_VERSION}; "
            "read it with the rnp_jax that wrote it (see its field 'versions'), or run it again."
        )
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise ResultError(f"{path} does not follow schema version {SCHEMA_VERSION}: {problems}.") from error
