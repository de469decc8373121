"""Plain values as CPython pickles them, read by the machine: the same values."""

import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import DEFAULT_LIMITS
from rnp_jax.torch_io.nodes import Opaque, walk
from rnp_jax.torch_io.pickle_cursor import PickleCursor
from rnp_jax.torch_io.pickle_emitter import PickleEmitter
from rnp_jax.torch_io.pickle_machine import PickleMachine

KEYS = st.text() | st.integers(-(2**63), 2**63 - 1)
LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False) | st.text() | st.binary()
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner), max_leaves=30
)
CHECKED = settings(max_examples=100, deadline=None, derandomize=True)


def read(data: bytes):
    cursor = PickleCursor(data, "m.pt", "the pickle", DEFAULT_LIMITS)
    value = PickleMachine(cursor).run()
    assert cursor.position == len(data)
    return value


@given(value=TREES, protocol=st.integers(2, 5))
@CHECKED
def test_what_cpython_writes_is_read(value, protocol):
    assert read(pickle.dumps(value, protocol)) == value


@given(value=TREES)
@CHECKED
def test_what_the_emitter_writes_is_read_by_cpython_and_by_the_machine(value):
    data = PickleEmitter().emit(value)
    assert pickle.loads(data) == value  # bytes by _codecs.encode, as CPython itself spells them in protocol 2
    assert read(data) == value


def test_shared_values_stay_shared():
    inner = [1]
    first, second = read(PickleEmitter().emit([inner, inner]))
    assert first is second


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
