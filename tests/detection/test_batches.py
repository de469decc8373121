import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.checkpoints import from_state_dict
from rnp_jax.detection import batches
from rnp_jax.detection.batches import map_batches
from tests.compiled import count_compiled
from tests.networks import build_random, images_for, network_of, state_of


@pytest.mark.parametrize("size", [1, 3, 7, 64, None])
def test_each_image_is_run_once_at_its_place(size):
    images = np.arange(7 * 4, dtype=np.float32).reshape(7, 2, 2, 1)
    run = jax.jit(lambda batch, places: batch.sum((1, 2, 3)) + 100 * places.astype(jnp.float32))
    found = map_batches(run, images, size)
    np.testing.assert_array_equal(found, images.sum((1, 2, 3)) + 100 * np.arange(7))
    assert count_compiled(run) == 1


@pytest.mark.parametrize(("read", "width"), [("features", 6), ("logits", 5)])
def test_rows_are_the_network_s_and_one_program_serves_all_batches(read, width):
    network, images = network_of("mlp"), images_for("mlp", 10)
    variables = from_state_dict(network, state_of(build_random("mlp")))
    program = getattr(batches, f"_{read}")
    before = count_compiled(program)
    run = getattr(batches, f"read_{read}")
    found = run(network, variables, images, 4)
    run(network, variables, images[:8], 4)
    assert count_compiled(program) - before == 1
    assert found.shape == (10, width)
    expected = (network.features if read == "features" else network)(variables, jnp.asarray(images))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
