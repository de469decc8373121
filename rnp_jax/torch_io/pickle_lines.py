"""The values that a pickle spells in lines of text, as all did in protocol 0 and a few still do in later ones."""

import re

from rnp_jax.torch_io.pickle_cursor import PickleCursor
from rnp_jax.torch_io.text import quote


def take_integer(cursor: PickleCursor) -> int | bool:
    """INT: in protocol 2, an integer beyond 32 bits that Python 2 wrote, or a truth value of protocol 1.

    Raises:
      CheckpointError: it is not a number of up to 20 digits.
    """
    line = cursor.take_line()
    if not re.fullmatch(r"-?[0-9]{1,20}", line, re.ASCII):
        raise cursor.error(f"{quote(line)} is not an integer")
    return line == "01" if line in ("00", "01") else int(line)


def take_long(cursor: PickleCursor) -> int:
    """LONG: a larger integer.

    Raises:
      CheckpointError: it is not a number, or beyond `Limits.integer_bytes`.
    """
    line, most = cursor.take_line(), cursor.limits.integer_bytes
    value = int(line.removesuffix("L")) if re.fullmatch(r"-?[0-9]{1,700}L?", line, re.ASCII) else None
    if value is None or value.bit_length() >= 8 * most:
        raise cursor.error(f"{quote(line)} is not an integer of up to {most} bytes (Limits.integer_bytes)")
    return value


def take_float(cursor: PickleCursor) -> float:
    """FLOAT.

    Raises:
      CheckpointError: it is not a number.
    """
    line = cursor.take_line()
    try:
        return float(line)
    except ValueError:
        raise cursor.error(f"{quote(line)} is not a number") from None


def take_unicode(cursor: PickleCursor) -> str:
    r"""UNICODE: a text of any length, its line breaks and backslashes written as ``\uXXXX``.

    Raises:
      CheckpointError: a broken escape.
    """
    try:
        return cursor.take_raw_line(cursor.limits.pickle_bytes).decode("raw-unicode-escape")
    except UnicodeDecodeError:
        raise cursor.error("a text with a broken escape") from None


def take_index(cursor: PickleCursor) -> int:
    """The place in the memo that GET and PUT name.

    Raises:
      CheckpointError: it is not a number of up to 10 digits.
    """
    line = cursor.take_line()
    if not re.fullmatch(r"[0-9]{1,10}", line, re.ASCII):
        raise cursor.error(f"{quote(line)} is not a place in the memo")
    return int(line)
