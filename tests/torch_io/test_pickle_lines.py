"""Values in lines of text, against what pickle makes of the same lines."""

import math
import pickle

import pytest

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import Limits
from rnp_jax.torch_io.pickle_cursor import PickleCursor
from rnp_jax.torch_io.pickle_lines import take_float, take_index, take_integer, take_long, take_unicode


def open_line(line: bytes) -> PickleCursor:
    return PickleCursor(line + b"\n", "m.pt", "the pickle", Limits(integer_bytes=9, pickle_bytes=5000))


TAKERS = {b"I": take_integer, b"L": take_long, b"F": take_float, b"V": take_unicode}


@pytest.mark.parametrize(
    ("opcode", "line"),
    [
        (b"I", b"-7"),
        (b"I", b"01"),
        (b"I", b"00"),
        (b"I", b"4294967296"),
        (b"L", b"-7L"),
        (b"L", b"7"),
        (b"L", str(2**71 - 1).encode()),
        (b"F", b"0.1"),
        (b"F", b"-inf"),
        (b"F", b"1e300"),
        (b"V", b""),
        (b"V", b"a\\u000ab\\u005c \xe9"),
        (b"V", b"\\U0001f600"),
        (b"V", b"x" * 4999),
    ],
)
def test_lines_are_read_as_pickle_reads_them(opcode, line):
    expected = pickle.loads(opcode + line + b"\n.")
    found = TAKERS[opcode](open_line(line))
    assert (found, type(found)) == (expected, type(expected))


def test_a_float_may_be_no_number():
    assert math.isnan(take_float(open_line(b"nan")))


def test_a_place_in_the_memo():
    assert take_index(open_line(b"12")) == 12


@pytest.mark.parametrize(
    ("take", "line"),
    [
        (take_integer, b""),
        (take_integer, b"1_0"),
        (take_integer, b"9" * 21),
        (take_integer, b"7L"),
        (take_long, b"L"),
        (take_long, b"7LL"),
        (take_long, b"\xd9\xa1"),  # an Arabic digit
        (take_long, str(2**71).encode()),
        (take_long, b"9" * 701),
        (take_float, b"one"),
        (take_float, b""),
        (take_unicode, b"\\u00"),
        (take_unicode, b"\\U00110000"),
        (take_unicode, b"x" * 5000),
        (take_index, b"-1"),
        (take_index, b"1" * 11),
    ],
)
def test_other_lines_are_refused(take, line):
    with pytest.raises(CheckpointError):
        take(open_line(line))
