"""Files that torch itself wrote, read without it: the same tree, the same bits."""

import collections
import hashlib

import numpy as np
import pytest
import torch

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io import Limits, Opaque, find_state_dict, materialise, read_checkpoint, write_checkpoint
from rnp_jax.torch_io.nodes import CounterNode, OrderedDictNode, Size
from tests.torch_io import hostile as h

FORMATS = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def save(value, path, new=True, **options):
    torch.save(value, path, _use_new_zipfile_serialization=new, **options)
    return path


def bits(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().contiguous().view(BITS[tensor.element_size()]).numpy()


def assert_same_bits(array: np.ndarray, tensor: torch.Tensor):
    assert array.shape == tuple(tensor.shape)
    assert str(array.dtype) == str(tensor.dtype).removeprefix("torch.")
    assert array.dtype.isnative
    assert array.tobytes() == bits(tensor).tobytes()


def scalars(dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.bool:
        return torch.tensor([[True, False, True], [False, True, True]])
    return torch.tensor([[0, 1, 2], [100, 5, 126]]).to(dtype)


DTYPES = ["float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool"]


@FORMATS
def test_every_dtype(new, tmp_path):
    values = {name: scalars(getattr(torch, name)) for name in DTYPES}
    values["special"] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    values["scalar"], values["empty"] = torch.tensor(7), torch.empty(0, 3)
    checkpoint = read_checkpoint(save(values, tmp_path / "m.pt", new))
    assert checkpoint.container == ("zip" if new else "legacy")
    for name, tensor in values.items():
        assert_same_bits(materialise(checkpoint, checkpoint.tree[name]), tensor)


@FORMATS
def test_views_of_one_storage(new, tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    views = {"base": base, "t": base.t(), "step": base[1::2, ::3], "row": base[2], "wide": base[:, :1].expand(4, 5)}
    checkpoint = read_checkpoint(save(views, tmp_path / "m.pt", new))
    assert len(checkpoint.records) == 1
    for name, tensor in views.items():
        assert_same_bits(materialise(checkpoint, checkpoint.tree[name]), tensor)


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_containers_and_plain_values(new, protocol, tmp_path):
    value = {
        "ints": [0, 255, 256, -1, 2**31, -(2**63), 2**100],
        "floats": (0.5, float("inf")),
        "none": None,
        "flags": [True, False],
        "text": "sch\u00f6n \U0001f600",
        "bytes": b"\x00\xff",
        "size": torch.Size([3, 4]),
        "ordered": collections.OrderedDict(b=1, a=2),
        "counter": collections.Counter({10: 1, 20: 2}),
        5: {"nested": [[], {}, ()]},
    }
    tree = read_checkpoint(save({**value, "t": torch.zeros(1)}, tmp_path / "m.pt", new, pickle_protocol=protocol)).tree
    assert {key: tree[key] for key in value} == value
    assert list(tree["ordered"]) == ["b", "a"]
    assert [type(tree[key]) for key in ("size", "ordered", "counter")] == [Size, OrderedDictNode, CounterNode]


@FORMATS
def test_a_network_with_its_optimizer(new, tmp_path):
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 7])
    value = {
        "epoch": 3,
        "state_dict": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "s": scheduler.state_dict(),
    }
    checkpoint = read_checkpoint(save(value, tmp_path / "m.pt", new))
    assert checkpoint.anomalies == ()
    assert checkpoint.tree["state_dict"].metadata == network.state_dict()._metadata
    assert checkpoint.tree["optimizer"]["param_groups"] == value["optimizer"]["param_groups"]
    assert checkpoint.tree["s"]["milestones"] == {3: 2, 7: 1}
    state_dict = find_state_dict(checkpoint)
    assert list(state_dict.tensors) == list(network.state_dict())
    for name, tensor in network.state_dict().items():
        assert_same_bits(state_dict.tensors[name], tensor)


@FORMATS
def test_parameters_are_marked(new, tmp_path):
    value = {"p": torch.nn.Parameter(torch.ones(2)), "frozen": torch.nn.Parameter(torch.ones(2), requires_grad=False)}
    value["leaf"] = torch.ones(2, requires_grad=True)
    tree = read_checkpoint(save(value, tmp_path / "m.pt", new)).tree
    assert [(ref.is_parameter, ref.requires_grad) for ref in tree.values()] == [
        (True, True),
        (True, False),
        (False, True),
    ]


UNSUPPORTED = {
    "complex64": torch.zeros(2, dtype=torch.complex64),
    "sparse": torch.zeros(2, 2).to_sparse(),
    "meta": torch.zeros(2, device="meta"),
    "uint16": torch.zeros(2, dtype=torch.uint16),
    "float8": torch.zeros(2).to(torch.float8_e4m3fn),
}


@FORMATS
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_tensors_stay_opaque_and_are_refused_in_a_state_dict(name, new, tmp_path):
    value = {"state_dict": {"w": torch.zeros(2)}, "odd": {"v": UNSUPPORTED[name], "w": torch.zeros(1)}}
    checkpoint = read_checkpoint(save(value, tmp_path / "m.pt", new))
    assert isinstance(checkpoint.tree["odd"]["v"], Opaque)
    assert len(checkpoint.anomalies) == 1
    assert list(find_state_dict(checkpoint).tensors) == ["w"]
    with pytest.raises(CheckpointError, match="not a dense tensor"):
        find_state_dict(checkpoint, "odd")


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, and files still hold it
def test_programs_without_named_tensors_are_refused_with_advice(tmp_path):
    torch.jit.freeze(torch.jit.script(torch.nn.Linear(2, 2).eval())).save(str(tmp_path / "script.pt"))
    with pytest.raises(CheckpointError, match=r"TorchScript .* before torch\.jit\.freeze"):
        read_checkpoint(tmp_path / "script.pt")
    (tmp_path / "old.pt").write_bytes(h.archive(h.Member("net/model.json"), h.Member("net/code/net.py")))
    with pytest.raises(CheckpointError, match=r"TorchScript program of torch before 1\.3"):
        read_checkpoint(tmp_path / "old.pt")
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), tmp_path / "program.pt2")
    with pytest.raises(CheckpointError, match="pt2"):
        read_checkpoint(tmp_path / "program.pt2")


def test_the_released_layout(shared):
    path = shared / "torch_checkpoints" / "badnets_resnet18w16.tar"
    expected = torch.load(path, weights_only=True)
    checkpoint = read_checkpoint(path)
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.anomalies == ()
    assert {key: checkpoint.tree[key] for key in ("epoch", "clean_acc", "bad_acc")} == {
        key: expected[key] for key in ("epoch", "clean_acc", "bad_acc")
    }
    state_dict = find_state_dict(checkpoint)
    assert state_dict.location == ("state_dict",)
    assert list(state_dict.tensors) == list(expected["state_dict"])
    for name, tensor in expected["state_dict"].items():
        assert_same_bits(state_dict.tensors[name], tensor)


@pytest.mark.parametrize(
    "limit", ["file_bytes", "pickle_bytes", "opcodes", "nodes", "depth", "members", "materialised_bytes", "rank"]
)
def test_every_limit_holds(limit, tmp_path):
    path = save({"state_dict": {"w": torch.zeros(2, 2)}}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=rf"Limits\.{limit}"):
        find_state_dict(read_checkpoint(path, limits=Limits(**{limit: 1})))


def test_the_tensors_and_dicts_of_torch_before_0_4(tmp_path):
    old = h.call("torch._utils", "_rebuild_tensor", h.storage(), h.integer(1), h.integers((3,)), h.integers((1,)))
    state = h.call("collections", "OrderedDict", h.list_(h.list_(h.text("w"), old)))
    (tmp_path / "m.pt").write_bytes(h.torch_zip(h.dict_(state_dict=state)))
    assert find_state_dict(read_checkpoint(tmp_path / "m.pt")).tensors["w"].tolist() == [2, 3, 4]


def test_messages_hold_no_control_characters(tmp_path):
    evil = "\x1b[2J\n\u202e"
    root = h.dict_(state_dict=h.ordered(w=h.tensor()), **{evil: h.list_(h.name("a\x1b[31m", "b"))})
    (tmp_path / "m.pt").write_bytes(h.torch_zip(root))
    (anomaly,) = read_checkpoint(tmp_path / "m.pt").anomalies
    assert anomaly.isascii()
    assert anomaly.isprintable()


@FORMATS
def test_a_storage_without_a_tensor_stays_unread(new, tmp_path):
    base, storage = torch.arange(3.0), torch.ones(2).untyped_storage()
    value = {"state_dict": {"w": base}, "s": storage, "odd": {"v": base, "s": storage}}
    checkpoint = read_checkpoint(save(value, tmp_path / "m.pt", new))
    assert [anomaly.partition(":")[0] for anomaly in checkpoint.anomalies] == ['data["s"]', 'data["odd"]']
    state_dict = find_state_dict(checkpoint)
    assert state_dict.tensors["w"].tolist() == [0, 1, 2]
    assert write_checkpoint(tmp_path / "b.pt", checkpoint, state_dict, {}) == ('data["s"]', 'data["odd"]["s"]')
    assert list(torch.load(tmp_path / "b.pt", weights_only=True)) == ["state_dict", "odd"]
    with pytest.raises(CheckpointError, match=r'data\["odd"\]\["s"\] is "torch'):
        find_state_dict(checkpoint, "odd")


def test_a_member_that_torch_would_read_in_the_place_of_another(tmp_path):
    members = h.torch_members(h.GOOD)
    other = h.Member("archive/DATA/0", np.full(4, 9, np.float32).tobytes())
    (tmp_path / "m.pt").write_bytes(h.archive(*members[:2], other, *members[2:]))
    assert torch.load(tmp_path / "m.pt", weights_only=True)["state_dict"]["w"].tolist() == [[9, 9], [9, 9]]
    with pytest.raises(CheckpointError, match="capital letters"):
        read_checkpoint(tmp_path / "m.pt")


def test_members_that_nothing_uses_are_reported_wherever_they_hide(tmp_path):
    names = ["archive/.data/payload", "archive/data/7", "archive/.data/serialization_id"]
    members = [*h.torch_members(h.GOOD), *(h.Member(name, b"x") for name in names)]
    (tmp_path / "m.pt").write_bytes(h.archive(*members))
    (anomaly,) = read_checkpoint(tmp_path / "m.pt").anomalies
    assert anomaly.startswith("2 zip members that no tensor uses")
    assert names[0] in anomaly
    assert names[1] in anomaly


def test_an_archive_that_was_packed_again_is_read(tmp_path):
    members = [h.Member("archive/"), *h.torch_members(h.GOOD), h.Member("archive/data/")]
    (tmp_path / "m.pt").write_bytes(h.archive(*members))
    checkpoint = read_checkpoint(tmp_path / "m.pt")
    assert checkpoint.anomalies == ()
    assert find_state_dict(checkpoint).tensors["w"].tolist() == [[1, 2], [3, 4]]


def test_a_checkpoint_inside_an_archive_is_named(tmp_path):
    (tmp_path / "m.zip").write_bytes(h.archive(h.Member("read.me"), h.Member("a/model.pt", h.torch_zip(h.GOOD))))
    with pytest.raises(CheckpointError, match=r'a zip archive that holds "a/model\.pt"; extract it and give that file'):
        read_checkpoint(tmp_path / "m.zip")
