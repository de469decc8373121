"""Archives of arrays as they are opened; what their arrays may be is tested with data and artefacts."""

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rnp_jax.npz import READ_ERRORS, list_arrays, open_array, open_npz


@pytest.fixture
def saved(tmp_path) -> Path:
    np.savez(tmp_path / "a.npz", images=np.arange(3), labels=np.zeros(2))
    return tmp_path / "a.npz"


def test_arrays_are_listed_and_opened_by_name(saved):
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr("notes.txt", b"no array")
    with open_npz(saved) as archive:
        assert list_arrays(archive) == ["images", "labels"]
        with open_array(archive, "images") as file:
            np.testing.assert_array_equal(np.lib.format.read_array(file), np.arange(3))
        with pytest.raises(KeyError):
            open_array(archive, "notes.txt")


def test_a_file_has_at_most_so_many_bytes(saved):
    size = saved.stat().st_size
    with open_npz(saved, most=size):
        pass
    with pytest.raises(ValueError, match=str(size)), open_npz(saved, most=size - 1):
        pass


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 100], ids=["empty", "short", "other"])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(READ_ERRORS), open_npz(tmp_path / "a.npz"):
        pass


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_than_numpy_s_are_refused(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.writestr("a.npy", b"x")
    with open_npz(tmp_path / "a.npz") as archive, pytest.raises(ValueError, match=r"a\.npy is neither stored nor"):
        open_array(archive, "a")


def test_a_directory_is_checked_before_zipfile_reads_it(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for number in range(20):
            info = zipfile.ZipInfo(f"{number}.npy")
            info.extra = struct.pack("<2H", 0x9999, 0) * 16_000
            archive.writestr(info, b"")
    monkeypatch.setattr(zipfile, "ZipFile", None)
    refused = pytest.raises(ValueError, match=r"a zip directory of \d+ bytes, expected at most 1048576")
    with refused, open_npz(tmp_path / "a.npz"):
        pass
