"""Telling files apart by their first bytes, and reading them once and whole."""

import io
import os
import tarfile

import pytest
import safetensors.numpy
import torch

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import DEFAULT_LIMITS, Limits
from rnp_jax.torch_io.source_file import identify, read_file


def torch_saved(**options) -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(1)}, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_torch_writes_is_told_apart(protocol):
    assert identify(torch_saved(pickle_protocol=protocol), "m.pt") == "zip"
    legacy = torch_saved(pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    assert identify(legacy, "m.pt") == "legacy"


def test_safetensors_need_a_header_that_fits():
    data = safetensors.numpy.save({})
    assert identify(data, "m.safetensors") == "safetensors"
    with pytest.raises(CheckpointError, match="no known container"):
        identify(data[:-1], "m.safetensors")


def tar(kind: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_archive_is_told_by_its_checksum_as_torch_does(kind):
    data = bytearray(tar(kind))
    with pytest.raises(CheckpointError, match="a tar archive"):
        identify(bytes(data), "m.tar")
    data[0] ^= 1
    with pytest.raises(CheckpointError, match="no known container"):
        identify(bytes(data), "m.tar")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\xef\xbb\xbf \n<HTML>", "an HTML page"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"BZh9", "bzip2"),
        (b"\xfd7zXZ\x00", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstandard"),
        (b"\x1b[2J", "b'\\x1b[2J'"),
    ],
)
def test_other_files_are_named(data, word):
    with pytest.raises(CheckpointError) as caught:
        identify(data, "m.pt")
    assert word in caught.value.reason


def test_the_size_limit_is_exact_and_nothing_above_it_is_read(tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(b"12345")
    assert read_file(path, Limits(file_bytes=5)) == b"12345"
    with pytest.raises(CheckpointError, match=r"5 bytes, more than 4 \(Limits.file_bytes\)"):
        read_file(path, Limits(file_bytes=4))
    os.truncate(path, 2**34)  # a hole, which would take 16 GiB of memory
    with pytest.raises(CheckpointError, match="17179869184 bytes, more than 8589934592"):
        read_file(path, DEFAULT_LIMITS)


def test_no_descriptor_stays_open(tmp_path):
    before = os.listdir("/dev/fd")
    (tmp_path / "m.pt").write_bytes(b"12345")
    read_file(tmp_path / "m.pt", DEFAULT_LIMITS)
    with pytest.raises(CheckpointError, match="a directory"):
        read_file(tmp_path, DEFAULT_LIMITS)
    assert len(os.listdir("/dev/fd")) == len(before)
