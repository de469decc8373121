"""Which storages change, and which tensors move out of a shared one."""

import numpy as np
import pytest
import torch

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io import Limits, read_checkpoint
from rnp_jax.torch_io.checkpoint import decode
from rnp_jax.torch_io.replacement import Edit, plan_replacement

NEW = np.array([9, 8, 7, 6], np.float32)


@pytest.fixture
def plan(tmp_path):
    def run(tree, values, **limits):
        torch.save(tree, tmp_path / "m.pt")
        checkpoint = read_checkpoint(tmp_path / "m.pt", limits=Limits(**limits))
        return checkpoint.tree, plan_replacement(checkpoint, [Edit(checkpoint.tree["net"], values, {})], "out.pt")

    return run


def test_a_tensor_alone_is_replaced_in_its_place(plan):
    tree, result = plan({"net": {"a": torch.zeros(4), "b": torch.zeros(2)}}, {"a": NEW})
    assert result.moved == {}
    assert {key: bytes(record) for key, record in result.records.items()} == {
        tree["net"]["a"].storage.key: NEW.tobytes()
    }


def test_nothing_replaced_changes_nothing(plan):
    _, result = plan({"net": {"a": torch.zeros(4)}}, {})
    assert (result.records, result.moved) == ({}, {})


def test_halves_of_one_storage_are_replaced_in_place(plan):
    base = torch.arange(4.0)
    tree, result = plan({"net": {"low": base[:2], "high": base[2:]}}, {"low": NEW[:2]})
    (record,) = result.records.values()
    assert result.moved == {}
    assert decode(tree["net"]["high"], record, "little").tolist() == [2, 3]


def test_a_tensor_that_others_share_moves_to_a_storage_of_its_own(plan):
    base = torch.arange(4.0)
    tree, result = plan({"net": {"a": base, "b": base}, "1": [base]}, {"a": NEW})
    moved = result.moved[id(tree["net"]), "a"]
    assert list(result.records) == [moved.storage.key]
    assert moved.storage.key != tree["net"]["a"].storage.key
    assert (moved.offset, moved.shape, moved.strides) == (0, (4,), (1,))
    assert result.records[moved.storage.key] == NEW.tobytes()


def test_an_unchanged_value_moves_nothing(plan):
    base = torch.arange(4.0)
    _, result = plan({"net": {"a": base, "b": base}}, {"a": np.arange(4, dtype=np.float32)})
    assert result.moved == {}


def test_an_expanded_tensor_moves_only_for_values_that_differ(plan):
    wide = {"net": {"a": torch.zeros(1).expand(4)}}
    assert plan(wide, {"a": np.full(4, 3.0)})[1].moved == {}
    assert len(plan(wide, {"a": NEW})[1].moved) == 1


def test_views_that_are_too_large_to_compare_are_not_compared(plan):
    base = torch.zeros(4)
    tree = {"net": {"a": base}, "beside": [base[:1].expand(2**20) for _ in range(3)]}  # 12 MiB, from 16 bytes
    _, result = plan(tree, {"a": base.numpy()}, materialised_bytes=2**22)
    assert len(result.moved) == 1  # though nothing changed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_values_are_cast_as_torch_casts(dtype, plan):
    values = np.array([0.1, 1 / 3, 65504, 1e-7], np.float32)
    _, result = plan({"net": {"a": torch.zeros(4, dtype=dtype)}}, {"a": values})
    (record,) = result.records.values()
    assert torch.equal(torch.frombuffer(record, dtype=dtype), torch.tensor(values).to(dtype))


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        (np.float64(3), True),
        (np.float64(0.5), False),
        (np.int64(300), False),
        (np.int64(-1), False),
        (np.bool_(1), True),
    ],
)
def test_whole_numbers_stay_exact(value, fits, plan):
    tree = {"net": {"n": torch.tensor(1, dtype=torch.uint8)}}
    if fits:
        plan(tree, {"n": value})
    else:
        with pytest.raises(CheckpointError, match="does not fit its dtype uint8"):
            plan(tree, {"n": value})


def test_unknown_names_are_listed_together(plan):
    with pytest.raises(CheckpointError, match='does not have:\n \\+ "x"\n \\+ "y\\\\n"'):
        plan({"net": {"a": torch.zeros(1), "x": 3}}, {"x": np.zeros(1), "y\n": np.zeros(1)})
