import csv
import io
import re

import pytest

from rnp_jax.report.comparison import Estimate
from rnp_jax.report.comparison_text import (
    by_attack,
    csv_text,
    escape_markdown,
    markdown_table,
    name_attack,
    name_method,
    show_count,
    show_rating,
    show_share,
)
from rnp_jax.untrusted_text import spell_hidden
from tests.report.examples import make_rows


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_cell_is_a_formula(text: str):
    (cells,) = csv.reader(io.StringIO(csv_text([[text, -1.5, 'a "b", c']])))
    assert cells == [f"'{spell_hidden(text)}", "-1.5", 'a "b", c']


def test_no_cell_steers_a_terminal():
    assert csv_text([["a\x1b[2J\u202e", "two\nlines", "\udcff"]]) == 'a\\x1b[2J\\u202e,"two\nlines",\\udcff\r\n'


def test_every_poison_rate_is_a_group_and_heads_come_after_their_networks():
    rows = make_rows(attacks=("sig",), rates=(0.01, 0.1), seeds=(0,))
    rows += [row.model_copy(update={"mode": "head"}) for row in rows]
    tables = by_attack(rows)
    assert list(tables) == [("sig", 0.01), ("sig", 0.1)]
    names = [name_method(summary.keys) for summary in tables["sig", 0.01]]
    assert names[:4] == ["No defense", "No defense, head", "Hölder", "Hölder, head"]
    assert len(names) == 18


def test_names_and_figures():
    assert name_attack("x", None) == "x, poison rate unknown"
    assert name_attack("x", 0.005) == "x, 0.5 % poisoned"
    assert show_share(None) == show_rating(None) == show_count(None) == "unknown"
    assert show_share(Estimate(0.5, None, None, 1)) == "50.00%"
    assert show_share(Estimate(0.5, 0.25, 1.0, 1)) == "50.00% (25.00\N{EN DASH}100.00)"
    assert show_rating(Estimate(0.5, None, None, 1)) == "0.500"
    assert show_rating(Estimate(0.91, 0.885, 0.935, 3)) == "0.910 ± 0.025"
    assert show_count(Estimate(1200, None, None, 1)) == "1,200"
    assert show_count(Estimate(11.5, 9.25, 13.75, 2)) == "11.5 ± 2.25"


def test_hostile_text_stays_in_its_cell():
    hostile = "a|b\n<img src=x onerror=1> `c` [d](e) \\ \u202e *f* &amp;"
    escaped = escape_markdown(hostile)
    assert not re.search(r"(?<!\\)[|`*\[\]]|<|\n|\u202e", escaped)
    assert "&amp;amp;" in escaped
    (_, _, row) = markdown_table(["x"], [[hostile]]).split("\n")
    assert len(re.findall(r"(?<!\\)\|", row)) == 2
