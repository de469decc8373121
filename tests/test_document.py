"""Documents on disk: what is unknown, what cannot be encoded, what is of another version."""

import json
import math
import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from rnp_jax.document import (
    SCHEMA_VERSION,
    Count,
    Known,
    Moment,
    Part,
    Settings,
    Share,
    Text,
    read_document,
    to_json,
    write_text,
)
from rnp_jax.errors import ResultError


class Note(Part):
    """A document with a field of every kind."""

    schema_version: int = SCHEMA_VERSION
    text: Text = ""
    known: Known = None
    share: Share = 0.0
    count: Count = 0
    moment: Moment = datetime(2026, 1, 2, tzinfo=UTC)
    settings: Settings = Field(default_factory=dict)


def test_documents_survive_the_disk(tmp_path):
    note = Note(
        text="Hölder α", known=0.1, share=1 / 3, count=3, settings={"radii": (0.1, 1), "on": True, "none": None}
    )
    write_text(tmp_path / "deep" / "note.json", to_json(note))
    assert read_document(tmp_path / "deep" / "note.json", Note) == note
    assert "Hölder α" in (tmp_path / "deep" / "note.json").read_text("utf-8")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), st.floats() | st.none())
def test_any_settings_give_strict_json_that_reads_back(values, known):
    note = Note(settings=values, known=known)
    assert Note.model_validate(json.loads(to_json(note), parse_constant=pytest.fail)) == note
    assert to_json(Note.model_validate_json(to_json(note))) == to_json(note)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32(np.nan), None])
def test_what_is_not_finite_is_unknown(value):
    assert Note(known=value).known is None
    assert Note(settings={"a": [value]}).settings == {"a": [None]}


def test_settings_become_plain_values():
    given = {1: np.arange(2), "b": (np.float32(0.5), np.int64(3)), "path": Path("a/b"), "bad": os.fsdecode(b"\xff")}
    assert Note(settings=given).settings == {"1": [0, 1], "b": [0.5, 3], "path": "a/b", "bad": "\\udcff"}


def test_names_that_are_no_text_are_spelled_out():
    assert Note(text=os.fsdecode(b"model\xff.pt")).text == "model\\udcff.pt"
    to_json(Note(text=os.fsdecode(b"\xff"))).encode()


def test_moments_are_utc():
    moment = datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2)))
    assert Note(moment=moment).moment == datetime(2026, 1, 2, 1, tzinfo=UTC)
    assert json.loads(to_json(Note(moment=moment)))["moment"] == "2026-01-02T01:00:00Z"
    with pytest.raises(ValidationError, match="timezone"):
        Note(moment=datetime(2026, 1, 2))


@pytest.mark.parametrize("changes", [{"share": 1.01}, {"share": -0.1}, {"count": -1}, {"surplus": 1}, {"count": 1.5}])
def test_values_out_of_range_and_unknown_fields_are_refused(changes):
    with pytest.raises(ValidationError):
        Note(**changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "has schema_version None, this rnp_jax reads 1"),
        (b'{"schema_version": 2}', "has schema_version 2"),
        (b'{"schema_version": true}', "has schema_version True"),
        (b'{"schema_version": 1, "share": 2}', "share: Input should be less than or equal to 1"),
        (b'{"schema_version": 1, "surplus": 2}', "surplus: Extra inputs"),
    ],
)
def test_files_that_are_no_such_document(content, message, tmp_path):
    (tmp_path / "note.json").write_bytes(content)
    with pytest.raises(ResultError, match=message):
        read_document(tmp_path / "note.json", Note)


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(ResultError, match=r"note\.json cannot be read"):
        read_document(tmp_path / "note.json", Note)
    (tmp_path / "file").touch()
    with pytest.raises(ResultError, match=r"cannot be written.*Choose another output folder"):
        write_text(tmp_path / "file" / "note.json", "")
