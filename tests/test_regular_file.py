"""Only regular files of a bounded size are opened, and nothing waits for a FIFO."""

import contextlib
import hashlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
from PIL import Image

from rnp_jax.data.gtsrb import load_gtsrb
from rnp_jax.data.tfds import load_tfds
from rnp_jax.data.tiny_imagenet import load_tiny_imagenet
from rnp_jax.detection.calibration import read_calibration
from rnp_jax.errors import RnpError
from rnp_jax.regular_file import digest_regular, open_descriptor, open_regular, read_regular
from rnp_jax.sweep.items import read_plan
from rnp_jax.sweep.ledger import Ledger


def test_a_regular_file_is_read_through_links(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").symlink_to("a")
    assert read_regular(tmp_path / "b", 5) == b"12345"
    with open_regular(tmp_path / "a") as file:
        assert file.read(2) == b"12"


def test_the_size_is_bounded_and_nothing_above_it_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    with pytest.raises(OSError, match="5 bytes or more, expected at most 4"):
        read_regular(tmp_path / "a", 4)
    os.truncate(tmp_path / "a", 2**40)  # a hole
    with pytest.raises(OSError, match="1099511627776 bytes"):
        read_regular(tmp_path / "a", 2**20)


def test_a_file_that_says_it_is_empty_is_bounded_too():
    """Files of /proc have no size, yet bytes."""
    with pytest.raises(OSError, match="9 bytes or more, expected at most 8"):
        read_regular("/proc/self/status", 8)


def test_what_is_no_regular_file_is_refused_at_once_and_no_descriptor_stays_open(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        before = os.listdir("/dev/fd")
        for path, kind in (
            (tmp_path / "fifo", "a FIFO, not a regular file"),
            ("/dev/zero", "a device or socket, not"),
            (tmp_path, "a directory, not"),
            (tmp_path / "socket", "No such device"),
            (tmp_path / "missing", "No such file"),
            ("a\0b", "embedded null"),
            ("\ud800", "surrogates not allowed"),
        ):
            with pytest.raises(OSError, match=kind):
                open_descriptor(path)
        assert len(os.listdir("/dev/fd")) == len(before)


def read_gtsrb(path: Path) -> object:
    return load_gtsrb(path.parents[3], "train")


def read_tiny(path: Path) -> object:
    (path.parent / "wnids.txt").write_text("n1\n")
    (path.parent / "train/n1/images").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(path.parent / "train/n1/images/1.png")
    return load_tiny_imagenet(path.parent, "train")


READERS = MappingProxyType(
    {
        "calibration.json": read_calibration,
        "Final_Training/Images/00000/GT-00000.csv": read_gtsrb,
        "words.txt": read_tiny,
        "features.json": lambda path: load_tfds(path.parent, "toy", "train"),
        "dataset_info.json": lambda path: load_tfds(path.parent, "toy", "train"),
        "plan.json": lambda path: read_plan(path.parent),
        "rows/key.json": lambda path: Ledger(path.parents[1]).row("key"),
        "rows/key.aside": lambda path: Ledger(path.parents[1]).why_aside("key"),
        "claims/key": lambda path: Ledger(path.parents[1]).is_held("key"),
    }
)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", ["a FIFO", "a file of a tebibyte"])
@pytest.mark.parametrize("name", READERS)
def test_no_reader_waits_for_a_fifo_or_reads_without_an_end(name, kind, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "a FIFO":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, 2**40)
    with at_once(), pytest.raises((RnpError, OSError), match=r"not a regular file|expected at most"):
        READERS[name](path)


def test_a_member_s_file_that_is_a_fifo_holds_nobody_up(tmp_path):
    ledger = Ledger(tmp_path)
    os.mkfifo(tmp_path / "members" / "host:1:a")
    with at_once(), pytest.raises(OSError, match="not a regular file"):
        ledger.is_alive("host:1:a")


def test_a_digest_is_of_so_many_bytes_as_the_file_says(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert digest_regular(tmp_path / "a", 5) == hashlib.sha256(b"12345").hexdigest()
    assert digest_regular("/proc/self/status") == hashlib.sha256().hexdigest()
    with pytest.raises(OSError, match="expected at most 4"):
        digest_regular(tmp_path / "a", 4)
