"""Walking trees, and refusing those that would trap a walker."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import DEFAULT_LIMITS, Limits
from rnp_jax.torch_io.nodes import Opaque, OrderedDictNode, StorageRef, TensorRef, check_tree, children, walk

TREES = st.recursive(
    st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=2), inner), max_leaves=20
)


def flatten(node, location=()):
    """The definition of `walk`, by recursion."""
    yield location, node
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from flatten(value, (*location, key))


def measure_depth(node) -> int:
    parts = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    return 1 + max(map(measure_depth, parts)) if parts else 0


@given(TREES)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_walk_and_check_tree_count_alike(tree):
    places = list(walk(tree))
    assert places == list(flatten(tree))
    depth = measure_depth(tree)
    check_tree(tree, "m.pt", Limits(nodes=len(places), depth=max(depth, 1)))
    if len(places) > 1:
        with pytest.raises(CheckpointError, match=rf"more than {len(places) - 1} values \(Limits.nodes\)"):
            check_tree(tree, "m.pt", Limits(nodes=len(places) - 1))
    if depth > 1:
        with pytest.raises(CheckpointError, match=rf"deeper than {depth - 1} levels \(Limits.depth\)"):
            check_tree(tree, "m.pt", Limits(depth=depth - 1))


def test_the_metadata_of_a_state_dict_is_part_of_the_tree():
    node = OrderedDictNode(w=1)
    node.metadata = {"version": 2}
    assert list(children(node)) == [("w", 1), ("_metadata", {"version": 2})]
    assert [place for place, _ in walk([node])] == [(), (0,), (0, "w"), (0, "_metadata"), (0, "_metadata", "version")]


def test_sharing_is_no_cycle():
    shared = [[1], [2]]
    check_tree([shared, {"a": shared, "b": [shared]}], "m.pt", DEFAULT_LIMITS)
    shared[0].append(shared)
    with pytest.raises(CheckpointError, match="holds itself"):
        check_tree([shared], "m.pt", DEFAULT_LIMITS)


def test_a_wide_value_that_appears_often_costs_its_width_once():
    wide = list(range(50_000))
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"Limits\.nodes"):
        check_tree([wide] * 50_000, "m.pt", DEFAULT_LIMITS)
    assert time.perf_counter() - start < 5  # hours if each appearance costs it


def test_sizes_are_python_integers():
    storage = StorageRef("0", "float64", 2**62)
    assert storage.nbytes == 2**65
    ref = TensorRef(storage, 0, (np.iinfo(np.int64).max, 4), (0, 0))
    assert (ref.dtype, ref.nbytes) == ("float64", 32 * (2**63 - 1))


def test_unread_objects_are_equal_to_none_but_themselves():
    first = Opaque("a.b")
    assert {first: 1, Opaque("a.b"): 2}[first] == 1
