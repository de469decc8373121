"""The detection's document survives a round trip."""

import pytest

from rnp_jax.document import read_document, to_json
from rnp_jax.errors import ResultError
from rnp_jax.report.detection import Detection


def test_a_round_trip_changes_nothing_but_what_is_not_finite(detection, tmp_path):
    (tmp_path / "detection.json").write_text(to_json(detection))
    back = read_document(tmp_path / "detection.json", Detection)
    assert back == detection
    assert back.triggers[0].labels[0].index is None  # infinite


def test_another_version_is_refused(detection, tmp_path):
    path = tmp_path / "detection.json"
    path.write_text(to_json(detection).replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(ResultError, match="schema_version 9"):
        read_document(path, Detection)
