"""The few calls that give a value, against the functions of torch that they stand for."""

import collections

import pytest
import torch

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import Limits
from rnp_jax.torch_io.nodes import CounterNode, LooseStorage, Opaque, OrderedDictNode, Size, StorageRef, TensorRef
from rnp_jax.torch_io.pickle_calls import TORCH_CALLS
from rnp_jax.torch_io.pickle_cursor import PickleCursor

STORAGE = LooseStorage("torch.FloatStorage", ref=StorageRef("0", "float32", 4))
BYTES = LooseStorage("torch.QInt8Storage", ref=StorageRef("1", "qint8", 4))
TENSOR = TensorRef(STORAGE.ref, 1, (3,), (1,))
LIMITS = Limits(opcodes=10, pickle_bytes=10, rank=3, materialised_bytes=64)
REBUILD, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
FEW = collections.OrderedDict()


def make(name: str, *arguments):
    return TORCH_CALLS[name](PickleCursor(b"", "m.pt", "the pickle", LIMITS), arguments)


def test_the_names_are_those_that_torch_writes():
    tensor = torch.nn.Parameter(torch.ones(3))
    assert tensor.__reduce_ex__(2)[0] is torch._utils._rebuild_parameter
    assert tensor.data.__reduce_ex__(2)[0] is torch._utils._rebuild_tensor_v2


@pytest.mark.parametrize(
    ("name", "arguments", "value"),
    [
        ("collections.OrderedDict", (), OrderedDictNode()),
        ("collections.OrderedDict", ([("a", 1), ["b", 2]],), OrderedDictNode(a=1, b=2)),
        ("collections.Counter", (), CounterNode()),
        ("collections.Counter", ({3: 1},), CounterNode({3: 1})),
        ("torch.Size", ((2, 3),), Size((2, 3))),
        ("builtins.bytes", (), b""),
        ("_codecs.encode", ("\xe9", "latin1"), b"\xe9"),
        (REBUILD, (STORAGE, 1, (3,), (1,), False, FEW), TENSOR),
        (REBUILD, (STORAGE, 1, (3,), (1,), True, {}, {}), TensorRef(STORAGE.ref, 1, (3,), (1,), True)),
        ("torch._utils._rebuild_tensor", (STORAGE, 1, (3,), (1,)), TENSOR),
        (PARAMETER, (TENSOR, True, {}), TensorRef(STORAGE.ref, 1, (3,), (1,), True, True)),
    ],
)
def test_a_known_call_gives_its_value(name, arguments, value):
    result = make(name, *arguments)
    assert (result, type(result)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "arguments", "left"),
    [
        ("builtins.bytes", (2**40,), "builtins.bytes"),
        (REBUILD, (BYTES, 0, (4,), (1,), False, FEW), "torch.qint8 tensor"),
        (REBUILD, (STORAGE, 1, (3,), (1,), False, {"hook": 1}), "torch tensor with hooks or a conjugate"),
        (REBUILD, (STORAGE, 1, (3,), (1,), False, FEW, {"conj": True}), "torch tensor with hooks or a conjugate"),
        (PARAMETER, (Opaque("a.Tensor"), True, {}), "a.Tensor"),
    ],
)
def test_other_calls_stay_unread(name, arguments, left):
    result = make(name, *arguments)
    assert type(result) is Opaque
    assert result.name.startswith(left)


REFUSED = {
    "pairs of three": ("collections.OrderedDict", ([(1, 2, 3)],), "a list of pairs"),
    "pairs that repeat": ("collections.OrderedDict", ([("a", 1), ("a", 2)],), '"a" appears twice'),
    "too many pairs": ("collections.OrderedDict", ([("a", 1)] * 11,), "Limits.opcodes"),
    "counts in a list": ("collections.Counter", ([1],), "than a dict"),
    "too many counts": ("collections.Counter", (dict.fromkeys(range(11)),), "Limits.opcodes"),
    "size of text": ("torch.Size", (("a",),), "up to 3 whole numbers"),
    "size of rank 4": ("torch.Size", ((1,) * 4,), "up to 3 whole numbers"),
    "another codec": ("_codecs.encode", ("a", "zlib"), "'latin1'"),
    "not latin1": ("_codecs.encode", ("\u20ac", "latin1"), "that is not latin1"),
    "too many bytes": ("_codecs.encode", ("x" * 11, "latin1"), "Limits.pickle_bytes"),
    "no storage": (REBUILD, (STORAGE.ref, 1, (3,), (1,), False, FEW), "something other than a storage"),
    "no requires_grad": (REBUILD, (STORAGE, 1, (3,), (1,), [[[]]], FEW), "requires_grad is a list of 1 values"),
    "outside": (REBUILD, (STORAGE, 2, (3,), (1,), False, FEW), "reaches element 4"),
    "too large": (REBUILD, (STORAGE, 0, (17,), (0,), False, FEW), "takes 68 bytes, more than 64"),
    "parameter with hooks": (PARAMETER, (TENSOR, True, {"hook": 1}), "no hooks"),
    "parameter of a number": (PARAMETER, (1, True, {}), "a tensor, a bool"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_torch_never_gives_are_refused(name):
    function, arguments, reason = REFUSED[name]
    with pytest.raises(CheckpointError) as caught:
        make(function, *arguments)
    assert reason in caught.value.reason
