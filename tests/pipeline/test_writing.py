"""What every defense ends with."""

import sys

import jax
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.defenses.clp import ClpConfig, clp
from rnp_jax.models import mlp_head
from rnp_jax.pipeline.writing import command_line, write_masks
from rnp_jax.store import load_tree
from rnp_jax.types import Batch


@pytest.mark.parametrize(
    ("program", "expected"),
    [("/usr/bin/rnp-jax", "rnp-jax defend 'a b.pt' --seed 1"), ("/usr/bin/python", None), ("", None)],
)
def test_the_command_is_told_as_it_can_be_typed_again(program, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program, "defend", "a b.pt", "--seed", "1"])
    assert command_line() == expected


def test_scores_are_written_without_the_release_s_text_of_masks(tmp_path):
    network = mlp_head(4, (6,), 3)
    variables = network.init(jax.random.key(0))
    data = Batch(np.zeros((2, 1, 1, 4), np.float32), np.zeros(2, np.int32))
    pruned = clp(network, variables, data, jax.random.key(0), ClpConfig())
    write_masks(tmp_path, pruned, "unit", "clp")
    tree, metadata = load_tree(tmp_path / "masks")
    assert metadata == {"placement": "unit", "method": "clp"}
    np.testing.assert_array_equal(tree["scores"]["0"], pruned.values["0"])
    np.testing.assert_array_equal(tree["pruned"]["0"], masks.filters(pruned.variables["masks"])["0"])
    assert not (tmp_path / "mask_values.txt").exists()
