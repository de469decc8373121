"""Each container as the libraries that own the format read it."""

import io
import zipfile
import zlib

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.torch_io.container_writers import write_legacy, write_safetensors, write_zip
from rnp_jax.torch_io.limits import DEFAULT_LIMITS
from rnp_jax.torch_io.nodes import StorageRef, TensorRef
from rnp_jax.torch_io.pickle_emitter import PickleEmitter
from rnp_jax.torch_io.zip_container import check_contents, locate_contents, read_directory

CHECKED = settings(max_examples=60, deadline=None, derandomize=True)


def written(write, *arguments) -> bytes:
    buffer = io.BytesIO()
    write(buffer, *arguments)
    return buffer.getvalue()


@given(
    root=st.sampled_from(["archive", "mod\u00e8le", "x" * 70]), contents=st.lists(st.binary(max_size=200), max_size=5)
)
@CHECKED
def test_a_zip_is_read_back_and_every_member_is_aligned(root, contents):
    storages = {str(number): content for number, content in enumerate(contents)}
    data = written(write_zip, root, b"N.", storages, "big")
    directory = read_directory(data, "m.pt", DEFAULT_LIMITS)
    found, anomalies = locate_contents(data, directory, "m.pt")
    check_contents(directory, {name: zlib.crc32(data[extent]) for name, extent in found.items()}, "m.pt")
    assert anomalies == []
    assert {name: data[extent] for name, extent in found.items()} == {
        f"{root}/data.pkl": b"N.",
        f"{root}/.format_version": b"1",
        f"{root}/.storage_alignment": b"64",
        f"{root}/byteorder": b"big",
        **{f"{root}/data/{key}": content for key, content in storages.items()},
        f"{root}/version": b"3\n",
    }
    assert {extent.start % 64 for extent in found.values()} == {0}


def test_the_same_content_gives_the_same_file():
    first, second = (written(write_zip, "archive", b"N.", {"0": b"abc"}, "little") for _ in range(2))
    assert first == second
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize("numbers", [1, 12])
def test_torch_reads_the_legacy_container(numbers):
    arrays = {f"w{i}": np.arange(i + 1, dtype=np.float32) for i in range(numbers)}  # keys 10, 11 sort before 2
    refs = {str(i): StorageRef(str(i), "float32", i + 1) for i in range(numbers)}
    emitter = PickleEmitter(is_legacy=True)
    pickle = emitter.emit({f"w{i}": TensorRef(refs[str(i)], 0, (i + 1,), (1,)) for i in range(numbers)})
    records = {str(i): arrays[f"w{i}"].tobytes() for i in range(numbers)}
    data = written(write_legacy, pickle, refs, records)
    got = torch.load(io.BytesIO(data), weights_only=True)
    assert {name: tensor.tolist() for name, tensor in got.items()} == {n: a.tolist() for n, a in arrays.items()}


ARRAYS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__"),
    st.lists(st.integers(0, 3), max_size=3).map(lambda shape: np.arange(np.prod(shape), dtype="<i2").reshape(shape)),
    max_size=4,
)


@given(arrays=ARRAYS, metadata=st.dictionaries(st.sampled_from("ab\u00e9"), st.sampled_from(["", "pt", "\u20ac"])))
@CHECKED
def test_the_library_reads_the_safetensors(arrays, metadata):
    tensors = {name: ("I16", array.shape, array.tobytes()) for name, array in arrays.items()}
    data = written(write_safetensors, tensors, metadata)
    got = safetensors.numpy.load(data)
    assert set(got) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[name], array, strict=True)
    assert int.from_bytes(data[:8], "little") % 8 == 0
