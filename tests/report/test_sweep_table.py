import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.errors import ResultError
from rnp_jax.report.comparison import summarise
from rnp_jax.report.comparison_text import show_share
from rnp_jax.report.schema import Stage
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.report.sweep_table import read_rows, to_markdown, write_tables
from tests.report.examples import share

FILES = ["leaderboard.md", "rows.csv", "rows.jsonl", "rows.parquet"]


def make_row(number: int, **fields) -> SweepRow:
    known = {
        "checkpoint": f"models/{number}.pt",
        "attack": "badnets",
        "poison_rate": 0.1,
        "seed": 0,
        "method": "rnp",
        "key": f"{number:064x}",
        "status": "ok",
    }
    return SweepRow.model_validate(known | fields)


def make_rows() -> list[SweepRow]:
    return [
        make_row(
            1,
            acc=share(1880, 2000),
            asr=share(120, 1811),
            acc_before=share(1920, 2000),
            der=0.957,
            pruned=12,
            units=192,
            timing=[Stage(stage="unlearn", seconds=1.5), Stage(stage="recover", seconds=2)],
            covariates={"shift": 0.5},
            report="items/1/report.html",
        ),
        make_row(3, status="failed", reason="out of memory", attack="unknown", poison_rate=None),
        make_row(2, status="rejected", reason='=HYPERLINK("x")', attack="unknown", poison_rate=None),
        make_row(0, method="clp", acc=share(1900, 2000), timing=[Stage(stage="score", seconds=0.25)]),
        make_row(0, method="anp", key="f" * 64, status="skipped", reason="the disk was full"),
    ]


def test_rows_are_read_back_in_order_of_path_and_method(tmp_path: Path):
    write_tables(tmp_path / "out", make_rows())
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == FILES
    read = read_rows(tmp_path / "out" / "rows.jsonl")
    assert [(row.checkpoint, row.method) for row in read] == [
        ("models/0.pt", "anp"), ("models/0.pt", "clp"), ("models/1.pt", "rnp"), ("models/2.pt", "rnp"),
        ("models/3.pt", "rnp"),
    ]  # fmt: skip
    assert {row.key: row for row in read} == {row.key: row for row in make_rows()}


def test_files_do_not_depend_on_the_order_of_rows(tmp_path: Path):
    write_tables(tmp_path / "a", make_rows())
    write_tables(tmp_path / "b", make_rows()[::-1])
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_parquet_has_types_nulls_and_its_schema_version(tmp_path: Path):
    write_tables(tmp_path, make_rows())
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table.schema.metadata[b"rnp_jax.schema_version"] == b"1"
    types = {field.name: field.type for field in table.schema}
    assert types["status"] == pa.dictionary(pa.int32(), pa.string())
    assert types["acc"] == types["asr_before_high"] == types["seconds"] == types["covariate: shift"] == pa.float64()
    assert types["acc_count"] == types["pruned"] == types["seed"] == pa.int64()
    row = table.to_pylist()[2]
    wilson = share(1880, 2000)
    assert (row["acc"], row["acc_low"], row["acc_high"], row["acc_count"], row["acc_total"]) == (
        wilson.value, wilson.low, wilson.high, 1880, 2000,
    )  # fmt: skip
    assert (row["status"], row["seconds"], row["seconds: unlearn"], row["seconds: score"]) == ("ok", 3.5, 1.5, None)
    assert (row["ra"], row["ra_low"], row["acc_before"], row["covariate: shift"]) == (None, None, 0.96, 0.5)
    failed = table.to_pylist()[4]
    assert (failed["status"], failed["acc"], failed["seconds"], failed["pruned"]) == ("failed", None, None, None)


def test_csv_has_the_columns_of_parquet_and_no_formula(tmp_path: Path):
    rows = make_rows()
    write_tables(tmp_path, rows)
    head, *lines = csv.reader(io.StringIO((tmp_path / "rows.csv").read_text("utf-8")))
    assert head == pq.read_schema(tmp_path / "rows.parquet").names
    assert len(lines) == len(rows)
    assert [line[head.index("reason")] for line in lines] == [
        "the disk was full", "", "", """'=HYPERLINK("x")""", "out of memory",
    ]  # fmt: skip
    done = dict(zip(head, lines[2], strict=True))
    assert (done["acc"], done["seconds"], done["ra"], done["report"]) == ("0.94", "3.5", "", "items/1/report.html")


def test_evidence_has_columns_of_its_own_where_some_row_has_it(tmp_path: Path):
    found = {"evidence": "none found", "visible_before": True, "smallest_after": 41.25, "ordinary_after": 28.0}
    write_tables(tmp_path / "without", make_rows())
    write_tables(tmp_path / "with", [row.model_copy(update=found) if row.acc else row for row in make_rows()])
    without, known = (pq.read_table(tmp_path / name / "rows.parquet") for name in ("without", "with"))
    added = [name for name in known.schema.names if name not in without.schema.names]
    assert added == ["evidence", "visible_before", "smallest_after", "ordinary_after"]
    assert known.schema.field("visible_before").type == pa.bool_()
    assert [[row[name] for name in added] for row in known.to_pylist()[1:4]] == [
        [*found.values()], [*found.values()], [None] * 4,
    ]  # fmt: skip
    lines = [*csv.DictReader(io.StringIO((tmp_path / "with" / "rows.csv").read_text("utf-8")))]
    assert [lines[1][name] for name in added] == ["none found", "True", "41.25", "28.0"]
    assert read_rows(tmp_path / "with" / "rows.jsonl")[1].ordinary_after == 28
    text = (tmp_path / "with" / "leaderboard.md").read_text("utf-8")
    assert "| models/1.pt | RNP | none found | 41.25 | 28 |" in text
    assert "| RNP | 0 | 0 | 1 | 0 |" in text
    assert "## Evidence" not in (tmp_path / "without" / "leaderboard.md").read_text("utf-8")


def test_a_sweep_without_items_has_its_tables(tmp_path: Path):
    write_tables(tmp_path, [])
    assert read_rows(tmp_path / "rows.jsonl") == ()
    assert pq.read_table(tmp_path / "rows.parquet").num_rows == 0
    assert "The sweep has no items." in (tmp_path / "leaderboard.md").read_text()


def test_markdown_counts_every_item_and_gives_reasons():
    text = to_markdown(make_rows())
    assert "1 of 5 items failed, so the sweep's exit code is not zero." in text
    for line in ("| ok | 2 |", "| rejected | 1 |", "| failed | 1 |", "| skipped | 1 |", "| all | 5 |"):
        assert line in text
    assert "| failed | models/3.pt | RNP | out of memory |" in text
    matrix = text.split("## ACC\n\n")[1].split("\n\n")[0].splitlines()
    assert matrix[0] == "| Attack | No defense | CLP | RNP |"
    assert matrix[2].startswith("| badnets, 10 % poisoned | 96.00% (")
    assert "## RA" not in text  # no row knows it
    assert text.split("## DER\n\n")[1].splitlines()[0] == "| Attack | RNP |"


def test_markdown_has_the_means_of_each_attack(rows: list[SweepRow]):
    text = to_markdown(rows)
    sections = dict(re.findall(r"^## (.*?)\n\n(.*?)(?=\n\n##|\Z)", text, re.MULTILINE | re.DOTALL))
    assert list(sections) == ["ACC", "ASR", "RA", "DER", "Pruned", "Outcomes of the items"]
    (summary,) = [s for s in summarise(rows) if s.keys == {"attack": "sig", "method": "clp"}]
    assert summary.acc
    for heading, shown in (("ACC", show_share(summary.acc)), ("DER", "0.910 ± 0.025"), ("Pruned", "11 ± 2.48")):
        head, _, line, _ = [each.strip("| ").split(" | ") for each in sections[heading].split("\n")]
        assert line[0] == "sig, 10 % poisoned"
        assert line[head.index("CLP")] == shown
    assert show_share(summary.acc).startswith(f"{summary.acc.value:.2%} (")
    assert text.count("Oracle sees the trigger, which no defender knows: a bound, not a defense.") == 1


def test_markdown_lists_notes_with_their_items():
    text = to_markdown([make_row(0), make_row(1, method="mine", note="Nothing | was pruned.")])
    assert text.split("## Notes\n\n")[1].splitlines()[2] == "| models/1.pt | mine | Nothing \\| was pruned. |"
    assert "## Notes" not in to_markdown([make_row(0)])


def test_markdown_lists_no_more_reasons_than_can_be_read():
    text = to_markdown([make_row(i, status="rejected", reason="not a checkpoint") for i in range(503)])
    assert text.count("not a checkpoint") == 500
    assert "3 further items are in rows.csv." in text


def drop_status(line: bytes) -> bytes:
    return json.dumps({k: v for k, v in json.loads(line).items() if k != "status"}).encode()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda line: line[:-9], "line 2 of .* is not JSON"),
        (lambda _: b"", "line 2 of .* is not JSON"),
        (lambda line: b"\xff" + line, "line 2 of .* is not JSON"),
        (lambda _: b"[" * 100_000, "line 2 of .* is not JSON"),
        (lambda _: b"[]", "line 2 of .* is not a row of a sweep"),
        (drop_status, "line 2 of .* is not a row of a sweep: status: Field required"),
        (lambda line: line.replace(b'"seed": 0', b'"seed": "x"'), "seed: .*integer"),
        (lambda line: line.replace(b'"seed"', b'"seeed"'), "seeed: Extra inputs"),
        (lambda line: line + b"\n" + line, "line 3 of .* is a second row of item"),
    ],
)
def test_damage_is_told_with_its_line(tmp_path: Path, damage: Callable[[bytes], bytes], said: str):
    write_tables(tmp_path, make_rows())
    path = tmp_path / "rows.jsonl"
    lines = path.read_bytes().splitlines()
    lines[1] = damage(lines[1])
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(ResultError, match=said):
        read_rows(path)


def test_files_that_cannot_be_read_or_written_are_told(tmp_path: Path):
    with pytest.raises(ResultError, match="cannot be read: No such file"):
        read_rows(tmp_path / "rows.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match=r"cannot be written: .* Choose another output folder"):
        write_tables(tmp_path / "file" / "out", make_rows())


@settings(deadline=None, derandomize=True, max_examples=40)
@given(text=st.text(min_size=1, max_size=20))
def test_any_text_survives(tmp_path_factory, text: str):
    out = tmp_path_factory.mktemp("out")
    row = make_row(
        0, checkpoint=text, reason=text, attack=text, covariates={text: 1.0}, timing=[Stage(stage=text, seconds=1)]
    )
    write_tables(out, [row])
    assert read_rows(out / "rows.jsonl") == (row,)
    (read,) = pq.read_table(out / "rows.parquet").to_pylist()
    assert (read["checkpoint"], read["attack"], read[f"covariate: {row.attack}"]) == (row.checkpoint, row.attack, 1.0)
