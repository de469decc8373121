"""JSON that nobody trusts."""

import pytest

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.plain_json import parse_json


def test_plain_json_is_what_it_says():
    assert parse_json(b'{"a": [1, {"b": null}]}', "m.json", "an index") == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"a": 1, "a": 2}', "an index gives a name twice"),
        (b'[{"a": {"b": 1, "b": 1}}]', "an index gives a name twice"),
        (b"{", "an index is not plain JSON"),
        (b"\xff", "an index is not plain JSON"),
        (b"[" * 100_000, "an index is not plain JSON"),
        (b"1" * 5000, "an index is not plain JSON"),
    ],
)
def test_anything_else_is_refused(raw, reason):
    with pytest.raises(CheckpointError, match=reason):
        parse_json(raw, "m.json", "an index")
