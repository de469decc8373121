import os
import resource
import tempfile

import pytest

from rnp_jax.errors import OutsideError
from rnp_jax.process import keep_traceback, prepare_process


@pytest.mark.parametrize(
    ("limits", "raised"),
    [
        ((1024, 1048576), [(4096, 1048576)]),
        ((1024, 2048), [(2048, 2048)]),
        ((1024, resource.RLIM_INFINITY), [(4096, resource.RLIM_INFINITY)]),
        ((8192, 8192), []),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), []),
    ],
)
def test_the_limit_of_open_files_is_raised_as_far_as_it_goes(limits, raised, monkeypatch):
    done = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: done.append(wanted))
    prepare_process()
    assert done == raised


def test_too_few_open_files_are_told_of(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    with pytest.raises(OutsideError, match="this process may open 64 files, expected 128: run ulimit -n 4096"):
        prepare_process()


def test_a_traceback_is_kept_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    try:
        raise ValueError("a\x1b[2J\udcff")
    except ValueError as error:
        path = keep_traceback(error, ["inspect", "b\x1b.pt"])
    text = (tmp_path / os.path.basename(path)).read_text("utf-8")
    assert text.startswith("rnp-jax inspect b\\x1b.pt\ncode ")
    assert text.endswith("ValueError: a\\x1b[2J\\udcff\n")
    assert os.stat(path).st_mode & 0o077 == 0
