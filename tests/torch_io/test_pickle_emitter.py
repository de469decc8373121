"""Trees as pickles that CPython, torch and this package read alike."""

import pickle
import pickletools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.torch_io.limits import DEFAULT_LIMITS
from rnp_jax.torch_io.nodes import LooseStorage, Opaque, OrderedDictNode, StorageRef, TensorRef
from rnp_jax.torch_io.pickle_cursor import PickleCursor
from rnp_jax.torch_io.pickle_emitter import PickleEmitter
from rnp_jax.torch_io.pickle_machine import PickleMachine
from rnp_jax.torch_io.storages import StorageTable
from tests.torch_io.test_pickle_machine import CHECKED, TREES, read


@given(value=TREES)
@CHECKED
def test_what_the_emitter_writes_is_read_by_cpython_and_by_the_machine(value):
    data = PickleEmitter().emit(value)
    assert pickle.loads(data) == value  # bytes by _codecs.encode, as CPython itself spells them in protocol 2
    assert read(data) == value


@given(st.integers(-(2**300), 2**300) | st.integers(-(2**33), 2**33))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_whole_numbers_of_every_length(value):
    assert pickle.loads(PickleEmitter().emit(value)) == value


def test_shared_values_stay_shared():
    inner = [1]
    first, second = read(PickleEmitter().emit([inner, inner]))
    assert first is second


def test_more_values_than_a_byte_counts():
    names = [f"name {number}" for number in range(2500)]  # beyond the one-byte memo, and three batches
    data = PickleEmitter().emit([names, names, {name: name for name in names}])
    assert pickle.loads(data) == [names, names, {name: name for name in names}]
    assert {"LONG_BINPUT", "LONG_BINGET"} <= {opcode.name for opcode, _, _ in pickletools.genops(data)}


def test_storages_are_numbered_in_the_order_of_their_appearance_whatever_their_keys_were():
    first, second = StorageRef("../../evil", "float32", 2), StorageRef("94563", "int64", 1)
    refs = [TensorRef(first, 0, (2,), (1,)), TensorRef(second, 0, (), ()), TensorRef(first, 1, (1,), (1,))]
    emitter = PickleEmitter()
    data = emitter.emit(refs)
    assert emitter.storages == {"0": first, "1": second}
    assert b"evil" not in data
    table = StorageTable("m.pt")
    tree = PickleMachine(PickleCursor(data, "m.pt", "the pickle", DEFAULT_LIMITS), table.load).run()
    assert [(ref.storage.key, ref.offset, ref.shape, ref.strides) for ref in tree] == [
        ("0", 0, (2,), (1,)), ("1", 0, (), ()), ("0", 1, (1,), (1,))
    ]  # fmt: skip


def test_unread_objects_are_dropped_and_named():
    state = OrderedDictNode(w=1, x=Opaque("a.b"))
    state.metadata = {"version": 1, "y": Opaque("a.b")}
    storage = LooseStorage("torch.FloatStorage", ref=StorageRef("0", "float32", 2))
    emitter = PickleEmitter()
    data = emitter.emit({"state": state, "list": [1, storage], "tuple": (Opaque("c.d"),), Opaque("key"): 2})
    tree = read(data)
    assert tree == {"state": {"w": 1}, "list": [1, None], "tuple": (None,)}
    assert tree["state"].metadata == {"version": 1}
    dropped = emitter.dropped.spell()
    assert dropped[:4] == (
        'data["state"]["x"]', 'data["state"]["_metadata"]["y"]', 'data["list"][1]', 'data["tuple"][0]'
    )  # fmt: skip
    assert len(dropped) == 5
    assert emitter.storages == {}


def test_a_value_that_no_tree_holds_is_named():
    with pytest.raises(TypeError, match=r'data\["a"\]\[1\] is a object, which a checkpoint cannot hold'):
        PickleEmitter().emit({"a": [1, object()]})
