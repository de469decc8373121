import numpy as np
import pytest

from rnp_jax.errors import ResultError
from rnp_jax.report.schema import PrunedFilter
from rnp_jax.report.values import check_values, mark_pruned

NEVER = [np.ones((2, 2)), np.zeros(0), np.array([0.5, np.nan]), np.array([-0.1]), np.float32(1)]


@pytest.mark.parametrize("value", [*NEVER, np.array([1.5])])
def test_masks_that_cannot_be_drawn_are_refused(value):
    with pytest.raises(ResultError, match=r"mask of layer 'bn1' has shape .* numbers in \[0, 1\]"):
        check_values({"bn1": value}, "mask")


@pytest.mark.parametrize("value", NEVER)
def test_scores_that_cannot_be_drawn_are_refused(value):
    with pytest.raises(ResultError, match=r"score of layer 'bn1' has shape .* numbers of 0 or more"):
        check_values({"bn0": np.array([0, 1.5, np.inf]), "bn1": value}, "score")


@pytest.mark.parametrize(("layer", "index"), [("bn2", 0), ("bn1", 4)])
def test_a_pruned_filter_without_a_value_is_refused(layer: str, index: int):
    with pytest.raises(ResultError, match=f"pruned filter {index} of layer '{layer}'"):
        mark_pruned({"bn1": np.ones(4)}, [PrunedFilter(layer=layer, index=index, mask=0.0)])


def test_pruned_filters_are_marked_in_their_layer():
    marks = mark_pruned({"a": np.ones(3), "b": np.ones(2)}, [PrunedFilter(layer="b", index=1, score=2.0)])
    assert {layer: mark.tolist() for layer, mark in marks.items()} == {"a": [False] * 3, "b": [False, True]}


def test_weights_have_neither_masks_nor_scores():
    check_values({}, "weights")
    with pytest.raises(ResultError, match="masks or scores of 1 layers with kind 'weights'"):
        check_values({"bn1": np.ones(4)}, "weights")
