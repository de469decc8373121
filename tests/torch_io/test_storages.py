"""Claims about storages, and views that must lie inside them."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import DEFAULT_LIMITS, Limits
from rnp_jax.torch_io.nodes import Global, LooseStorage, StorageRef
from rnp_jax.torch_io.storages import StorageTable, find_layout_fault

FLOATS = Global("torch.FloatStorage")


def pid(kind="storage", storage=FLOATS, key="0", place="cpu", numel=4, *view):
    return (kind, storage, key, place, numel, *view)


@given(
    numel=st.integers(0, 12),
    offset=st.integers(-1, 13),
    axes=st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 5)), max_size=3),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_view_fits_where_every_element_it_reads_lies_in_the_storage(numel, offset, axes):
    shape, strides = tuple(dim for dim, _ in axes), tuple(stride for _, stride in axes)
    elements = [
        offset + sum(index * stride for index, stride in zip(place, strides, strict=True))
        for place in itertools.product(*map(range, shape))
    ]
    fits = min((offset, *shape, *strides)) >= 0 and offset <= numel and all(0 <= e < numel for e in elements)
    fault = find_layout_fault(StorageRef("0", "float32", numel), offset, shape, strides, DEFAULT_LIMITS)
    assert (fault is None) == fits


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "fault"),
    [
        (0, (1,), (2**60 - 1,), None),
        (0, (1,), (2**60,), "overflow"),
        (0, (0, 2**60 - 1), (1, 1), None),
        (0, (2**30, 0, 2**30), (1, 1, 1), "overflow"),
        (0.0, (1,), (1,), "whole numbers"),
        (0, [1], (1,), "whole numbers"),
        (0, (True,), (1,), "whole numbers"),
        (0, (1, 1), (1,), "2 dimensions but 1 strides"),
        (0, (1, 1, 1), (1, 1, 1), "3 dimensions, more than 2 (Limits.rank)"),
    ],
)
def test_layouts_that_no_array_has(offset, shape, strides, fault):
    limits = Limits(rank=3 if fault in (None, "overflow") else 2)
    found = find_layout_fault(StorageRef("0", "float64", 4), offset, shape, strides, limits)
    assert (found is None) if fault is None else fault in str(found)


def test_a_storage_is_declared_once_and_shared():
    table = StorageTable("m.pt")
    first, again = table.load(pid()), table.load(pid("storage", FLOATS, "0", "cuda:0", 4, None))
    assert isinstance(first, LooseStorage)
    assert isinstance(again, LooseStorage)
    assert first.ref == again.ref == StorageRef("0", "float32", 4)
    assert table.refs == {"0": first.ref}
    with pytest.raises(CheckpointError, match="declared twice"):
        table.load(pid("storage", FLOATS, "0", "cpu", 5))


def test_the_class_of_a_whole_module_stands_for_itself():
    kind = Global("net.Net")
    table = StorageTable("m.pt")
    assert table.load(("module", kind, "net.py", "import os")) is kind
    assert table.refs == {}


REFUSED = {
    "no tuple": ([], "not a torch storage"),
    "no class": (("storage", "torch.FloatStorage", "0", "cpu", 4), "not a torch storage"),
    "another class": (pid(storage=Global("os.system")), "os.system"),
    "another type": (pid("tensor"), '"tensor"'),
    "too long": (pid("storage", FLOATS, "0", "cpu", 4, None, None), "not a storage"),
    "key": (pid(key=0), "key 0"),
    "device": (pid(place=None), "device None"),
    "boolean size": (pid(numel=True), "True elements"),
    "negative size": (pid(numel=-1), "-1 elements"),
    "meta": (pid(place="meta"), "meta device"),
    "view": (pid("storage", FLOATS, "0", "cpu", 4, ("1", 0, 2)), "view of another"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_persistent_ids_are_refused(name):
    value, reason = REFUSED[name]
    with pytest.raises(CheckpointError) as caught:
        StorageTable("m.pt").load(value)
    assert reason in caught.value.reason
