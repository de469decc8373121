import json
import math
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from rnp_jax.document import to_json
from rnp_jax.errors import ResultError
from rnp_jax.report.ablation import Ablation
from rnp_jax.report.schema import Phase, PrunedFilter, Result, Stage, read_result, write_result
from rnp_jax.report.sweep_row import SweepRow

numbers = st.floats(allow_nan=True, allow_infinity=True)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_round_trip_changes_nothing(result: Result, tmp_path: Path):
    path = write_result(tmp_path / "result.json", result)
    assert read_result(path) == result
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(config=st.dictionaries(st.text(), trees, max_size=4), losses=st.lists(numbers, max_size=5), text=st.text())
def test_any_settings_history_and_text_survive(config, losses, text):
    phase = Phase(name=text, series={text: losses}, stopped=text)
    assert Phase.model_validate_json(phase.model_dump_json()) == phase
    expected = tuple(value if math.isfinite(value) else None for value in losses)
    assert phase.series[text.encode("utf-8", "backslashreplace").decode()] == expected


def test_settings_become_plain_json(result: Result):
    config = {"a": np.float32("nan"), "b": (1, math.inf), "c": np.arange(2), "d": Path("x"), 3: {"e": "\udcff"}}
    plain = Result.model_validate(dict(result) | {"config": config}).config
    assert plain == {"a": None, "b": [1, None], "c": [0, 1], "d": "x", "3": {"e": "\\udcff"}}


def test_non_finite_numbers_are_written_as_null(result: Result):
    document = json.loads(to_json(result), parse_constant=pytest.fail)
    assert document["phases"][1]["series"]["asr"] == [1.0, None]
    assert PrunedFilter(layer="bn1", index=0, mask=math.inf).mask is None


def test_equal_results_give_equal_text_with_sorted_keys(result: Result):
    document = json.loads(to_json(result))
    assert list(document) == sorted(document)
    shuffled = dict(reversed(result.config.items()))
    assert to_json(result.model_copy(update={"config": shuffled})) == to_json(result)


def test_time_is_written_in_utc(result: Result):
    moment = datetime(2026, 1, 2, 5, 0, tzinfo=timezone(timedelta(hours=2)))
    moved = Result.model_validate(dict(result) | {"created": moment})
    assert moved.created == datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
    assert json.loads(to_json(moved))["created"] == "2026-01-02T03:00:00Z"


def test_a_document_is_frozen_and_closed(result: Result):
    with pytest.raises(ValidationError, match="frozen"):
        result.seed = 1
    with pytest.raises(ValidationError, match="Extra inputs"):
        Stage.model_validate({"stage": "a", "seconds": 1, "minutes": 2})


@pytest.mark.parametrize("version", [None, 0, 2, "1", True, 1.0, [1]])
def test_another_version_is_refused_by_name(result: Result, tmp_path: Path, version):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(json.loads(to_json(result)) | {"schema_version": version}))
    with pytest.raises(ResultError, match=r"schema_version .*reads 1"):
        read_result(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"{", b"[" * 200_000, b"null"])
def test_what_is_no_result_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(ResultError, match=r"is not JSON|schema_version None"):
        read_result(path)


def test_documents_of_before_scores_are_still_read(result: Result, scored: Result, tmp_path: Path):
    document = json.loads(to_json(result))
    for added in ("kind", "features", "covariates"):
        del document[added]
    del document["choice"]["thresholds"]
    for item in document["pruned_filters"]:
        del item["score"]
    (tmp_path / "old.json").write_text(json.dumps(document))
    assert read_result(tmp_path / "old.json") == result
    assert read_result(write_result(tmp_path / "new.json", scored)) == scored
    assert scored.covariates == {"trigger shift / class spread": 0.83, "clean shift": None}


def test_missing_and_unknown_fields_are_named(result: Result, tmp_path: Path):
    path = tmp_path / "result.json"
    document = json.loads(to_json(result))
    del document["checkpoint"]["sha256"]
    path.write_text(json.dumps(document | {"extra": 1}))
    with pytest.raises(ResultError, match=r"checkpoint\.sha256: Field required.*extra: Extra inputs"):
        read_result(path)


def test_folders_and_missing_files_are_typed_errors(result: Result, tmp_path: Path):
    with pytest.raises(ResultError, match="cannot be read"):
        read_result(tmp_path)
    with pytest.raises(ResultError, match="cannot be written"):
        write_result(tmp_path, result)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResultError, match="cannot be written"):
        write_result(tmp_path / "file" / "result.json", result)


def test_the_smallest_trigger_after_is_that_of_a_suspected_label(result: Result):
    evidence = result.evidence
    assert evidence is not None
    assert evidence.smallest_after == 81.25  # from the old mask; from a new start none was reached
    first, *others = evidence.labels
    lost = first.model_copy(update={"size_after_warm": None})
    assert evidence.model_copy(update={"labels": (lost, *others)}).smallest_after is None
    both = first.model_copy(update={"size_after_cold": 90.0})
    more = first.model_copy(update={"size_after_cold": 33.0})
    assert evidence.model_copy(update={"labels": (both, more, *others)}).smallest_after == 33


def models(model: type[BaseModel]) -> set[type[BaseModel]]:
    """The model and every model inside it."""
    found = {model}
    pending = [field.annotation for field in model.model_fields.values()]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found |= models(annotation)
        pending += get_args(annotation)
    return found


DOCUMENTED = models(Result) | models(SweepRow) | models(Ablation)


@pytest.mark.parametrize("model", sorted(DOCUMENTED, key=lambda model: model.__name__))
def test_every_field_is_documented(model: type[BaseModel]):
    text = (Path(__file__).parents[2] / "docs" / "result.md").read_text("utf-8")
    (section,) = re.findall(rf"^## {model.__name__}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    nullable = {name: type(None) in get_args(field.annotation) for name, field in model.model_fields.items()}
    assert [(name, "null" in kind) for name, kind, _ in rows] == list(nullable.items())


def test_the_documentation_names_no_other_type():
    text = (Path(__file__).parents[2] / "docs" / "result.md").read_text("utf-8")
    assert set(re.findall(r"^## (\w+)$", text, re.MULTILINE)) == {model.__name__ for model in DOCUMENTED}
