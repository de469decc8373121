"""Views of a storage's bytes against torch's own, in both byte orders."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io import Limits, TensorRef, materialise, read_checkpoint
from rnp_jax.torch_io.checkpoint import Checkpoint, Place, Records, decode, encode, view_bits
from rnp_jax.torch_io.dtypes import DTYPES
from rnp_jax.torch_io.limits import DEFAULT_LIMITS
from rnp_jax.torch_io.nodes import StorageRef
from rnp_jax.torch_io.source_file import SourceFile

CHECKED = settings(max_examples=100, deadline=None, derandomize=True)


@st.composite
def views(draw, *, dense: bool = False) -> TensorRef:
    """A view of any dtype and layout; of a dense one, no two indices share an element."""
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    if dense:
        order = draw(st.permutations(range(len(shape))))
        strides = tuple(
            math.prod(max(shape[other], 1) for other in order[: order.index(axis)]) for axis in range(len(shape))
        )
    else:
        strides = tuple(draw(st.lists(st.integers(0, 5), min_size=len(shape), max_size=len(shape))))
    offset, rest = draw(st.integers(0, 3)), draw(st.integers(0, 2))
    steps = sum(max(dim - 1, 0) * stride for dim, stride in zip(shape, strides, strict=True))
    return TensorRef(StorageRef("0", dtype, offset + steps + 1 + rest), offset, shape, strides)


def fill(ref: TensorRef, byteorder: str, seed: int = 0) -> tuple[np.ndarray, bytearray]:
    """Small whole numbers as a native array and as the bytes of a storage."""
    native = np.random.default_rng(seed).integers(0, 2, ref.storage.numel).astype(DTYPES[ref.dtype])
    size = native.itemsize
    return native, bytearray(
        native.view(f"u{size}").astype(f"{'<' if byteorder == 'little' else '>'}u{size}").tobytes()
    )


@given(ref=views(), byteorder=st.sampled_from(["little", "big"]))
@CHECKED
def test_decode_reads_what_torchs_view_reads(ref, byteorder):
    native, record = fill(ref, byteorder)
    storage = torch.frombuffer(bytearray(native.tobytes()), dtype=getattr(torch, ref.dtype))
    expected = storage.as_strided(ref.shape, ref.strides, ref.offset)
    found = decode(ref, record, byteorder)
    assert found.dtype == DTYPES[ref.dtype]
    assert found.dtype.isnative
    assert found.flags.c_contiguous
    assert found.flags.owndata or found.base.flags.owndata
    assert found.shape == tuple(expected.shape)
    assert found.astype(float).tolist() == expected.double().tolist()


@given(ref=views(dense=True), byteorder=st.sampled_from(["little", "big"]))
@CHECKED
def test_encode_is_the_inverse_of_decode_and_touches_nothing_else(ref, byteorder):
    _, record = fill(ref, byteorder)
    before = bytes(record)
    values = np.random.default_rng(1).integers(0, 2, ref.shape).astype(DTYPES[ref.dtype])
    encode(values, ref, record, byteorder)
    assert decode(ref, record, byteorder).tobytes() == values.tobytes()
    view_bits(ref, record, byteorder)[...] = view_bits(ref, bytearray(before), byteorder)
    assert record == before


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_bit_of_nan_and_zero_survives(dtype):
    size = DTYPES[dtype].itemsize
    raw = bytearray(b"\xff" * size + b"\0" * (size - 1) + b"\x80" + b"\1" + b"\0" * (size - 1))  # NaN, -0, the least
    ref = TensorRef(StorageRef("0", dtype, 3), 0, (3,), (1,))
    values, copy = decode(ref, raw, "little"), bytearray(3 * size)
    encode(values, ref, copy, "little")
    assert copy == raw


def test_any_byte_but_zero_is_true():
    ref = TensorRef(StorageRef("0", "bool", 3), 0, (3,), (1,))
    assert decode(ref, bytearray(b"\0\1\xff"), "little").view(np.uint8).tolist() == [0, 1, 1]


@pytest.mark.parametrize("shape", [(0, 2**60 - 1), (1,)])
def test_the_widest_layouts_that_are_accepted(shape):
    strides = (2**60 - 1,) * len(shape)
    ref = TensorRef(StorageRef("0", "float64", 1), 0, shape, strides)
    assert decode(ref, bytearray(8), "little").shape == shape


def test_a_tensor_beyond_the_limit_is_not_copied(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "m.pt")
    checkpoint = read_checkpoint(tmp_path / "m.pt", limits=Limits(materialised_bytes=8))
    wide = TensorRef(checkpoint.tree["w"].storage, 0, (2**40,), (0,))
    with pytest.raises(CheckpointError, match=r"4398046511104 bytes, more than 8 \(Limits.materialised_bytes\)"):
        materialise(checkpoint, wide)


def test_a_view_that_spans_more_than_the_limit_is_not_read(tmp_path):
    torch.save({"w": torch.zeros(100)[::99]}, tmp_path / "m.pt")
    checkpoint = read_checkpoint(tmp_path / "m.pt", limits=Limits(materialised_bytes=399))
    with pytest.raises(CheckpointError, match=r"400 bytes, more than 399 \(Limits.materialised_bytes\)"):
        materialise(checkpoint, checkpoint.tree["w"])


@given(ref=views(), byteorder=st.sampled_from(["little", "big"]))
@CHECKED
def test_a_tensor_of_a_file_is_what_its_storage_holds(tmp_path_factory, ref, byteorder):
    _, record = fill(ref, byteorder)
    path = tmp_path_factory.getbasetemp() / "record"
    path.write_bytes(b"head" + record + b"tail")
    records = Records({"0": Place(SourceFile(path, DEFAULT_LIMITS), 4, 4 + len(record))})
    checkpoint = Checkpoint(path, "", "zip", byteorder, None, (), "m", {}, records, DEFAULT_LIMITS)
    found, copied = materialise(checkpoint, ref), decode(ref, record, byteorder)
    assert (found.dtype, found.shape, found.tobytes()) == (copied.dtype, copied.shape, copied.tobytes())
    assert found.flags.c_contiguous
    found[...] = 0
    assert materialise(checkpoint, ref).tobytes() == copied.tobytes()
    assert (list(records), len(records), records["0"], "0" in records, "1" in records) == (
        ["0"],
        1,
        record,
        True,
        False,
    )
