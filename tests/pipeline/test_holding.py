"""A place has one run, or runs that do the same; who it is, is told; what dies holds nothing."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack

import pytest

from rnp_jax import atomic
from rnp_jax.errors import DataError
from rnp_jax.pipeline.holding import LOCK, check_unfinished, hold_file, hold_folder, hold_new

HELD = rf"is being written by process {os.getpid()} on .* \(defend, since 20.*Z\); wait until it ends, or choose"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("rnp_jax.pipeline.holding._PATIENCE", 0.2)


@pytest.mark.parametrize("share", [None, "other"])
def test_a_second_run_is_told_whose_the_folder_is(tmp_path, share):
    out = tmp_path / "deep" / "out"
    with hold_folder(out, "defend") as alone:
        assert alone
        with pytest.raises(DataError, match=rf"{out} {HELD}"), hold_folder(out, "detect", share):
            raise AssertionError
        (out / "file").touch()
    assert os.listdir(out) == ["file"]
    with hold_folder(out, "detect", share) as alone:
        assert alone


def test_a_folder_into_which_nothing_is_written_is_not_left_behind(tmp_path):
    with pytest.raises(ZeroDivisionError), hold_folder(tmp_path / "new", "defend"):
        raise ZeroDivisionError
    with hold_folder(tmp_path, "defend"):
        pass
    assert os.listdir(tmp_path) == []


def test_runs_that_do_the_same_share_a_folder_until_the_last_has_left(tmp_path):
    with ExitStack() as first, ExitStack() as second, ExitStack() as third:
        assert first.enter_context(hold_folder(tmp_path, "defend", "same"))
        assert not second.enter_context(hold_folder(tmp_path, "defend", "same"))
        first.close()
        assert not third.enter_context(hold_folder(tmp_path, "defend", "same"))
        second.close()
        for share in (None, "other"):
            with pytest.raises(DataError, match=HELD), hold_folder(tmp_path, "sweep", share):
                raise AssertionError
        third.close()
    assert os.listdir(tmp_path) == []


def test_what_was_finished_meanwhile_is_not_written_again(tmp_path):
    (tmp_path / "report.html").touch()
    with (
        pytest.raises(DataError, match="already contains a finished result"),
        hold_new(tmp_path, "defend", "report.html"),
    ):
        raise AssertionError


def test_of_a_run_that_was_killed_at_its_end_only_the_result_stays(tmp_path):
    check_unfinished(tmp_path, "defend", "report.html")
    (tmp_path / "masks").mkdir()
    draft = atomic._name_draft(tmp_path / "masks" / "x")
    for left in (tmp_path / LOCK, tmp_path / "report.html", draft):
        left.write_bytes(b"{}")
    with pytest.raises(DataError, match="already contains a finished result"):
        check_unfinished(tmp_path, "defend", "report.html")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["masks", "report.html"]


HOLDER = """
import sys
from pathlib import Path
from rnp_jax.atomic import open_atomic
from rnp_jax.pipeline.holding import hold_file, hold_folder
out = Path(sys.argv[1])
with hold_folder(out, "defend"), hold_file(out / "a.pt", "attack"), open_atomic(out / "file") as file:
    file.write(b"half")
    file.flush()
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_run_held_is_free_and_its_drafts_are_gone(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"ready\n"
        told = rf"is being written by process {holder.pid} on"
        with pytest.raises(DataError, match=told), hold_folder(tmp_path, "defend"):
            raise AssertionError
        with pytest.raises(DataError, match=told), hold_file(tmp_path / "a.pt", "attack"):
            raise AssertionError
        with hold_file(tmp_path / "b.pt", "attack"):
            pass
        holder.send_signal(signal.SIGKILL)
    with hold_folder(tmp_path, "defend"), hold_file(tmp_path / "a.pt", "attack"):
        assert len(os.listdir(tmp_path)) == 2
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.pt", "x" * 255, "表" * 85])
def test_files_of_any_name_can_be_held(tmp_path, name):
    with hold_file(tmp_path / name, "attack"):
        (tmp_path / name).touch()
    assert os.listdir(tmp_path) == [name]


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / LOCK).symlink_to("mine")
    with pytest.raises(OSError, match="symbolic links"), hold_folder(tmp_path, "defend"):
        raise AssertionError
    assert (tmp_path / "mine").read_text() == "precious"
