import jax
import numpy as np
import pytest

from rnp_jax.defenses.site_inputs import ORDERS, SiteInputs, check_images
from rnp_jax.defenses.site_maps import NETWORK_INPUT
from rnp_jax.errors import DefenseError


def read(features, images, samples: int) -> SiteInputs:
    return SiteInputs(features.network, features.variables, images, (NETWORK_INPUT, "0", "2"), samples)


@pytest.mark.parametrize("samples", [48, 7])
def test_chunks_hold_every_sample_once(features, samples):
    """The last one is padded to the shape of the others."""
    inputs = read(features, features.data.images, samples)
    expected = features.network.inputs(features.variables, features.data.images)
    chunks = list(inputs.chunks())
    assert {source: leaf.shape for source, leaf in chunks[-1][1].items()} == {
        source: leaf.shape for source, leaf in inputs.shapes().items()
    }
    for source in inputs.sources:
        rows = np.concatenate([np.asarray(found[source])[:count] for count, found in chunks])
        np.testing.assert_allclose(rows, expected.get(source, features.data.images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize("samples", [48, 7])
def test_the_spread_is_the_norm_of_the_standard_deviations(features, norm, samples):
    expected = features.network.inputs(features.variables, features.data.images)
    found = read(features, features.data.images, samples).spread(norm)
    for source, value in found.items():
        deviation = np.asarray(expected.get(source, features.data.images), np.float64).std(0).ravel()
        assert value == pytest.approx(np.linalg.norm(deviation, ORDERS[norm]), rel=1e-5)


def test_equal_samples_have_no_spread(features):
    """Exactly, though their values have no exact mean."""
    images = np.full((50, 1, 1, 6), 0.1, np.float32)
    with pytest.raises(DefenseError, match="all samples are equal in the inputs: relative radii have no scale"):
        read(features, images, 7).spread("2")


def test_images_are_brought_to_the_network_s_types(features):
    assert check_images(features.network, features.data.images.astype(np.float64)).dtype == np.float32
    assert check_images(features.network, jax.numpy.zeros((2, 1, 1, 6), np.uint8)).dtype == np.uint8
