"""ASR after an attempt to bring backdoors back: its column in every table, its words, and how many it brings back."""

import csv
import io
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rnp_jax.report.leaderboard_matrix import list_metrics, list_results, make_matrix, metric_table
from rnp_jax.report.leaderboard_sections import show_matrix
from rnp_jax.report.leaderboard_table import show_items
from rnp_jax.report.outcome_matrix import say_recovered
from rnp_jax.report.sweep_reactivation import name_column, say_attempt
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.report.sweep_table import read_rows, to_markdown, write_tables
from tests.report.examples import share
from tests.report.test_leaderboard_table import data_of
from tests.report.test_outcome import make_row


def tried(i: int, after: int | None, control: int | None = 10, **fields) -> SweepRow:
    figures = {"asr_reactivated": after, "asr_reactivated_control": control if after is not None else None}
    shares = {name: None if count is None else share(count, 1000) for name, count in figures.items()}
    known = {"key": f"{i:064x}", "checkpoint": f"{i}.pt", "reactivation": "ra", "poison_rate": 0.1}
    return make_row(**known | shares | fields)


@pytest.fixture
def rows() -> list[SweepRow]:
    """Two backdoors under one method, one of which comes back; another method; no known trigger; not defended."""
    return [
        tried(0, 700),
        tried(1, 300),
        tried(0, 20, None, key="a" * 64, method="clp"),
        tried(2, None, asr=None, attack="none", poison_rate=None),
        make_row(key="b" * 64, checkpoint="0.pt", poison_rate=0.1, method="none", asr=1000),
    ]


def test_the_column_is_named_after_the_attempt_and_says_what_it_means(rows):
    assert name_column(rows) == "ASR after RA"
    assert "(the metric RA is something else)" in say_attempt(rows)
    assert "(by default 5) on clean images (1,000), a handful of which (5) carry the trigger" in say_attempt(rows)
    other = [row.model_copy(update={"reactivation": "wba"}) for row in rows]
    assert name_column(other) == "ASR after WBA"
    assert "metric" not in say_attempt(other)
    assert name_column(rows[-1:]) == say_attempt(rows[-1:]) == say_recovered(rows[-1:]) == ""
    assert name_column([rows[0].model_copy(update={"reactivation": "later"})]) == "ASR after LATER"


def test_means_with_intervals_stand_where_asr_does(rows):
    assert list(list_metrics(rows))[:3] == ["acc", "asr", "asr_reactivated"]
    assert "asr_reactivated" not in list_metrics(rows[-1:])
    names, lines = metric_table(make_matrix(rows), "asr_reactivated")
    assert (names, lines[-1]) == (["CLP", "RNP"], ("no known trigger", [None, None]))
    ((_, (clp, rnp)), _) = lines
    assert (clp.value, clp.n, rnp.value, rnp.n) == (0.02, 1, 0.5, 2)
    assert (rnp.low, rnp.high) == (0, 1)
    text = to_markdown(rows)
    heading, told, table = text[text.index("## ASR after RA") :].split("\n\n")[:3]
    assert heading == "## ASR after RA"
    assert told.startswith("How often the trigger works after RA")
    assert "| sig, 10 % poisoned | 2.00% (1.30–3.07) | 50.00% (0.00–100.00) |" in table


def test_the_checkpoint_as_it_came_has_no_such_figure(rows):
    added = [row for row in list_results(rows[:1]) if row.method == "none"]
    assert [(row.reactivation, row.asr_reactivated, row.asr_reactivated_control) for row in added] == [
        (None, None, None)
    ]


def test_cells_and_items_show_it_and_a_dash_where_no_trigger_is_known(rows):
    page = str(show_matrix(rows))
    assert re.findall("ASR after RA\N{NO-BREAK SPACE}([^<]*)<", page) == ["2.0%", "50.0%"]
    shown = data_of(rows)
    head = re.findall('<th scope="col">(.*?)</th>', str(show_items(rows)))
    place = head.index("ASR after RA")
    assert head[place - 1 : place + 2] == ["ASR", "ASR after RA", "RA"]
    assert place in shown["numbers"]
    assert [cells[place] for cells in shown["rows"]] == [
        ["70.00%", 0.7, "control 1.00%", None],
        ["30.00%", 0.3, "control 1.00%", None],
        ["2.00%", 0.02, "", None],
        ["\N{EN DASH}", None, "", None],
        ["", None, "", None],
    ]


def test_a_page_says_how_many_come_back(rows):
    said = say_recovered([*rows, tried(3, 1000, method="ft", asr=900)])
    assert said == (
        "Where ASR is at most 50% after the method, RA raises it by more than 20 points, beyond the 95 % intervals: "
        "RNP 2 of 2, CLP 0 of 1."
    )
    assert say_recovered([tried(0, 220)]).endswith(": RNP 0 of 1."), "its interval begins below 20 points"


def test_tables_have_its_columns_where_it_was_asked_for_and_lines_its_fields(rows, tmp_path: Path):
    write_tables(tmp_path / "with", rows)
    write_tables(tmp_path / "without", rows[-1:])
    names = {name: pq.read_schema(tmp_path / name / "rows.parquet").names for name in ("with", "without")}
    parts = ("", "_low", "_high", "_count", "_total")
    shares = [f"{name}{part}" for name in ("asr_reactivated", "asr_reactivated_control") for part in parts]
    assert [name for name in names["with"] if name not in names["without"]] == ["reactivation", *shares]
    lines = [*csv.DictReader(io.StringIO((tmp_path / "with" / "rows.csv").read_text("utf-8")))]
    shown = ("method", "reactivation", "asr_reactivated", "asr_reactivated_control")
    assert [[line[name] for name in shown] for line in lines] == [
        ["clp", "ra", "0.02", ""], ["none", "", "", ""], ["rnp", "ra", "0.7", "0.01"], ["rnp", "ra", "0.3", "0.01"],
        ["rnp", "ra", "", ""],
    ]  # fmt: skip
    assert {row.key: row for row in read_rows(tmp_path / "with" / "rows.jsonl")} == {row.key: row for row in rows}
    assert "reactivat" not in (tmp_path / "without" / "rows.jsonl").read_text("utf-8")
