import pytest
from pydantic import ValidationError

from rnp_jax.report.schema import Stage
from rnp_jax.report.sweep_row import RUN_FIELDS, SweepRow

ROW = SweepRow(key="0" * 64, checkpoint="a.pt", method="rnp", status="rejected", reason="empty")


def test_a_file_that_was_not_read_needs_no_more_than_its_reason():
    assert (ROW.attack, ROW.acc, ROW.seconds) == ("unknown", None, None)
    assert SweepRow.model_validate_json(ROW.model_dump_json()) == ROW


def test_seconds_are_of_all_stages():
    timing = (Stage(stage="score", seconds=1.5), Stage(stage="measure", seconds=0.25))
    assert ROW.model_copy(update={"timing": timing}).seconds == 1.75


def test_what_may_differ_between_two_runs_are_fields():
    assert set(RUN_FIELDS) < set(SweepRow.model_fields)


@pytest.mark.parametrize(
    "values", [{"status": "fine"}, {"key": "0"}, {"surplus": 1}, {"sha256": "x"}, {"poison_rate": 1.5}]
)
def test_anything_else_is_refused(values):
    with pytest.raises(ValidationError):
        SweepRow.model_validate({**ROW.model_dump(), **values})
