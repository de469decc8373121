"""Damage done to the bytes of a file, with pickle's instructions among what is written over it, or to its words."""

import pickletools
import re

from hypothesis import strategies as st

OPCODES = [ord(opcode.code) for opcode in pickletools.opcodes]


@st.composite
def damaged(draw, source: bytes) -> bytes:
    """Flipped, overwritten, removed, repeated and moved bytes."""
    data = bytearray(source)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        span = draw(st.integers(1, 16))
        kind = draw(st.sampled_from(["flip", "set", "number", "cut", "remove", "repeat", "move"]))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            data[at : at + 1] = bytes([draw(st.sampled_from(OPCODES))])
        elif kind == "number":
            data[at : at + 4] = draw(st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80"]))
        elif kind == "cut":
            del data[at:]
        elif kind == "remove":
            del data[at : at + span]
        elif kind == "repeat":
            data[at:at] = data[at : at + span]
        else:
            other = draw(st.integers(0, len(data)))
            data[at : at + span] = data[other : other + span]
    return bytes(data)


WORD = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?|[A-Za-z_]+|[\[\]{},:]')
ODD = [
    *("-1", "0", "1e999", "NaN", "null", "true", "[]", "{}", '""', "[[]]", "-0.5", "3.5", "2024-01-31", "2024-99-99"),
    *('"\\ud800"', '"\\u0000"', '"\\u001b[2J"', "\x1b[2J", "\udcff", "\0", "*a", "&a", "!!int x", "<<", "0x_"),
    *("1" * 5000, "9" * 30, "[" * 3000, "[" * 200 + "]" * 200, '{"a":' * 3000, '"' + "x" * 10_000 + '"', "- " * 3000),
]  # fmt: skip


@st.composite
def reworded(draw, source: str) -> bytes:
    """Words, numbers and brackets of a text replaced by odd ones or by others of its own, removed or repeated."""
    text = source
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        words = list(WORD.finditer(text)) or [re.match("", text)]
        start, end = draw(st.sampled_from(words)).span()
        other = draw(st.sampled_from(words)).group()
        new = draw(st.sampled_from([*ODD, "", other, text[start:end] * 2]))
        text = text[:start] + new + text[end:]
    return text.encode("utf-8", "surrogatepass")
