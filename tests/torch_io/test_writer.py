"""What is written loads in torch, strictly, with the same bits wherever nothing was replaced."""

import collections
import os
import resource
import subprocess
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch

from rnp_jax.errors import CheckpointError, DiskFullError
from rnp_jax.torch_io import find_state_dict, read_checkpoint, write_checkpoint, write_state_dict
from tests.torch_io import hostile as h

FORMATS = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )


def full() -> dict:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    shared = torch.arange(12.0)
    return {
        "epoch": 3,
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "views": [shared, shared[1::2], shared.reshape(3, 4).t()],
        "parameter": torch.nn.Parameter(torch.ones(2), requires_grad=False),
        "plain": (None, True, -1, 2**40, 0.5, "text", b"\x00\xff", torch.Size([2]), collections.Counter({3: 1})),
        "half": torch.ones(2, dtype=torch.float16),
        "brain": torch.ones(2, dtype=torch.bfloat16),
    }


def assert_same(got, expected):
    assert type(got) is type(expected)
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same(got[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(got) == len(expected)
        for left, right in zip(got, expected, strict=True):
            assert_same(left, right)
    elif isinstance(expected, torch.Tensor):
        assert (got.dtype, got.stride(), got.requires_grad) == (
            expected.dtype,
            expected.stride(),
            expected.requires_grad,
        )
        assert torch.equal(got, expected)
    else:
        assert got == expected


def read(path, key=None):
    checkpoint = read_checkpoint(path)
    return checkpoint, find_state_dict(checkpoint, key)


@FORMATS
@pytest.mark.parametrize("container", [None, "zip", "legacy"])
def test_a_copy_differs_only_where_it_should(new, container, tmp_path):
    value = full()
    torch.save(value, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    checkpoint, state_dict = read(tmp_path / "a.pt")
    cleaned = np.full((4, 3, 3, 3), 0.25, np.float64)
    dropped = write_checkpoint(tmp_path / "b.pt", checkpoint, state_dict, {"0.weight": cleaned}, container=container)
    assert dropped == ()
    assert zipfile.is_zipfile(tmp_path / "b.pt") == ((container or checkpoint.container) == "zip")
    got = torch.load(tmp_path / "b.pt", weights_only=True)
    value["state_dict"]["0.weight"] = torch.full((4, 3, 3, 3), 0.25)
    assert_same(got, value)
    assert got["state_dict"]._metadata == value["state_dict"]._metadata
    network().load_state_dict(got["state_dict"], strict=True)
    assert got["views"][0].untyped_storage().data_ptr() == got["views"][2].untyped_storage().data_ptr()


@FORMATS
def test_copying_is_the_identity_once_written(new, tmp_path):
    torch.save(full(), tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    for source, target in ("ab", "bc"):
        write_checkpoint(tmp_path / f"{target}.pt", *read(tmp_path / f"{source}.pt"), {})
    assert (tmp_path / "b.pt").read_bytes() == (tmp_path / "c.pt").read_bytes()


def test_the_zip_is_laid_out_as_torch_does(tmp_path):
    torch.save({"state_dict": network().state_dict()}, tmp_path / "mine.pt")
    write_checkpoint(tmp_path / "b.pt", *read(tmp_path / "mine.pt"), {})
    with zipfile.ZipFile(tmp_path / "mine.pt") as source, zipfile.ZipFile(tmp_path / "b.pt") as copy:
        assert copy.testzip() is None
        names = {name for name in source.namelist() if "/.data/" not in name}
        assert set(copy.namelist()) == names
        for name in names - {"mine/data.pkl"}:
            assert copy.read(name) == source.read(name)
        for info in copy.infolist():
            header = (tmp_path / "b.pt").read_bytes()[info.header_offset : info.header_offset + 30]
            start = info.header_offset + 30 + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
            assert start % 64 == 0
    assert list(torch.load(tmp_path / "b.pt", weights_only=True, mmap=True)) == ["state_dict"]


def test_tied_weights_replaced_alike_stay_tied_and_apart_are_parted(tmp_path):
    base = torch.arange(4.0)
    torch.save({"state_dict": {"a": base, "b": base, "row": base[:2]}, "outside": base}, tmp_path / "a.pt")
    checkpoint, state_dict = read(tmp_path / "a.pt")
    new = np.array([9, 8, 7, 6], np.float32)
    write_checkpoint(tmp_path / "b.pt", checkpoint, state_dict, {"a": new, "b": new})
    got = torch.load(tmp_path / "b.pt", weights_only=True)
    assert got["outside"].tolist() == [0, 1, 2, 3]
    assert got["state_dict"]["row"].tolist() == [0, 1]
    assert got["state_dict"]["a"].tolist() == got["state_dict"]["b"].tolist() == [9, 8, 7, 6]
    torch.save({"state_dict": {"a": base, "b": base}}, tmp_path / "c.pt")
    write_checkpoint(tmp_path / "d.pt", *read(tmp_path / "c.pt"), {"a": new, "b": new})
    tied = torch.load(tmp_path / "d.pt", weights_only=True)["state_dict"]
    assert tied["a"].data_ptr() == tied["b"].data_ptr()
    assert tied["b"].tolist() == [9, 8, 7, 6]


def test_strided_and_expanded_tensors_take_new_values(tmp_path):
    torch.save(
        {"state_dict": {"t": torch.zeros(2, 3).t(), "e": torch.zeros(1).expand(3), "s": torch.tensor(0)}},
        tmp_path / "a.pt",
    )
    values = {
        "t": np.arange(6, dtype=np.float32).reshape(3, 2),
        "e": np.arange(3.0, dtype=np.float32),
        "s": np.array(5),
    }
    write_checkpoint(tmp_path / "b.pt", *read(tmp_path / "a.pt"), values)
    got = torch.load(tmp_path / "b.pt", weights_only=True)["state_dict"]
    assert got["t"].stride() == (1, 3)
    for name, value in values.items():
        np.testing.assert_array_equal(got[name].numpy(), value)


def test_the_prefix_of_several_gpus_is_put_back(tmp_path):
    torch.save({"netC": torch.nn.DataParallel(network()).state_dict()}, tmp_path / "a.pt")
    write_checkpoint(tmp_path / "b.pt", *read(tmp_path / "a.pt"), {"3.bias": np.ones(2, np.float32)})
    got = torch.load(tmp_path / "b.pt", weights_only=True)["netC"]
    torch.nn.DataParallel(network()).load_state_dict(got, strict=True)
    assert got["module.3.bias"].tolist() == [1, 1]


def test_a_payload_is_never_written_again(tmp_path):
    payload = h.call("posix", "system", h.text(h.COMMAND))
    root = h.dict_(state_dict=h.ordered(w=h.tensor()), x=payload, y=h.list_(b"K\x01", payload))
    (tmp_path / "a.pt").write_bytes(h.torch_zip(root))
    dropped = write_checkpoint(tmp_path / "b.pt", *read(tmp_path / "a.pt"), {})
    assert dropped == ('data["x"]', 'data["y"][1]')
    assert b"posix" not in (tmp_path / "b.pt").read_bytes()
    got = torch.load(tmp_path / "b.pt", weights_only=True)
    assert (list(got), got["y"]) == (["state_dict", "y"], [1, None])


@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
def test_big_endian_sources(container, tmp_path):
    (tmp_path / "a.pt").write_bytes(
        h.torch_zip(h.GOOD, {"0": np.array([1, 2, 3, 4], ">f4").tobytes()}, byteorder=b"big")
    )
    write_checkpoint(tmp_path / "b.pt", *read(tmp_path / "a.pt"), {}, container=container)
    assert read(tmp_path / "b.pt")[1].tensors["w"].tolist() == [[1, 2], [3, 4]]
    if container != "safetensors":
        assert torch.load(tmp_path / "b.pt", weights_only=True)["state_dict"]["w"].tolist() == [[1, 2], [3, 4]]


def test_safetensors(tmp_path):
    tensors = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3), "h": np.ones(3, ml_dtypes.bfloat16)}
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    checkpoint, state_dict = read(tmp_path / "a.safetensors")
    write_checkpoint(tmp_path / "b.safetensors", checkpoint, state_dict, {"w": -tensors["w"]})
    got = safetensors.numpy.load_file(tmp_path / "b.safetensors")
    assert set(got) == set(tensors)
    for name in tensors:
        np.testing.assert_array_equal(got[name], -tensors["w"] if name == "w" else tensors[name])
    assert read_checkpoint(tmp_path / "b.safetensors").metadata == {"format": "pt"}
    write_checkpoint(tmp_path / "c.pt", checkpoint, state_dict, {}, container="zip")
    assert torch.load(tmp_path / "c.pt", weights_only=True)["w"].tolist() == tensors["w"].tolist()


def test_safetensors_hold_the_state_dict_alone(tmp_path):
    torch.save(full(), tmp_path / "a.pt")
    dropped = write_checkpoint(tmp_path / "b.safetensors", *read(tmp_path / "a.pt"), {}, container="safetensors")
    assert dropped == tuple(f'data["{key}"]' for key in full() if key != "state_dict")
    assert list(read_checkpoint(tmp_path / "b.safetensors").tree) == list(network().state_dict())


REFUSED = {
    "unknown name": ({"v": np.zeros(2)}, '\n + "v"'),
    "another shape": ({"w": np.zeros(3)}, "has shape (2,), but its new value has (3,)"),
    "too large": ({"w": np.array([1e6, 0])}, "does not fit its dtype float16"),
    "a fraction": ({"n": np.array(0.5)}, "does not fit its dtype int64"),
    "text": ({"w": np.array(["a", "b"])}, "not a number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_do_not_fit_are_refused(name, tmp_path):
    values, reason = REFUSED[name]
    torch.save({"w": torch.zeros(2, dtype=torch.float16), "n": torch.tensor(1)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        write_checkpoint(tmp_path / "b.pt", *read(tmp_path / "a.pt"), values)
    assert reason in caught.value.reason
    assert os.listdir(tmp_path) == ["a.pt"]


@FORMATS
@pytest.mark.parametrize("container", [None, "legacy", "zip", "safetensors"])
def test_new_tensors_stand_behind_the_others(new, container, tmp_path):
    torch.save(
        {"state_dict": network().state_dict(), "epoch": 3}, tmp_path / "a.pt", _use_new_zipfile_serialization=new
    )
    added = {"b": np.arange(6, dtype=np.float32).reshape(2, 3).T, "a": np.array(7, np.int64)}
    values = {"3.bias": np.ones(2)}
    write_checkpoint(tmp_path / "b.pt", *read(tmp_path / "a.pt"), values, added=added, container=container)
    if container == "safetensors":
        got = {name: torch.tensor(value) for name, value in safetensors.numpy.load_file(tmp_path / "b.pt").items()}
    else:
        whole = torch.load(tmp_path / "b.pt", weights_only=True)
        got = whole["state_dict"]
        assert whole["epoch"] == 3
        assert list(got) == [*network().state_dict(), "b", "a"]
        assert got["b"].is_contiguous()
    assert torch.equal(got["b"], torch.from_numpy(added["b"].copy()))
    assert got["a"].item() == 7
    assert got["3.bias"].tolist() == [1, 1]
    assert torch.equal(got["0.weight"], network().state_dict()["0.weight"])
    copy, state_dict = read(tmp_path / "b.pt")
    assert set(state_dict.tensors) == {*network().state_dict(), "b", "a"}
    assert not copy.anomalies


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ({"w": np.zeros(2, np.float32)}, 'names the state dict has already:\n + "w"'),
        ({"v": np.zeros(2, "U1")}, "dtype <U1"),
    ],
)
def test_new_tensors_that_cannot_be_added(added, reason, tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError) as caught:
        write_checkpoint(tmp_path / "b.pt", *read(tmp_path / "a.pt"), {}, added=added)
    assert reason in caught.value.reason
    assert os.listdir(tmp_path) == ["a.pt"]


def test_nothing_is_overwritten_unless_asked(tmp_path):
    torch.save(network().state_dict(), tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()
    source = read(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="exists already"):
        write_checkpoint(tmp_path / "a.pt", *source, {})
    assert (tmp_path / "a.pt").read_bytes() == before
    write_checkpoint(tmp_path / "a.pt", *source, {"3.bias": np.ones(2)}, overwrite=True)
    assert torch.load(tmp_path / "a.pt", weights_only=True)["3.bias"].tolist() == [1, 1]
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "a.pt")
    source = read(tmp_path / "a.pt")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(DiskFullError, match=r"b\.pt: File too large"):
            write_checkpoint(tmp_path / "b.pt", *source, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no/a.pt", "No such file"),
        ("a\0.pt", "null byte"),
        ("folder", "Is a directory"),
        ("file/a.pt", "Not a directory"),
    ],
)
def test_a_place_that_cannot_be_written(name, reason, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(CheckpointError, match=f"cannot be written: .*{reason}"):
        write_state_dict(tmp_path / name, {"w": np.zeros(1)}, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_a_link_is_not_written_through(tmp_path):
    (tmp_path / "a.pt").symlink_to("target")
    with pytest.raises(CheckpointError, match="exists already"):
        write_state_dict(tmp_path / "a.pt", {"w": np.zeros(1)})
    write_state_dict(tmp_path / "a.pt", {"w": np.zeros(1)}, overwrite=True)
    assert not (tmp_path / "a.pt").is_symlink()
    assert os.listdir(tmp_path) == ["a.pt"]


def test_storage_keys_of_the_source_do_not_become_names_of_members(tmp_path):
    key = "../../evil"
    root = h.dict_(state_dict=h.ordered(w=h.tensor(key, view=b"N")))
    (tmp_path / "a.pt").write_bytes(h.legacy(root, keys=h.list_(h.text(key))))
    safetensors.numpy.save_file({key: np.ones(2, np.float32)}, tmp_path / "b.safetensors")
    for source in ("a.pt", "b.safetensors"):
        write_checkpoint(tmp_path / "c.pt", *read(tmp_path / source), {}, container="zip", overwrite=True)
        with zipfile.ZipFile(tmp_path / "c.pt") as archive:
            assert "archive/data/0" in archive.namelist()
            assert not any("evil" in name for name in archive.namelist())
        copy = read(tmp_path / "c.pt")[1]
        assert [array.tobytes() for array in copy.tensors.values()] == [
            array.tobytes() for array in read(tmp_path / source)[1].tensors.values()
        ]


def test_a_tensor_cannot_have_the_name_that_safetensors_keeps_for_itself(tmp_path):
    torch.save({"__metadata__": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="no tensor can have this name"):
        write_checkpoint(tmp_path / "b.safetensors", *read(tmp_path / "a.pt"), {}, container="safetensors")
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_fresh_checkpoint_in_the_released_layout(tmp_path):
    arrays = {name: tensor.numpy() for name, tensor in network().state_dict().items()}
    arrays["3.bias"] = arrays["3.bias"].astype(ml_dtypes.bfloat16)
    write_state_dict(tmp_path / "a.pt", arrays, {"epoch": 7, "clean_acc": 0.5, "bad_acc": 1.0})
    got = torch.load(tmp_path / "a.pt", weights_only=True)
    assert {key: value for key, value in got.items() if key != "state_dict"} == {
        "epoch": 7,
        "clean_acc": 0.5,
        "bad_acc": 1.0,
    }
    assert got["state_dict"]["3.bias"].dtype == torch.bfloat16
    network().load_state_dict(got["state_dict"], strict=True)
    for name, tensor in network().state_dict().items():
        assert torch.equal(got["state_dict"][name], tensor.to(got["state_dict"][name].dtype))
    write_state_dict(tmp_path / "raw.pt", arrays, key=None)
    assert list(torch.load(tmp_path / "raw.pt", weights_only=True)) == list(arrays)


FRESH = {
    "object": ({"w": np.zeros(1)}, {"x": object()}, "state_dict", "is a object"),
    "array beside": ({"w": np.zeros(1)}, {"x": np.zeros(1)}, "state_dict", "is a ndarray"),
    "dtype": ({"w": np.zeros(1, complex)}, {}, "state_dict", "dtype complex128"),
    "key taken": ({"w": np.zeros(1)}, {"state_dict": 1}, "state_dict", "no place"),
    "raw with extra": ({"w": np.zeros(1)}, {"epoch": 1}, None, "no place"),
}


@pytest.mark.parametrize("name", FRESH)
def test_a_fresh_checkpoint_that_cannot_be_written(name, tmp_path):
    tensors, extra, key, reason = FRESH[name]
    with pytest.raises(CheckpointError) as caught:
        write_state_dict(tmp_path / "a.pt", tensors, extra, key=key)
    assert reason in caught.value.reason
    assert os.listdir(tmp_path) == []


def test_info_zip_reads_the_archive(tmp_path):
    try:
        subprocess.run(["unzip", "-v"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs unzip")
    write_state_dict(tmp_path / "a.pt", {"w": np.zeros(3, np.float32)})
    subprocess.run(["unzip", "-tqq", tmp_path / "a.pt"], check=True)


@pytest.mark.parametrize("container", ["zip", "safetensors"])
def test_an_object_in_very_many_places_is_told_of_briefly(container, tmp_path):
    """A file of 0.4 MB had 8 GB of places."""
    places = h.name("evil", "Thing") + b")\x81q\0" + b"](" + b"h\0" * 10**5 + b"e"
    root = h.dict_(state_dict=h.dict_(w=h.tensor()), extra=h.tuple_(places), **{f"x{i}": b"N" for i in range(100)})
    (tmp_path / "model.pt").write_bytes(h.torch_zip(root))
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    left = write_checkpoint(tmp_path / "copy", checkpoint, find_state_dict(checkpoint), {}, container=container)
    assert len(left) == 51
    assert left[-1] == {"zip": "99951 more places", "safetensors": "51 more places"}[container]
