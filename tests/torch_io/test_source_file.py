"""Telling files apart by their first bytes, and reading parts of them as long as they do not change."""

import copy
import hashlib
import io
import os
import pickle
import tarfile
import zlib

import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import DEFAULT_LIMITS, Limits
from rnp_jax.torch_io.source_file import SourceFile, identify, read_file


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
    with pytest.raises(CheckpointError, match="not a known container"):
        identify(data[:-1], "m.safetensors")


def tar(kind: int, *names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_archive_is_told_by_its_checksum_as_torch_does(kind):
    data = bytearray(tar(kind, "storages"))
    with pytest.raises(CheckpointError, match=r"a tar archive, as torch wrote before 0\.1\.10"):
        identify(bytes(data), "m.tar")
    data[0] ^= 1
    with pytest.raises(CheckpointError, match="not a known container"):
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
    file = SourceFile(tmp_path / "m.pt", DEFAULT_LIMITS)
    assert len(os.listdir("/dev/fd")) == len(before) + 1
    del file
    assert len(os.listdir("/dev/fd")) == len(before)


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    data = bytes(range(251)) * 2000
    path = tmp_path_factory.mktemp("source") / "m.bin"
    path.write_bytes(data)
    return data, SourceFile(path, DEFAULT_LIMITS)


@given(st.lists(st.tuples(st.integers(0, 600_000), st.integers(0, 70_000)), max_size=5))
@settings(deadline=None, derandomize=True)
def test_parts_are_those_of_the_bytes(content, parts):
    data, file = content
    assert len(file) == len(data)
    for start, length in parts:
        assert file[start : start + length] == data[start : start + length]
    assert file[-3:] == data[-3:]


def test_checksums_of_parts_and_whole_come_of_one_pass(content):
    data, file = content
    extents = [slice(0, 0), slice(3, 300_000), slice(300_000, 300_001), slice(len(data) - 1, len(data))]
    sha256, checksums = file.digest(extents)
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert checksums == [zlib.crc32(data[extent]) for extent in extents]


def test_a_file_that_changes_is_refused_and_one_that_loses_its_name_is_not(tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(b"x" * 100_000)
    file = SourceFile(path, DEFAULT_LIMITS)
    (tmp_path / "other").write_bytes(b"y")
    os.replace(tmp_path / "other", path)
    assert file[:] == b"x" * 100_000
    path.write_bytes(b"x" * 100_000)
    for change in (lambda: os.utime(path, ns=(0, 1)), lambda: os.truncate(path, 99_999)):
        file = SourceFile(path, DEFAULT_LIMITS)
        change()
        with pytest.raises(CheckpointError, match="changed while it was read"):
            file[50_000:]
        with pytest.raises(CheckpointError, match="changed while it was read"):
            file.digest()


def test_an_open_file_is_neither_copied_nor_pickled(content):
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="send its path"):
            attempt(content[1])


TARS = {
    "a checkpoint": (["net/model.PTH"], 'a tar archive that holds "net/model.PTH"; extract it and give that file'),
    "several": (
        ["read.me", *(f"{number}.pt" for number in range(9))],
        '"0.pt", "1.pt", "2.pt", "3.pt", "4.pt"; extract',
    ),
    "other files": (["a.txt", "b/c.png"], "a tar archive, not a PyTorch checkpoint"),
    "a name that steers a terminal": (["\x1b[2J.pt"], r'holds "\u001b[2J.pt"; extract'),
}


@pytest.mark.parametrize("name", TARS)
def test_what_a_tar_archive_holds_is_named(name):
    names, reason = TARS[name]
    with pytest.raises(CheckpointError) as caught:
        identify(tar(tarfile.GNU_FORMAT, *names), "m.tar")
    assert reason in caught.value.reason


def test_a_checkpoint_behind_a_large_member_of_a_tar_archive_is_found():
    buffer, content = io.BytesIO(), b"x" * 5000
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("notes.bin.txt", "model.ckpt"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(CheckpointError, match=r'holds "model\.ckpt"'):
        identify(buffer.getvalue(), "m.tar")
