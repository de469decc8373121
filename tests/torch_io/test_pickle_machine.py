"""Plain values as CPython pickles them, read by the machine: the same values."""

import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import DEFAULT_LIMITS, Limits
from rnp_jax.torch_io.nodes import Opaque, walk
from rnp_jax.torch_io.pickle_cursor import PickleCursor
from rnp_jax.torch_io.pickle_machine import PickleMachine

KEYS = st.text() | st.integers(-(2**63), 2**63 - 1)
LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False) | st.text() | st.binary()
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner), max_leaves=30
)
CHECKED = settings(max_examples=100, deadline=None, derandomize=True)


def read(data: bytes, limits: Limits = DEFAULT_LIMITS):
    cursor = PickleCursor(data, "m.pt", "the pickle", limits)
    value = PickleMachine(cursor).run()
    assert cursor.position == len(data)
    return value


@given(value=TREES, protocol=st.integers(0, 5))
@CHECKED
def test_what_cpython_writes_is_read(value, protocol):
    assert read(pickle.dumps(value, protocol)) == value


def test_special_floats():
    values = read(pickle.dumps([math.nan, math.inf, -0.0], 2))
    assert math.isnan(values[0])
    assert values[1] == math.inf
    assert math.copysign(1, values[2]) == -1


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"U\x03abc.", "abc"),
        (b"T\x03\0\0\0abc.", "abc"),
        (b"U\x01\xff.", b"\xff"),
        (b"I4294967296\n.", 2**32),
        (b"I01\n.", True),
        (b"(I00\nl.", [False]),
    ],
)
def test_what_python_2_wrote(data, value):
    result = read(b"\x80\x02" + data)
    assert (result, type(result)) == (value, type(value))


@pytest.mark.parametrize(
    "data", [b"I1_0\n.", b"I" + b"9" * 30 + b"\n.", b"I\n.", b"T\xff\xff\xff\xff.", b"X\x01\0\0\0\xff."]
)
def test_malformed_values(data):
    with pytest.raises(CheckpointError):
        read(data)


@pytest.mark.parametrize(
    "value", [{1, 2}, frozenset([1]), bytearray(b"abc"), 1 + 2j, slice(1), Exception("x"), len, {(1, 2): 3}]
)
def test_other_objects_stay_opaque(value):
    tree = read(pickle.dumps([value, 7], 5))
    found = [node for _, node in walk(tree) if isinstance(node, Opaque)]
    assert tree[1] == 7
    assert found or isinstance(next(iter(tree[0])), Opaque)


def test_calls_are_those_that_the_reader_knows():
    data = b"cposix\nsystem\nK\x01\x85R."
    assert (type(read(data)), read(data).name) == (Opaque, "posix.system")
    cursor = PickleCursor(data, "m.pt", "the pickle", DEFAULT_LIMITS)
    assert PickleMachine(cursor, calls={"posix.system": lambda _, arguments: arguments[0] + 1}).run() == 2


def test_the_encoding_of_strings_is_the_readers():
    cursor = PickleCursor(b"U\x02\xc3\xa9.", "m.pt", "the pickle", DEFAULT_LIMITS)
    assert PickleMachine(cursor, encoding="latin-1").run() == "\xc3\xa9"
    assert read(b"U\x02\xc3\xa9.") == "\xe9"


def test_names_put_together_from_the_memo_count_as_bytes():
    name = b"X\xe8\x03\0\0" + b"m" * 1000 + b"q\0]("
    limits = Limits(pickle_bytes=5000)
    assert len(read(name + 4 * b"h\0X\0\0\0\0\x93" + b"e0.", limits)) == 1000
    with pytest.raises(CheckpointError, match=r"Limits\.pickle_bytes"):
        read(name + 6 * b"h\0X\0\0\0\0\x93" + b"e0.", limits)
