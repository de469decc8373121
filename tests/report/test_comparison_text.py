import csv
import io
import re

import pytest

from rnp_jax.report.comparison import Comparison, Estimate, summarise
from rnp_jax.report.comparison_text import (
    by_attack,
    csv_text,
    escape_markdown,
    markdown_table,
    name_attack,
    show_rating,
    show_share,
    to_csv,
    to_markdown,
)
from tests.report.examples import make_comparison, make_rows


def test_csv_holds_every_run_and_its_numbers(comparison: Comparison):
    lines = list(csv.DictReader(io.StringIO(to_csv(comparison.rows))))
    assert len(lines) == len(comparison.rows)
    for line, row in zip(lines, comparison.rows, strict=True):
        assert row.asr
        assert (line["attack"], line["method"], int(line["seed"])) == (row.attack, row.method, row.seed)
        assert float(line["poison_rate"]) == row.poison_rate
        assert [float(line[f"asr{part}"]) for part in ("", "_low", "_high")] == [
            row.asr.value,
            row.asr.low,
            row.asr.high,
        ]
        assert (int(line["asr_count"]), int(line["asr_total"])) == (row.asr.count, row.asr.total)
        assert line["acc_without_target"] == ""
        assert line["der"] == ("" if row.der is None else str(row.der))
        assert line["seconds: scoring"] == ("" if row.method == "none" else str(1.0 + row.seed))
        assert float(line["covariate: trigger shift / class spread"]) == 0.5 + row.seed


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_cell_is_a_formula(text: str):
    (cells,) = csv.reader(io.StringIO(csv_text([[text, -1.5, 'a "b", c']])))
    assert cells == [f"'{text}", "-1.5", 'a "b", c']


def test_markdown_has_a_table_an_attack_with_the_means(comparison: Comparison):
    text = to_markdown(comparison)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["sig, 10 % poisoned", "badnets, 10 % poisoned"]
    rows = [line for line in text.splitlines() if line.startswith("| CLP ")]
    (summary,) = [s for s in summarise(comparison.rows) if s.keys == {"attack": "sig", "method": "clp"}]
    assert summary.acc
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert cells[1] == "3"
    assert cells[2] == show_share(summary.acc)
    assert cells[2].startswith(f"{summary.acc.value:.2%} (")
    assert cells[5:] == ["0.910 ± 0.025", "11 of 192", "4 s"]
    assert "| Oracle (not available to a defender: it sees the trigger) | 3 |" in text
    assert text.count("The oracle is not available to a defender") == 1


def test_every_poison_rate_has_a_table_and_the_head_its_rows(result):
    rows = make_rows(attacks=("sig",), rates=(0.01, 0.1), seeds=(0,))
    rows += [row.model_copy(update={"mode": "head"}) for row in rows]
    tables = by_attack(rows)
    assert list(tables) == [("sig", 0.01), ("sig", 0.1)]
    names = [
        line.split("|")[1].strip() for line in to_markdown(make_comparison(result, rows)).splitlines() if "|" in line
    ]
    assert names[2:6] == ["No defense", "No defense, head", "Hölder", "Hölder, head"]


def test_names_and_figures():
    assert name_attack("x", None) == "x, poison rate unknown"
    assert name_attack("x", 0.005) == "x, 0.5 % poisoned"
    assert show_share(None) == show_rating(None) == "unknown"
    assert show_share(Estimate(0.5, None, None, 1)) == "50.00%"
    assert show_share(Estimate(0.5, 0.25, 1.0, 1)) == "50.00% (25.00\N{EN DASH}100.00)"
    assert show_rating(Estimate(0.5, None, None, 1)) == "0.500"


def test_hostile_text_stays_in_its_cell():
    hostile = "a|b\n<img src=x onerror=1> `c` [d](e) \\ \u202e *f* &amp;"
    escaped = escape_markdown(hostile)
    assert not re.search(r"(?<!\\)[|`*\[\]]|<|\n|\u202e", escaped)
    assert "&amp;amp;" in escaped
    (_, _, row) = markdown_table(["x"], [[hostile]]).split("\n")
    assert len(re.findall(r"(?<!\\)\|", row)) == 2


def test_notes_name_their_run(result):
    rows = make_rows(seeds=(4,))
    rows[2] = rows[2].model_copy(update={"note": "Nothing | was pruned."})
    text = to_markdown(make_comparison(result, rows))
    assert rows[2].method == "mine"  # which no title is known of
    assert f"- {rows[2].method} on sig, 10 % poisoned, seed 4: Nothing \\| was pruned." in text
