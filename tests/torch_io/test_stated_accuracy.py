import numpy as np
import pytest
import torch

from rnp_jax.torch_io import find_state_dict, read_checkpoint
from rnp_jax.torch_io.stated_accuracy import StatedAccuracy, find_stated_accuracy

WEIGHTS = {"fc.weight": torch.ones(3, 2), "fc.bias": torch.zeros(3)}


def read(tmp_path, beside: dict) -> StatedAccuracy | None:
    path = tmp_path / "model.pt"
    torch.save({"state_dict": WEIGHTS, **beside}, path)
    checkpoint = read_checkpoint(path)
    return find_stated_accuracy(checkpoint, find_state_dict(checkpoint).location)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, 0.91) for key in ("acc", "best_acc", "best_acc1", "best_prec1", "prec1", "clean_acc", "accuracy")),
        *((key, 91.0) for key in ("acc1", "val_acc", "metric", "test_accuracy", "best_clean_acc", "best_prec", "top1")),
        *((key, torch.tensor(91.0)) for key in ("Acc@1", "valid_acc", "acc_val")),
        ("acc", torch.tensor([0.91], dtype=torch.float64)),
        ("acc", torch.tensor(91)),
        ("acc", 91),
    ],
)  # fmt: skip
def test_a_stated_accuracy_is_a_share_whatever_its_key_and_kind(tmp_path, key, value):
    found = read(tmp_path, {key: value})
    assert found is not None
    assert found.key == key
    np.testing.assert_allclose(found.value, 0.91, rtol=1e-6)


@pytest.mark.parametrize(
    "beside",
    [
        {"bd_acc": 0.99},
        {"bad_acc": 99.0},
        {"train_acc": 0.99},
        {"prec5": 99.0},
        {"best_infect": 100.0},
        {"epoch": 30},
        {"acc": True},
        {"acc": -1.0},
        {"acc": 120.0},
        {"acc": float("nan")},
        {"acc": torch.tensor(True)},
        {"acc": torch.tensor(float("nan"))},
        {"acc": torch.ones(2)},
        {"acc": "0.91"},
        {"acc": [0.91]},
        {"a": {"b": {"c": {"acc": 0.91}}}},
        {"model_ema": {"acc": torch.tensor(0.91), "fc.weight": torch.ones(3, 2)}},
    ],
)
def test_other_values_are_no_accuracy(tmp_path, beside):
    assert read(tmp_path, beside) is None


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        ({"best_acc": 0.95, "acc": 0.9}, StatedAccuracy(0.9, "acc")),
        ({"metric": 0.3, "best_acc": 0.95}, StatedAccuracy(0.95, "best_acc")),
        ({"results": {"acc": 0.8}, "acc": 0.9}, StatedAccuracy(0.9, "acc")),
        ({"results": {"test": {"acc": 0.8}}}, StatedAccuracy(0.8, "results/test/acc")),
        ({"acc": 0.0, "best_acc": 0.5}, StatedAccuracy(0.5, "best_acc")),
    ],
)
def test_these_weights_own_accuracy_goes_first_and_the_nearest_to_the_root(tmp_path, beside, expected):
    assert read(tmp_path, beside) == expected


def test_a_buffer_of_the_state_dict_is_no_statement(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({**WEIGHTS, "acc": torch.tensor(0.9)}, path)
    checkpoint = read_checkpoint(path)
    assert find_stated_accuracy(checkpoint, find_state_dict(checkpoint).location) is None
