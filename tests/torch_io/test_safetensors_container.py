"""Safetensors files: what the library accepts is read alike, what it lets pass is refused."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io import Limits, find_state_dict, read_checkpoint


def by_hand(header: dict | str, content: bytes = b"") -> bytes:
    raw = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(raw)) + raw + content


def entry(dtype="F32", shape=(1,), offsets=(0, 4)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_what_the_library_writes_is_read(tmp_path):
    dtypes = [
        np.float16,
        ml_dtypes.bfloat16,
        np.float32,
        np.float64,
        np.uint8,
        np.int8,
        np.int16,
        np.int32,
        np.int64,
        np.bool_,
    ]
    tensors = {np.dtype(dtype).name: np.arange(6).reshape(2, 3).astype(dtype) for dtype in dtypes}
    tensors |= {"scalar": np.array(1.5), "empty": np.zeros((0, 3), np.float32)}
    safetensors.numpy.save_file(tensors, tmp_path / "m.safetensors", {"format": "pt"})
    checkpoint = read_checkpoint(tmp_path / "m.safetensors")
    assert (checkpoint.container, checkpoint.metadata, checkpoint.anomalies) == ("safetensors", {"format": "pt"}, ())
    state_dict = find_state_dict(checkpoint)
    assert (state_dict.location, set(state_dict.tensors)) == ((), set(tensors))
    for name, array in tensors.items():
        assert state_dict.tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(state_dict.tensors[name], array)


one = json.dumps(entry())


def odd(value: str) -> str:
    """A header with an entry that the library skips unread."""
    return f'{{"w":{one[:-1]},"x":{value}}}}}'


REFUSED = {
    "gap": (by_hand({"w": entry()}, bytes(8)), "not a valid safetensors file"),
    "overlap": (by_hand({"v": entry(), "w": entry()}, bytes(4)), "not a valid safetensors file"),
    "cut": (by_hand({"w": entry()}, bytes(3)), "not a valid safetensors file"),
    "deep header": (by_hand('{"a":' + "[" * 100_000), "not a valid safetensors file"),
    "number of 5,000 digits": (by_hand(odd("1" * 5000), bytes(4)), "safetensors"),
    "number of 5,000 digits in a list": (by_hand(odd(f"[{'1' * 5000}]"), bytes(4)), "safetensors"),
    "repeated name": (by_hand(f'{{"w":{one},"w":{one}}}', bytes(4)), "gives a name twice"),
    "repeated metadata": (by_hand('{"__metadata__":{"a":"1","a":"2"}}'), "gives a name twice"),
    "rank": (by_hand({"w": entry(shape=(1,) * 9)}, bytes(4)), "9 dimensions"),
    "rank of 100,000": (by_hand({"w": entry(shape=[0] + [2**40] * 10**5, offsets=(0, 0))}), "100001 dimensions"),
    "empty and vast": (by_hand({"w": entry(shape=(0, 2**62), offsets=(0, 0))}), "overflow 64 bits"),
    "float8": (by_hand({"v": entry(), "w": entry("F8_E4M3", (4,), (4, 8))}, bytes(8)), "F8_E4M3"),
    "no tensors": (by_hand({}), "no state dict"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, tmp_path, watch):
    content, reason = REFUSED[name]
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        watch(lambda: find_state_dict(read_checkpoint(path)), path)
    assert reason in caught.value.reason


@pytest.mark.parametrize("limit", ["header_bytes", "members", "rank"])
def test_limits(limit, tmp_path):
    safetensors.numpy.save_file({"v": np.zeros((1, 1)), "w": np.zeros((1, 1))}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=rf"Limits\.{limit}"):
        read_checkpoint(tmp_path / "m.safetensors", limits=Limits(**{limit: 1}))
