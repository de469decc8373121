import errno
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rnp_jax.atomic import create_atomic, open_atomic, write_atomic


def test_content_and_folder_appear(tmp_path):
    path = tmp_path / "new" / "folder" / "result.json"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["result.json"]


def test_nothing_is_visible_before_the_end(tmp_path):
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    with open_atomic(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("existing", [True, False])
def test_an_error_leaves_everything_as_it_was(error, existing, tmp_path):
    path = tmp_path / "result.json"
    if existing:
        path.write_bytes(b"old")
    with pytest.raises(error), open_atomic(path) as file:  # noqa: PT012 (the write belongs to the block)
        file.write(b"half")
        raise error
    assert os.listdir(tmp_path) == (["result.json"] if existing else [])
    assert not existing or path.read_bytes() == b"old"


def test_a_folder_that_is_missing_or_in_the_way(tmp_path):
    with pytest.raises(FileNotFoundError), open_atomic(tmp_path / "missing" / "file"):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_atomic(tmp_path / "folder", b"")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("name", ["x" * 255, "表" * 85])
def test_the_longest_names_a_folder_can_hold(name, tmp_path):
    write_atomic(tmp_path / name, b"content")
    assert os.listdir(tmp_path) == [name]


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_what_is_made_once_stays_and_its_folders_are_made(tmp_path):
    path = tmp_path / "new" / "folder" / "row.json"
    assert create_atomic(path, b"first") is True
    assert create_atomic(path, b"second") is False
    assert path.read_bytes() == b"first"
    assert os.listdir(path.parent) == ["row.json"]


def test_of_many_that_try_at_once_one_makes_it_whole(tmp_path):
    threads, size = 16, 200_000
    start = threading.Barrier(threads)

    def make(i: int, round_: int) -> bool:
        start.wait(60)
        return create_atomic(tmp_path / f"folder{round_}" / "row.json", bytes([i]) * size)

    with ThreadPoolExecutor(threads) as pool:
        for round_ in range(5):
            made = list(pool.map(make, range(threads), [round_] * threads))
            assert made.count(True) == 1
            folder = tmp_path / f"folder{round_}"
            assert (folder / "row.json").read_bytes() == bytes([made.index(True)]) * size
            assert os.listdir(folder) == ["row.json"]


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_nothing_is_left_over_when_the_disk_refuses(tmp_path, monkeypatch, step):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, step, refuse)
        with pytest.raises(OSError, match="No space left"):
            create_atomic(tmp_path / "row.json", b"content")
    assert os.listdir(tmp_path) == []
    assert create_atomic(tmp_path / "row.json", b"content") is True
