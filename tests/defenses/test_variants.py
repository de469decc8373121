"""The choice of a variant by held-out accuracy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.defenses.variants import choose_furthest
from rnp_jax.errors import ConfigError
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Batch, Variables

NETWORK = Network(Architecture("mlp", 3, 0, (("0", 3),), (1, 1, 3)), (0.0,) * 3, (1.0,) * 3)
IMAGES = np.tile(np.eye(3, dtype=np.float32), (4, 1)).reshape(12, 1, 1, 3)
HOLDOUT = Batch(IMAGES, np.arange(12, dtype=np.int32) % 3)


def mistaken(classes: int) -> Variables:
    """Wrong about the images of the first ``classes`` classes, which are a third of all each."""
    kernel = np.eye(3, dtype=np.float32)
    kernel[:classes] = np.roll(kernel, 1, axis=1)[:classes]
    return {
        "params": {"0": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(3)}},
        "batch_stats": {},
        "masks": {"0": {"neuron": jnp.ones(3)}},
    }


def choose(mistakes: list[int], budget: float, made: list[int] | None = None) -> int | None:
    def make(classes: int):
        def variant() -> Variables:
            if made is not None:
                made.append(classes)
            return mistaken(classes)

        return variant

    return choose_furthest(NETWORK, mistaken(0), [make(each) for each in mistakes], HOLDOUT, budget, "the number")


@pytest.mark.parametrize(("budget", "expected"), [(0.0, 1), (0.3, 1), (1 / 3, 2), (0.5, 2), (2 / 3, 4), (1.0, 5)])
def test_it_is_the_last_variant_within_the_budget(budget, expected):
    assert choose([0, 0, 1, 2, 2, 3], budget) == expected


def test_a_later_variant_counts_even_if_an_earlier_one_costs_more():
    assert choose([2, 0, 3], 0.0) == 1


def test_none_is_within_the_budget():
    assert choose([1, 2], 0.1) is None
    assert choose([], 1.0) is None


def test_no_variant_is_made_in_vain():
    made = []
    assert choose([0, 1, 2], 0.5, made) == 1
    assert made == [2, 1]


@pytest.mark.parametrize("holdout", [None, Batch(IMAGES[:0], HOLDOUT.labels[:0])])
def test_nothing_to_choose_by(holdout):
    with pytest.raises(ConfigError, match="no held-out images to choose the number by: hold some out, or give"):
        choose_furthest(NETWORK, mistaken(0), [lambda: mistaken(1)], holdout, 0.1, "the number")


def test_weights_are_not_moved():
    before = mistaken(0)
    kept = jax.tree.map(np.array, before)
    choose_furthest(NETWORK, before, [lambda: mistaken(1)], HOLDOUT, 0.1, "the number")
    assert jax.tree.all(jax.tree.map(np.array_equal, kept, before))
