"""Damaged files of every container: a typed error or a usable result, never anything else."""

import collections
import contextlib
import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io import Limits, check_consumed, find_state_dict, read_checkpoint, write_checkpoint
from tests.damage import OPCODES, damaged
from tests.torch_io import hostile as h

LIMITS = Limits(opcodes=20_000, pickle_bytes=2**20, materialised_bytes=2**20)
MODEL = {
    "epoch": 3,
    "state_dict": collections.OrderedDict(w=torch.arange(6.0).reshape(2, 3), n=torch.tensor(2), t=torch.ones(2, 3).t()),
    "extra": [
        torch.Size([2]),
        b"abc",
        (0.5, None, True),
        collections.Counter({3: 1}),
        torch.nn.Parameter(torch.ones(2)),
    ],
}


MODULE = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))


def saved(new: bool, value=MODEL) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def members(value=MODEL) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(saved(True, value))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


SOURCES = {
    "zip": saved(True),
    "legacy": saved(False),
    "safetensors": safetensors.numpy.save({"w": np.ones((2, 3), np.float32), "n": np.array(3)}, {"format": "pt"}),
}
MEMBERS = {"a state dict": members(), "a whole module": members(MODULE)}
FUZZ = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def check(content: bytes, *, check_crc: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.pt"
        path.write_bytes(content)
        with contextlib.suppress(CheckpointError):
            checkpoint = read_checkpoint(path, limits=LIMITS, check_crc=check_crc)
            state_dict = find_state_dict(checkpoint)
            assert sum(array.nbytes for array in state_dict.tensors.values()) <= LIMITS.materialised_bytes
            write_checkpoint(Path(folder) / "copy.pt", checkpoint, state_dict, {})
            copy = find_state_dict(read_checkpoint(Path(folder) / "copy.pt"), "/".join(state_dict.location) or "/")
            assert {k: v.tobytes() for k, v in copy.tensors.items()} == {
                k: v.tobytes() for k, v in state_dict.tensors.items()
            }
            check_consumed(state_dict.tensors, state_dict.tensors, path)


@pytest.mark.parametrize("kind", SOURCES)
@given(data=st.data())
@FUZZ
def test_a_damaged_file(kind, data):
    check(data.draw(damaged(SOURCES[kind])), check_crc=data.draw(st.booleans()))


@pytest.mark.parametrize("kind", MEMBERS)
@given(data=st.data())
@FUZZ
def test_a_damaged_pickle_in_a_sound_archive(kind, data):
    pickle = data.draw(damaged(MEMBERS[kind]["archive/data.pkl"]))
    content = MEMBERS[kind] | {"archive/data.pkl": pickle}
    check(h.archive(*(h.Member(name, raw) for name, raw in content.items())), check_crc=True)


@given(
    st.lists(st.one_of(st.sampled_from(OPCODES).map(lambda code: bytes([code])), st.binary(max_size=4)), max_size=60)
)
@FUZZ
def test_any_opcodes(parts):
    check(h.torch_zip(b"".join(parts)), check_crc=True)
