"""Only regular files of a bounded size are opened, and nothing waits for a FIFO."""

import os
import socket

import pytest

from rnp_jax.regular_file import open_descriptor, open_regular, read_regular


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
