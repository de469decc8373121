"""Evidence over a sweep: levels apart, counted and listed."""

import re

import pytest

from rnp_jax.report.sweep_evidence import (
    LEVELS,
    UNSEEN,
    count_levels,
    find_searched,
    list_items,
    say_level,
    say_size,
    show_evidence,
)
from rnp_jax.report.sweep_row import SweepRow

FOUND = [
    ("a.pt", "clp", "still there", True, 1.4, 28.0),
    ("b.pt", "clp", "traces", False, 12.345, 30.0),
    ("c.pt", "clp", "none found", True, None, None),
    ("a.pt", "ft", "none found", True, 41.0, 28.0),
    ("b.pt", "ft", "none found", False, 1234.5, 30.0),
    ("a.pt", "none", None, None, None, None),
]
FIELDS = ("checkpoint", "method", "evidence", "visible_before", "smallest_after", "ordinary_after")


@pytest.fixture
def searched() -> list[SweepRow]:
    return [
        SweepRow.model_validate({"key": f"{i:064x}", "status": "ok", **dict(zip(FIELDS, values, strict=True))})
        for i, values in enumerate(FOUND)
    ]


def test_nothing_found_where_nothing_was_visible_is_told_apart(searched):
    assert [say_level(row) for row in find_searched(searched)] == [
        "still there", "traces", "none found", "none found", UNSEEN,
    ]  # fmt: skip
    assert set(map(say_level, find_searched(searched))) == set(LEVELS)


def test_sizes_that_no_search_reached_are_said_so():
    assert [say_size(size) for size in (1.4, 1234.5, None)] == ["1.4", "1,234", "not reached"]


def test_levels_are_counted_by_method_in_the_order_of_every_table(searched):
    expected = [["CLP", "1", "1", "1", "0"], ["FT", "0", "0", "1", "1"]]
    assert count_levels(searched) == count_levels(searched[::-1]) == expected
    head = searched[3].model_copy(update={"mode": "head"})
    assert [line[0] for line in count_levels([head, *searched])] == ["CLP", "FT", "FT, head"]


def test_every_item_with_evidence_is_listed(searched):
    listed = list_items(searched)
    assert len(listed) == 5
    assert listed[0] == ["a.pt", "CLP", "still there", "1.4", "28"]
    assert listed[2] == ["c.pt", "CLP", "none found", "not reached", "not reached"]


def test_the_section_has_the_counts_and_is_left_out_without_evidence(searched):
    markup = str(show_evidence(searched))
    cells = re.findall("<t[hd](?: [^>]*)?>(.*?)</t[hd]>", markup)
    assert cells[:5] == ["Method", "Still there", "Traces", "None found", "Not visible before"]
    assert cells[5:] == ["CLP", "1", "1", "1", "0", "FT", "0", "0", "1", "1"]
    assert "which says little" in markup
    assert show_evidence(searched[-1:]) is None
