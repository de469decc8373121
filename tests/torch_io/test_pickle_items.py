"""Keys and values of a pickle put into a dict."""

from typing import Any

import pytest

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import Limits
from rnp_jax.torch_io.nodes import Opaque
from rnp_jax.torch_io.pickle_cursor import PickleCursor
from rnp_jax.torch_io.pickle_items import set_items


def put(*flat, **there) -> dict[Any, Any]:
    target: dict[Any, Any] = dict(there)
    set_items(PickleCursor(b"", "m.pt", "the pickle", Limits(opcodes=3)), target, flat)
    return target


def test_plain_keys_are_themselves():
    assert put("a", 1, b"b", 2, -(2**63), 3, None, 4, 0.5, 5, c=6) == {
        "c": 6, "a": 1, b"b": 2, -(2**63): 3, None: 4, 0.5: 5,
    }  # fmt: skip


def test_a_flat_tuple_is_not_hashed():
    (key,) = put((1, "a"), 2)
    assert (type(key), key.name) == (Opaque, "tuple as a key")
    assert len(put((1,), 2, (1,), 3)) == 2


@pytest.mark.parametrize(
    ("flat", "reason"),
    [
        (("b",), "a key without a value"),
        (("a", 1), '"a" appears twice'),
        (("b", 1, "b", 2), '"b" appears twice'),
        (([], 1), "a dict key of type list"),
        ((2**63, 1), "a dict key of type int"),
        ((((),), 1), "a dict key of type tuple"),
        (((1, 2, 3, 4), 1), "Limits.opcodes"),
    ],
)
def test_other_keys_are_refused(flat, reason):
    with pytest.raises(CheckpointError, match=reason):
        put(*flat, a=0)
