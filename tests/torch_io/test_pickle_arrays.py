"""Arrays of bytes rebuilt from what NumPy pickles."""

from typing import Any, cast

import numpy as np
import pytest

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import Limits
from rnp_jax.torch_io.nodes import Global, Opaque
from rnp_jax.torch_io.pickle_arrays import ARRAY_CALLS, ArrayNode, TypeNode, fill_array, fill_type
from rnp_jax.torch_io.pickle_cursor import PickleCursor

CURSOR = PickleCursor(b"", "batch", "the pickle", Limits(rank=2, pickle_bytes=1000))
ARRAY, DTYPE = Global("numpy.ndarray"), ARRAY_CALLS["numpy.dtype"](CURSOR, ("u1", 0, 1))
FLOAT = ARRAY_CALLS["numpy.dtype"](CURSOR, ("f4", 0, 1))
PIXELS = np.arange(250, 256, dtype=np.uint8).reshape(2, 3)


def make(state) -> ArrayNode:
    node = ARRAY_CALLS["numpy._core.multiarray._reconstruct"](CURSOR, (ARRAY, (0,), b"b"))
    fill_array(CURSOR, node, state)
    return node


def test_the_names_and_states_are_those_that_numpy_writes():
    rebuild, arguments, state = cast("tuple[Any, ...]", np.zeros((2, 3), np.uint8).__reduce__())
    assert f"{rebuild.__module__}.{rebuild.__name__}" in ARRAY_CALLS
    assert arguments == (np.ndarray, (0,), b"b")
    assert state == (1, (2, 3), np.dtype("u1"), False, bytes(6))
    assert np.dtype("u1").__reduce__()[:2] == (np.dtype, ("u1", False, True))


@pytest.mark.parametrize("content", [bytes(PIXELS), bytes(PIXELS).decode("latin-1")])
def test_either_order_and_spelling_of_the_content(content):
    np.testing.assert_array_equal(make((1, (2, 3), DTYPE, False, content)).value, PIXELS)
    np.testing.assert_array_equal(make((1, (3, 2), DTYPE, True, content)).value, PIXELS.T)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">i8", "<i4", ">i2", "|i1", "|b1", "|u1"])
def test_every_type_of_number_and_order_of_bytes(dtype):
    values = np.array([[0, 1, 0], [1, 1, 0]], dtype)
    (_, arguments, state) = cast("tuple[Any, ...]", values.dtype.__reduce__())
    node = ARRAY_CALLS["numpy.dtype"](CURSOR, arguments)
    fill_type(node, state)
    found = make((1, (2, 3), node, False, values.tobytes())).value
    assert found is not None
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


UNREAD = {
    "no state": None,
    "too short": (1, (1,), DTYPE, False),
    "a shape in a list": (1, [1], DTYPE, False, b"a"),
    "another type": (1, (1,), Opaque("numpy.dtype"), False, b"a"),
    "an order that is a number": (1, (1,), DTYPE, 0, b"a"),
    "a list of objects": (1, (1,), DTYPE, False, [1]),
    "an unknown order of bytes": (1, (1,), FLOAT, False, bytes(4)),
    "no pixels": (1, (0, 2**70), DTYPE, False, b""),
    "negative sides": (1, (-1, -1), DTYPE, False, b"a"),
    "a truth value as a side": (1, (True,), DTYPE, False, b"a"),
    "three dimensions of two": (1, (1, 1, 1), DTYPE, False, b"a"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_other_arrays_stay_unread(name):
    assert make(UNREAD[name]).value is None


REFUSED = {
    "too few bytes": (1, (2, 3), DTYPE, False, b"a"),
    "too many bytes": (1, (2,), DTYPE, False, b"abc"),
    "text beyond latin-1": (1, (1,), DTYPE, False, "\u20ac"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_content_that_does_not_fit_is_refused(name):
    with pytest.raises(CheckpointError):
        make(REFUSED[name])


def test_a_second_state_is_refused():
    state = (1, (1,), DTYPE, False, b"a")
    for first in (state, None):
        with pytest.raises(CheckpointError, match="twice"):
            fill_array(CURSOR, make(first), state)


def test_text_as_content_counts_as_bytes():
    with pytest.raises(CheckpointError, match=r"Limits\.pickle_bytes"):
        make((1, (1001,), DTYPE, False, "x" * 1001))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("numpy.dtype", ()),
        ("numpy.dtype", ("O8", 0, 1)),
        ("numpy.dtype", ("c8", 0, 1)),
        ("numpy.dtype", ("u" * 10**6, 0, 1)),
        ("numpy.dtype", (["u1"],)),
        ("numpy.core.multiarray._reconstruct", ()),
        ("numpy.core.multiarray._reconstruct", (Global("numpy.matrix"), (0,), b"b")),
        ("numpy.core.multiarray._reconstruct", (Opaque("numpy.ndarray"), (0,), b"b")),
    ],
)
def test_what_other_calls_give_stays_unread(name, arguments):
    node = ARRAY_CALLS[name](CURSOR, arguments)
    assert isinstance(node, Opaque)
    assert not isinstance(node, ArrayNode)
    if isinstance(node, TypeNode):
        fill_type(node, (3, "<", None))
        assert node.dtype is None
