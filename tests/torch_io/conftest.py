"""Watching what a call does to the world."""

import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from rnp_jax.torch_io import find_state_dict, read_checkpoint
from tests.torch_io import hostile

_WATCHED = ("import", "exec", "compile", "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pickle.", "marshal.")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_seen: list[str] | None = None
_installed = False


def _hook(event: str, arguments: tuple) -> None:
    if _seen is None:
        return
    is_write = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)
    if is_write or event.startswith(_WATCHED):
        _seen.append(f"{event} {arguments!r:.200}")


@pytest.fixture(scope="session")
def warm(tmp_path_factory) -> None:
    """Whatever is imported lazily on the way of a good file is imported."""
    folder = tmp_path_factory.mktemp("warm")
    for number, content in enumerate([hostile.torch_zip(hostile.GOOD), hostile.legacy(), b"{", b""]):
        path = folder / str(number)
        path.write_bytes(content)
        try:
            find_state_dict(read_checkpoint(path))
        except Exception as error:
            str(error)


@pytest.fixture
def watch(warm, tmp_path, monkeypatch) -> Callable:
    """``watch(call)`` makes the call and checks that it imports, executes and writes nothing, in little memory."""
    global _installed
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    monkeypatch.chdir(tmp_path)

    def run(call: Callable, path: Path, budget: int = 64 * 2**20):
        global _seen
        before = sorted(os.listdir(tmp_path))
        allowed = budget + (3 * path.stat().st_size if path.is_file() else 0)
        tracemalloc.start()
        _seen = seen = []
        try:
            return call()
        finally:
            _seen = None
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert seen == []
            assert sorted(os.listdir(tmp_path)) == before
            assert peak <= allowed, f"{peak} bytes, {allowed} allowed"

    return run
