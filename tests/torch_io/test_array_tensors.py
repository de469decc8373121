"""State dicts of NumPy arrays, which become state dicts of tensors."""

import numpy as np
import pytest
import torch

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io import Opaque, find_state_dict, read_checkpoint, write_checkpoint
from tests.torch_io.test_reader import FORMATS, save

NETWORK = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
ARRAYS = {name: value.numpy().copy() for name, value in NETWORK.state_dict().items()}


def assert_same(tensors, arrays) -> None:
    assert list(tensors) == list(arrays)
    for name, array in arrays.items():
        assert tensors[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(tensors[name], array)


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_are_read_as_tensors_and_written_as_such(new, protocol, tmp_path):
    value = {"epoch": 3, "net": ARRAYS}
    checkpoint = read_checkpoint(save(value, tmp_path / "m.pt", new, pickle_protocol=protocol))
    assert checkpoint.anomalies == ('data["net"]: 7 NumPy arrays were read as tensors, and are written as such',)
    found = find_state_dict(checkpoint)
    assert_same(found.tensors, ARRAYS)
    write_checkpoint(tmp_path / "b.pt", checkpoint, found, {"0.bias": np.full(4, 7, np.float32)})
    copy = torch.load(tmp_path / "b.pt", weights_only=True)
    assert copy["epoch"] == 3
    assert copy["net"]["0.bias"].tolist() == [7] * 4
    NETWORK.load_state_dict(copy["net"], strict=True)
    write_checkpoint(tmp_path / "b.safetensors", checkpoint, found, {}, container="safetensors")
    assert_same(find_state_dict(read_checkpoint(tmp_path / "b.safetensors")).tensors, ARRAYS)


def test_every_layout_of_an_array(tmp_path):
    arrays = {
        "weight": np.arange(6, dtype=">f4").reshape(2, 3),
        "column": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "flags": np.array([True, False]),
        "half": np.ones(2, np.float16),
        "count": np.array(3),
    }
    checkpoint = read_checkpoint(save(arrays, tmp_path / "m.pt"))
    assert_same(find_state_dict(checkpoint).tensors, arrays)


def test_other_arrays_stay_unread_and_are_not_written(tmp_path):
    images = [np.zeros((4, 4, 3), np.uint8)] * 2
    value = {"model": NETWORK.state_dict(), "images": images, "data": {"x": np.ones(2), "y": np.ones(2)}}
    checkpoint = read_checkpoint(save(value, tmp_path / "m.pt"))
    assert isinstance(checkpoint.tree["images"][0], Opaque)
    assert isinstance(checkpoint.tree["data"]["x"], Opaque)
    dropped = write_checkpoint(tmp_path / "b.pt", checkpoint, find_state_dict(checkpoint), {})
    assert dropped == ('data["images"][0]', 'data["images"][1]', 'data["data"]["x"]', 'data["data"]["y"]')


def test_an_array_of_objects_in_a_state_dict_is_named(tmp_path):
    value = {**ARRAYS, "names": np.array(["a", "b"], object)}
    with pytest.raises(CheckpointError, match=r'data\["names"\] is "numpy.ndarray", which is not a dense tensor'):
        find_state_dict(read_checkpoint(save(value, tmp_path / "m.pt")))


def test_the_names_of_new_storages_are_those_of_no_other(tmp_path):
    checkpoint = read_checkpoint(save({**ARRAYS, "x": torch.ones(2), "more": [dict(ARRAYS)]}, tmp_path / "m.pt"))
    assert len(checkpoint.records) == 2 * 7 + 1
