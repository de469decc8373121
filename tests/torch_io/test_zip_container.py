"""Archives that other writers made: Python's zipfile, with and without 64-bit sizes and data descriptors."""

import io
import struct
import time
import zipfile
import zlib

import pytest

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import DEFAULT_LIMITS
from rnp_jax.torch_io.zip_container import check_contents, locate_contents, read_directory

CONTENTS = {"a/data.pkl": b"N.", "a/empty": b"", "a/sch\u00f6n": bytes(range(256)) * 9}


class Unseekable(io.RawIOBase):
    """A stream like a pipe, which makes zipfile write data descriptors."""

    def __init__(self):
        self.content = b""

    def writable(self):
        return True

    def write(self, data, /):
        self.content += bytes(data)
        return len(data)


def read(data: bytes) -> tuple[dict[str, bytes], list[str]]:
    directory = read_directory(data, "m.pt", DEFAULT_LIMITS)
    extents, anomalies = locate_contents(data, directory, "m.pt")
    check_contents(directory, {name: zlib.crc32(data[extent]) for name, extent in extents.items()}, "m.pt")
    return {name: data[extent] for name, extent in extents.items()}, anomalies


def write(stream, *, wide: bool) -> None:
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in CONTENTS.items():
            with archive.open(name, "w", force_zip64=wide) as member:
                member.write(content)


@pytest.mark.parametrize("wide", [False, True])
def test_sizes_in_the_header(wide):
    stream = io.BytesIO()
    write(stream, wide=wide)
    contents, anomalies = read(stream.getvalue())
    assert contents == CONTENTS
    assert anomalies == []


def test_sizes_in_a_data_descriptor():
    stream = Unseekable()
    write(stream, wide=False)
    contents, anomalies = read(stream.content)
    assert contents == CONTENTS
    assert anomalies == []
    descriptor = stream.content.index(b"PK\x07\x08")
    damaged = stream.content[: descriptor + 4] + b"\xff" + stream.content[descriptor + 5 :]
    with pytest.raises(CheckpointError, match="disagree"):
        read(damaged)


def test_bytes_that_belong_to_no_member_are_reported():
    stream = io.BytesIO()
    write(stream, wide=False)
    plain = io.BytesIO(b"#!/bin/sh\n")
    plain.seek(0, io.SEEK_END)
    write(plain, wide=False)
    contents, anomalies = read(plain.getvalue())
    assert list(contents) == list(CONTENTS)
    assert anomalies == ['10 bytes before zip member "a/data.pkl" are unused']


def test_every_damaged_content_byte_is_noticed():
    stream = io.BytesIO()
    write(stream, wide=False)
    data = bytearray(stream.getvalue())
    data[data.index(bytes(range(256)))] ^= 1
    with pytest.raises(CheckpointError, match="checksum"):
        read(bytes(data))


def test_extra_data_costs_no_more_than_it_is_long():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number in range(10):
            info = zipfile.ZipInfo(f"archive/{number}")
            info.extra = struct.pack("<2H", 0x9999, 0) * 16_000
            with archive.open(info, "w", force_zip64=True) as member:
                member.write(b"x")
    start = time.process_time()
    with pytest.raises(CheckpointError, match="lacks its 64-bit sizes"):  # they come after 64 fields
        read(stream.getvalue())
    assert time.process_time() - start < 0.5  # 1.1 s a MB where each field copied all that followed it


def test_entries_of_folders_are_passed_over():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/", b"")
        for name, content in CONTENTS.items():
            archive.writestr(name, content)
        archive.writestr("a/b/", b"")
    assert read(stream.getvalue()) == (CONTENTS, [])
    with pytest.raises(CheckpointError, match="unsafe name"):
        read(stream.getvalue().replace(b"a/b/", b"a///"))


def test_members_that_nobody_reads_may_be_compressed():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/code/net.py", b"x" * 1000, zipfile.ZIP_DEFLATED)
        archive.writestr("a/data.pkl", b"N.")
    data = stream.getvalue()
    directory = read_directory(data, "m.pt", DEFAULT_LIMITS)
    extents, _ = locate_contents(data, directory, "m.pt", unread="a/code/")
    assert {name: data[extent] for name, extent in extents.items()} == {"a/data.pkl": b"N."}
    for unread in (None, "a/data"):
        with pytest.raises(CheckpointError, match="is compressed, which torch never does"):
            locate_contents(data, directory, "m.pt", unread=unread)
