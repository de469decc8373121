import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.defenses.result import NO_CANDIDATES, Candidates, Choice, Defended
from rnp_jax.errors import ResultError
from rnp_jax.evaluation.metrics import Proportion
from rnp_jax.models import Architecture, Network
from rnp_jax.pipeline.packing import Packed, pack, unpack

NETWORK = Network(Architecture("mlp", 3, 0, (("0", 4), ("2", 3)), (2, 2, 1)), (0.5,), (0.25,))


class Foreign(NamedTuple):
    """A record, though none of the package."""

    size: int


def read_back(value):
    packed = pack(value)
    return unpack(Packed(json.loads(json.dumps(packed.form)), packed.arrays))


def test_an_outcome_comes_back_as_it_was():
    weights = {"params": {"0": {"kernel": jnp.arange(6.0, dtype=jnp.bfloat16).reshape(2, 3)}}}
    share = Proportion.of(7, 9)
    choice = Choice(rule="so", thresholds={"0": 0.1}, pruned=2, holdout_acc_before=share)
    order = Candidates(np.arange(3), np.array([0.1, np.nan, np.inf]), np.zeros(3))
    outcome = Defended(
        weights, {"0": np.float32([0, 1])}, "mask", order, choice, release=NO_CANDIDATES, network=NETWORK,
        extractor=(NETWORK, weights), kept=(np.arange(2),), history={"recover": {"loss": np.ones(2)}}, warnings=("a",),
    )  # fmt: skip
    found = read_back(outcome)
    assert found.choice == choice
    assert (found.network, found.kind, found.warnings) == (NETWORK, "mask", ("a",))
    assert jax.tree.structure(found.variables) == jax.tree.structure(weights)
    kernel = found.variables["params"]["0"]["kernel"]
    assert isinstance(kernel, jax.Array)
    assert kernel.dtype == jnp.bfloat16
    np.testing.assert_array_equal(kernel, weights["params"]["0"]["kernel"])
    np.testing.assert_array_equal(found.candidates.values, order.values)
    assert found.release.order.shape == (0,)
    assert found.extractor[0] == NETWORK


@pytest.mark.parametrize("value", [None, True, 3, 0.1, -0.0, float("inf"), "ü", (1, [2.5]), {3: "a", "b": ()}])
def test_plain_values_keep_their_kind(value):
    found = read_back(value)
    assert repr(found) == repr(value)


def test_keys_and_scalars():
    key, number = read_back((jax.random.key(3), np.float32(0.1)))
    assert jax.random.uniform(key) == jax.random.uniform(jax.random.key(3))
    assert (type(number), number) == (np.float32, np.float32(0.1))


@pytest.mark.parametrize("value", [object(), Foreign(1), {"f": len}, {1, 2}, b"raw"])
def test_what_is_no_record_of_this_package_cannot_be_kept(value):
    with pytest.raises(TypeError, match="cannot be kept"):
        pack(value)


@pytest.mark.parametrize(
    "form",
    [
        ["record", "os:system", []],
        ["record", "rnp_jax.cli:main", []],
        ["record", "rnp_jax.store:Path", []],
        ["record", "rnp_jax.nothing:Here", []],
        ["record", "rnp_jax.defenses.result:Candidates", [["order", ["plain", 1]]]],
        ["array", 4],
        ["surprise", 1],
        7,
    ],
)
def test_a_form_that_was_not_packed_is_refused_and_calls_nothing(form):
    with pytest.raises(ResultError, match="what was kept does not fit"):
        unpack(Packed(form, []))
