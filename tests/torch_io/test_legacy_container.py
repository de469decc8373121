"""The container before torch 1.6, as torch still writes it."""

import io
import struct

import numpy as np
import pytest
import torch

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.legacy_container import MAGIC, PROTOCOL, read_legacy
from rnp_jax.torch_io.limits import DEFAULT_LIMITS
from tests.torch_io import hostile as h

ROOT = h.dict_(state_dict=h.ordered(w=h.tensor(view=b"N")))


def test_the_constants_are_torchs():
    assert (MAGIC, PROTOCOL) == (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_storages_are_slices_of_the_file(protocol):
    tensors = {"a": torch.arange(5.0), "b": torch.tensor([1, 2**40]), "none": torch.empty(0), "t": torch.tensor(True)}
    buffer = io.BytesIO()
    torch.save(tensors, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    tree, table, extents = read_legacy(data, "m.pt", DEFAULT_LIMITS)
    assert list(tree) == list(tensors)
    assert set(extents) == set(table.refs)
    for name, tensor in tensors.items():
        record = data[extents[tree[name].storage.key]]
        np.testing.assert_array_equal(np.frombuffer(record, tree[name].dtype), tensor.numpy().ravel())


SYSTEM = h.dict_(protocol_version=h.integer(1001), little_endian=b"\x88")
FIVE = [h.MAGIC, h.pickled(h.integer(1001)), h.pickled(SYSTEM), h.pickled(ROOT), h.pickled(h.list_(h.text("0")))]
STORAGE = struct.pack("<q", 4) + h.FOUR


def joined(**changed: bytes) -> bytes:
    names = ("magic", "version", "system", "root", "keys")
    return b"".join(changed.get(name, part) for name, part in zip(names, FIVE, strict=True)) + STORAGE


def test_a_file_made_by_hand_is_read():
    tree, _, extents = read_legacy(joined(), "m.pt", DEFAULT_LIMITS)
    assert tree["state_dict"]["w"].shape == (2, 2)
    assert joined()[extents["0"]] == h.FOUR


REFUSED = {
    "another version": ({"version": h.pickled(h.integer(1000))}, "protocol version 1000"),
    "no version": ({"version": h.pickled(h.list_(b"N", b"N"))}, "protocol version a list of 2 values"),
    "no dict": ({"system": h.pickled(b"N")}, "not the plain dict"),
    "no byte order": ({"system": h.pickled(b"}")}, "not the plain dict"),
    "big endian": ({"system": h.pickled(h.dict_(little_endian=b"\x89"))}, "big-endian"),
    "an object": ({"system": h.pickled(h.dict_(little_endian=b"\x88", x=h.name("a", "b")))}, "holds objects"),
    "a storage in the keys": ({"keys": h.pickled(h.storage(view=b"N"))}, "a persistent id where none belongs"),
    "no magic": ({"magic": h.pickled(h.integer(1))}, "a plain pickle"),
    "magic of a greater number": ({"magic": h.MAGIC[:-1] + b"0N."}, "a plain pickle"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    changed, reason = REFUSED[name]
    with pytest.raises(CheckpointError) as caught:
        read_legacy(joined(**changed), "m.pt", DEFAULT_LIMITS)
    assert reason in caught.value.reason
