import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rnp_jax.atomic import (
    _name_draft,
    create_atomic,
    open_atomic,
    open_to_append,
    put_in_place,
    remove_drafts,
    write_atomic,
)
from rnp_jax.errors import DiskFullError, ResultError


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
        with pytest.raises(DiskFullError, match=r"row\.json: No space left on device; free some space"):
            create_atomic(tmp_path / "row.json", b"content")
    assert os.listdir(tmp_path) == []
    assert create_atomic(tmp_path / "row.json", b"content") is True


@pytest.mark.parametrize("before", ["nothing", "file", "folder", "link"])
def test_a_folder_takes_the_place_of_what_was_there_when_it_is_whole(before, tmp_path):
    path, other = tmp_path / "masks", tmp_path / "other"
    other.mkdir()
    (other / "mine").touch()
    make = {"file": path.touch, "folder": path.mkdir, "link": lambda: path.symlink_to(other)}
    make.get(before, list)()
    for _ in range(2):
        with put_in_place(path) as draft:
            draft.mkdir()
            (draft / "file").write_bytes(b"content")
        assert not path.is_symlink()
        assert os.listdir(path) == ["file"]
    assert os.listdir(other) == ["mine"]
    assert sorted(os.listdir(tmp_path)) == ["masks", "other"]


def test_a_folder_that_has_no_room_leaves_the_one_before(tmp_path):
    (tmp_path / "masks").mkdir()
    with pytest.raises(DiskFullError), put_in_place(tmp_path / "masks") as draft:  # noqa: PT012
        draft.mkdir()
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    assert os.listdir(tmp_path) == ["masks"]


def test_text_goes_behind_the_end_of_a_file_itself(tmp_path):
    path, mine = tmp_path / "run.log", tmp_path / "mine"
    for text in (b"one", b"two"):
        with open_to_append(path) as file:
            file.write(text)
    assert path.read_bytes() == b"onetwo"
    mine.write_bytes(b"precious")
    for plant in (lambda: path.symlink_to(mine), lambda: path.symlink_to("nowhere"), lambda: os.mkfifo(path)):
        path.unlink()
        plant()
        with pytest.raises(ResultError, match=r"run\.log is a link or no regular file"):
            open_to_append(path)
    assert mine.read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()


WRITER = """
import sys
from pathlib import Path
from rnp_jax.atomic import put_in_place, open_atomic
out = Path(sys.argv[1])
with open_atomic(out / "file") as file, put_in_place(out / "deep" / "folder") as draft:
    file.write(b"half")
    file.flush()
    draft.mkdir()
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_drafts_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path):
    """A draft is empty and nobody's for a moment when it is made: such a one of a living process stays while young."""
    young, old = (_name_draft(tmp_path / "file") for _ in range(2))
    machine = "1234" if young.name[1:5] == "0000" else "0000"  # another than this one
    other, older = (young.with_name(f".{machine}{digit * 12}.part") for digit in "12")
    for path in (young, old, other, older, tmp_path / ".part", tmp_path / f"{young.name}.txt"):
        path.touch()
    for path, age in ((old, 100), (other, 100), (older, 4000)):
        os.utime(path, (time.time() - age,) * 2)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with writer:
        assert writer.stdout.readline() == b"ready\n"
        before = {*tmp_path.rglob("*")}
        remove_drafts(tmp_path, deep=True)
        assert before - {*tmp_path.rglob("*")} == {old, older}
        writer.send_signal(signal.SIGKILL)
    remove_drafts(tmp_path)
    assert len([*(tmp_path / "deep").iterdir()]) == 1, "only where it is told to"
    young.with_name(f"{young.name[:5]}{writer.pid:06x}abcdef.part").touch()
    remove_drafts(tmp_path, deep=True)
    left = {young.name, other.name, ".part", f"{young.name}.txt", "deep"}
    assert {path.name for path in tmp_path.rglob("*")} == left
