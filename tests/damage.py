"""Damage done to the bytes of a file, with pickle's instructions among what is written over it."""

import pickletools

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
