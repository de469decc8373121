"""Bounded reading of the bytes of one pickle, with an account of the work it causes."""

import struct
from os import PathLike
from typing import Any, Final

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.limits import Limits
from rnp_jax.torch_io.source_file import Sliceable

_LONGEST_LINE: Final = 1024


class PickleCursor:
    """A position in the bytes of a pickle.

    Args:
      data: the bytes that hold the pickle.
      path: the file, for errors.
      name: what the pickle is called in errors.
      limits: how many bytes and opcodes are accepted.
      start: where the pickle begins.

    Attributes:
      position: the next byte.
    """

    def __init__(self, data: Sliceable, path: str | PathLike[str], name: str, limits: Limits, start: int = 0):
        self.limits = limits
        self.position = start
        self._data = data
        self._end = min(len(data), start + limits.pickle_bytes)
        self._path = path
        self._name = name
        self._spent = 0
        self._spent_bytes = 0

    def error(self, reason: str) -> CheckpointError:
        """The error to raise for `reason`, with the place in the pickle."""
        return CheckpointError(self._path, f"{self._name}, before byte {self.position}: {reason}")

    def charge(self, amount: int) -> None:
        """Count instructions, or items that one copies, against `Limits.opcodes`."""
        self._spent += amount
        if self._spent > self.limits.opcodes:
            raise self.error(f"more than {self.limits.opcodes} instructions (Limits.opcodes)")

    def charge_bytes(self, amount: int) -> None:
        """Count copied bytes against `Limits.pickle_bytes`."""
        self._spent_bytes += amount
        if self._spent_bytes > self.limits.pickle_bytes:
            raise self.error(f"byte strings of more than {self.limits.pickle_bytes} bytes (Limits.pickle_bytes)")

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        start, end = self.position, self.position + count
        if end > self._end:
            cut = "the file ends" if self._end == len(self._data) else "Limits.pickle_bytes ends it"
            raise self.error(f"{count} bytes are announced, but {cut} after {self._end - start}")
        self.position = end
        return self._data[start:end]

    def take_number(self, layout: str) -> Any:
        """The next number, its layout in the notation of `struct`."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def take_text(self, count: int) -> str:
        """The next `count` bytes as UTF-8."""
        try:
            return self.take(count).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise self.error("a text that is not UTF-8") from None

    def take_line(self) -> str:
        """The text up to the end of the line, without it."""
        raw = self.take_raw_line(_LONGEST_LINE)
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise self.error("a text that is not UTF-8") from None

    def take_raw_line(self, most: int) -> bytes:
        """The bytes up to the end of the line, without it; with it, they are at most `most`."""
        size = min(most, _LONGEST_LINE)
        while (length := self._peek(size).find(b"\n")) < 0:
            if size >= min(most, self._end - self.position):
                raise self.error(f"a line without an end within {most} bytes")
            size = min(2 * size, most)
        return self.take(length + 1)[:-1]

    def _peek(self, count: int) -> bytes:
        return self._data[self.position : min(self._end, self.position + count)]
