import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rnp_jax.attacks.crafting import CHUNK, check_one_target, craft_in_chunks, round_within, split_by_target
from rnp_jax.attacks.goal import Goal
from rnp_jax.attacks.means import Means
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Batch

GOAL = Goal(num_classes=3, target=1)
NETWORK = Network(Architecture("mlp", 3, 0, (("0", 3),), (2, 2, 1)), (0.0,), (1.0,))


def means_of(labels, goal=GOAL) -> Means:
    labels = np.asarray(labels, np.int32)
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 1), np.uint8)
    return Means(NETWORK, Batch(images, labels), goal, jax.random.key(0), lambda _: {}, lambda *_: None)


def test_chunks_keep_order_share_a_program_and_tell_means_of_real_rows_alone():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def craft(images, others):
        return images // 2 + others, {"loss": images[:, 0, 0, 0].astype(jnp.float32)}

    for count in (0, 1, CHUNK, 2 * CHUNK + 3):
        rng, told = np.random.default_rng(count), []
        images, others = rng.integers(0, 128, (2, count, 2, 2, 1), np.uint8)
        made = craft_in_chunks(craft, (images, others), lambda *row, told=told: told.append(row))
        np.testing.assert_array_equal(made, images // 2 + others)
        assert made.dtype == np.uint8
        most = -(-count // CHUNK)
        assert [row[:3] for row in told] == [("craft", i + 1, most) for i in range(most)]
        for i, row in enumerate(told):
            assert row[3]["loss"] == pytest.approx(images[i * CHUNK : (i + 1) * CHUNK, 0, 0, 0].mean(), rel=1e-6)


@given(arrays.arrays(np.float32, 9, elements=st.floats(-300, 300, width=32)), st.floats(0, 255))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_rounding_gives_the_nearest_whole_levels_within_the_bound(delta, epsilon):
    rounded = np.asarray(round_within(jnp.asarray(delta), epsilon))
    np.testing.assert_array_equal(rounded, np.round(rounded))
    assert np.abs(rounded).max() <= epsilon
    inside = np.abs(delta) <= np.floor(epsilon)
    assert (np.abs(rounded - delta)[inside] <= 0.5).all()
    assert (np.abs(rounded)[~inside] == np.floor(epsilon)).all()


def test_the_target_s_images_and_the_others():
    own, others = split_by_target(means_of([0, 1, 2, 1]))
    assert own[:, 0, 0, 0].tolist() == [1, 3]
    assert others[:, 0, 0, 0].tolist() == [0, 2]


@pytest.mark.parametrize(("labels", "found"), [([0, 2, 0], "0 of 3"), ([1, 1], "2 of 2")])
def test_a_target_class_that_is_empty_or_all_there_is(labels, found):
    with pytest.raises(DataError, match=f"{found} training images are of the target class 1"):
        split_by_target(means_of(labels))


def test_all_to_all_has_no_one_target():
    assert check_one_target(GOAL) == 1
    with pytest.raises(ConfigError, match=r"mapping is all_to_all: .* use all_to_one"):
        split_by_target(means_of([0, 1], Goal(num_classes=3, mapping="all_to_all")))
