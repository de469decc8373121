"""The containers that everything passes through compiled programs."""

import jax
import jax.numpy as jnp
import numpy as np

from rnp_jax.types import Batch
from tests.linear import Linear, linear_data, linear_variables


def test_a_batch_passes_through_a_compiled_program_as_its_images_and_labels():
    batch = Batch(np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1), np.arange(4, dtype=np.int32))
    images, labels = jax.jit(lambda given: given._replace(images=2 * given.images))(batch)
    np.testing.assert_array_equal(images, 2 * batch.images)
    np.testing.assert_array_equal(labels, batch.labels)
    assert len(jax.tree.leaves(batch)) == 2


def test_equal_networks_share_a_compiled_program():
    traced = []

    def count(apply, variables, images):
        traced.append(apply)
        return apply(variables, images)[0]

    program = jax.jit(count, static_argnums=0)
    images = jnp.asarray(linear_data(4).images)
    first, second = (program(apply, linear_variables(), images) for apply in (Linear(), Linear()))
    np.testing.assert_array_equal(first, second)
    assert len(traced) == 1
