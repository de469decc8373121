"""Outcomes that later calls add to, and the table over them."""

from pathlib import Path

import pytest

from benchmarks.evidence_table import Row, count_by_ra, list_errors, took
from benchmarks.outcomes import Outcome, append_line, make_matrix, make_table, read_lines, summarise
from rnp_jax.report.schema import Evidence
from tests.runs import Defended

FIRST = Outcome(
    bed="digits_badnets", attack="badnets", method="fst", seed=0, ranked=True,
    acc=(0.99, 0.97), asr=(1.0, 0.04), ra=(0.0, 0.9), worst_class=0.02, defended=10.0,
)  # fmt: skip
SECOND = FIRST.model_copy(update={"seed": 1, "asr": (1.0, 0.08), "worst_class": 0.06, "defended": 20.0})


def test_a_cell_is_found_again_and_the_last_one_counts(tmp_path: Path):
    kept = tmp_path / "outcomes.jsonl"
    assert read_lines(kept, Outcome) == {}
    for each in (FIRST, SECOND, worse := SECOND.model_copy(update={"asr": (1.0, 0.5)})):
        append_line(kept, each)
    assert read_lines(kept, Outcome) == {FIRST.cell: FIRST, worse.cell: worse}
    assert len(kept.read_text().splitlines()) == 3


def test_a_line_of_the_table_has_means_ranges_and_the_worst_class():
    line = make_table([FIRST, SECOND]).splitlines()[-1]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        *("digits\\_badnets", "2", "99.0 / 100.0 / 0.0", "FST"),
        *("97.0", "6.0 (4.0–8.0)", "90.0", "-4.0 (6.0)", "15"),
    ]


def test_the_matrix_has_a_column_a_method_and_a_line_a_checkpoint():
    other = FIRST.model_copy(update={"bed": "clean", "method": "rnp", "asr": (None, None), "ra": (None, None)})
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in make_matrix([FIRST, SECOND, other]).splitlines()
    ]
    assert lines[0][2:] == ["FST", "RNP"]
    assert lines[2] == ["digits\\_badnets", "99.0 / 100.0", "6.0 / 90.0", ""]
    assert lines[3] == ["clean", "99.0 / –", "", "– / –"]


def test_a_result_says_what_its_outcome_is(defended: Defended):
    result = defended.result
    found = summarise("digits_badnets", result, 3)
    assert found.cell == ("digits_badnets", result.method, 3)
    before, after = result.before.acc, result.after.acc
    assert before is not None
    assert after is not None
    assert found.acc == (before.value, after.value)
    assert result.after.asr is not None
    assert found.asr[1] == found.left == result.after.asr.value
    lost = [each.before.value - each.after.value for each in result.classes if each.before and each.after]
    assert found.worst_class == max(lost) > min(lost)
    assert found.defended is not None
    assert 0 < found.defended < sum(stage.seconds for stage in result.timing)


def evidence_of(level: str, *, visible: bool = True) -> Evidence:
    found = {"level": level, "visible": visible, "reasons": ("Why.",), "labels": ()}
    return Evidence.model_validate({**found, "ordinary_before": 9.0, "ordinary_after": 9.0})


@pytest.mark.parametrize(
    ("left", "level", "visible", "named"),
    [
        (0.5, "none found", True, "False comfort: 1 of 1"),
        (0.5, "none found", False, "Nothing seen before or after: 1 of 1"),
        (0.01, "still there", True, "False alarm: 1 of 1"),
        (0.5, "still there", True, ""),
    ],
)
def test_findings_that_mislead_are_counted_and_named(left: float, level: str, visible: bool, named: str):
    row = Row(**{**FIRST.model_dump(), "asr": (1.0, left)}, seconds=1.0, evidence=evidence_of(level, visible=visible))
    text = list_errors([row])
    told = [line for line in text.splitlines() if line.startswith(("False", "Nothing"))]
    assert [line[:-1] for line in told if ": 0 of" not in line] == [named] * bool(named)
    assert text.count("Why.") == bool(named)


def test_findings_are_counted_by_ra_too():
    rows = [Row(**{**FIRST.model_dump(), "ra": (0.0, ra)}, evidence=evidence_of("traces")) for ra in (0.19, 0.2, 1.0)]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in count_by_ra(rows).splitlines()[2:]]
    assert [(line[0], line[3]) for line in cells] == [
        *(("0% to 20%", "1"), ("20% to 50%", "1"), ("50% to 90%", "0"), ("90% to 100%", "1")),
    ]
    assert took(rows[0])
    assert not took(rows[0].model_copy(update={"asr": (0.4, 0.1)}))
