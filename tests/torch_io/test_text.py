"""Messages about hostile values stay short, printable, and cheap to make."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.torch_io.text import Places, format_path, quote

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner), max_leaves=9
)


@given(VALUES)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_a_quote_is_short_and_printable(value):
    shown = quote(value)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= 6 * 80 + 5  # six letters for an escaped one


@given(st.text(max_size=80))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_short_text_is_quoted_whole(text):
    assert json.loads(quote(text)) == text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x" * 81, '"' + "x" * 80 + '"...'),
        ((2, 3), "(2, 3)"),
        ((), "()"),
        ([1, 2], "a list of 2 values"),
        ((1,) * 10**6, "a tuple of 1000000 values"),
        (b"\xff" * 2**24, ("b'" + "\\xff" * 80)[:80]),
        (None, "None"),
    ],
)
def test_each_kind_of_value(value, shown):
    assert quote(value) == shown


def test_nested_values_are_not_spelled_out():
    shared = deep = []
    for _ in range(60):
        shared, deep = [shared] * 10, [deep]
    assert quote(shared) == "a list of 10 values"  # 10**60 values
    for _ in range(5000):
        deep = {"k": deep}
    assert quote(deep) == "a dict of 1 values"


def test_a_path_reads_as_one_would_index_it():
    assert format_path(()) == "data"
    assert format_path(("state_dict", 3, "a\n")) == r'data["state_dict"][3]["a\n"]'


def test_few_of_many_places_are_spelled_out():
    assert Places([("a", 1), ()]).spell() == ('data["a"][1]', "data")
    spelled = Places((i,) * 60 for i in range(10**5)).spell()
    assert len(spelled) == 51
    assert spelled[-1] == "99950 more places"
