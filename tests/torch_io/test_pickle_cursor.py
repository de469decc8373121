"""Bytes taken within bounds, and work that is counted."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import DEFAULT_LIMITS, Limits
from rnp_jax.torch_io.pickle_cursor import PickleCursor


def open_cursor(data: bytes, limits: Limits = DEFAULT_LIMITS, start: int = 0) -> PickleCursor:
    return PickleCursor(data, "m.pt", "the pickle", limits, start)


@given(data=st.binary(max_size=40), start=st.integers(0, 40), counts=st.lists(st.integers(0, 12), max_size=6))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_bytes_are_taken_in_order_and_never_beyond_the_end(data, start, counts):
    cursor, position = open_cursor(data, start=start), start
    for count in counts:
        if position + count > len(data):
            with pytest.raises(CheckpointError, match=rf"before byte {position}: {count} bytes are announced, but the"):
                cursor.take(count)
        else:
            assert cursor.take(count) == data[position : position + count]
            position += count
        assert cursor.position == position


def test_a_pickle_ends_at_its_limit_whatever_follows():
    cursor = open_cursor(b"123456", Limits(pickle_bytes=4), start=1)
    assert cursor.take(4) == b"2345"
    with pytest.raises(CheckpointError, match=r"Limits.pickle_bytes ends it after 0"):
        cursor.take(1)


@pytest.mark.parametrize(("layout", "value"), [("<B", 200), ("<H", 60_000), ("<i", -5), ("<Q", 2**63), (">d", -0.5)])
def test_numbers(layout, value):
    assert open_cursor(struct.pack(layout, value)).take_number(layout) == value


def test_texts_are_utf_8_and_keep_the_surrogates_that_pickle_writes():
    assert open_cursor("\u20ac".encode()).take_text(3) == "\u20ac"
    assert open_cursor("\ud800".encode("utf-8", "surrogatepass")).take_text(3) == "\ud800"
    with pytest.raises(CheckpointError, match="not UTF-8"):
        open_cursor(b"\xff").take_text(1)


def test_a_line_ends_within_1024_bytes():
    cursor = open_cursor(b"abc\n\n" + b"x" * 1023 + b"\n" + b"x" * 1024 + b"\n")
    assert [cursor.take_line() for _ in range(3)] == ["abc", "", "x" * 1023]
    with pytest.raises(CheckpointError, match="a line without an end within 1024 bytes"):
        cursor.take_line()


@given(length=st.integers(0, 9000), most=st.integers(1, 9000), limit=st.integers(0, 9000))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_line_may_be_as_long_as_its_reader_says(length, most, limit):
    cursor = open_cursor(b"x" * length + b"\nrest", Limits(pickle_bytes=limit))
    if length + 1 <= min(most, limit):
        assert cursor.take_raw_line(most) == b"x" * length
        assert cursor.position == length + 1
    else:
        with pytest.raises(CheckpointError, match=f"a line without an end within {most} bytes"):
            cursor.take_raw_line(most)


@pytest.mark.parametrize(("charge", "limit"), [("charge", "opcodes"), ("charge_bytes", "pickle_bytes")])
def test_work_adds_up_to_its_limit(charge, limit):
    cursor = open_cursor(b"", Limits(**{limit: 10}))
    getattr(cursor, charge)(4)
    getattr(cursor, charge)(6)
    with pytest.raises(CheckpointError, match=rf"m\.pt: the pickle, before byte 0: .*more than 10 .*Limits\.{limit}"):
        getattr(cursor, charge)(1)
