"""Where nothing says the size of a network's images, it takes those that it is given."""

import jax
import numpy as np
import pytest

from rnp_jax.checkpoints import load_model, save_variables
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.pipeline.image_size import follow_images, takes_any_size
from rnp_jax.types import Batch

POOLED = Architecture("resnet18", 4, 4)
FLATTENED = Architecture("mlp", 4, 0, (("0", 8), ("2", 4)), (8, 8, 3))


@pytest.fixture(scope="module")
def pooled(tmp_path_factory):
    network = Network(POOLED)
    path = tmp_path_factory.mktemp("size") / "pooled.pt"
    save_variables(path, network, network.init(jax.random.key(0)))
    return path


def test_a_network_that_ends_in_global_pooling_follows_the_images(pooled):
    model = load_model(pooled, normalization="half")
    followed = follow_images(model, (16, 24, 3))
    assert followed.network.architecture.image_shape == (16, 24, 3)
    (sentence,) = followed.assumptions
    assert "it takes them as they are, 16x24 (without images, 32x32 is assumed)" in sentence
    assert "give that with --image-size" in sentence
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)
    named = load_model(pooled, normalization="half", image_shape=(16, 24, 3))
    batch = Batch(images, np.zeros(3, np.int32))
    found, expected = (predict(each.network, each.variables, batch).loss for each in (followed, named))
    np.testing.assert_array_equal(found, expected)
    assert follow_images(followed, (16, 24, 3)) is followed
    assert follow_images(followed, (32, 32, 3)) is followed  # one size for all of a run's images


@pytest.mark.parametrize("shape", [(32, 32, 3), (16, 16, 1)])
def test_images_of_the_assumed_size_or_of_other_channels_change_nothing(pooled, shape):
    model = load_model(pooled, normalization="half")
    assert follow_images(model, shape) is model


def test_a_size_that_is_given_stays(pooled):
    model = load_model(pooled, normalization="half", image_shape=(32, 32, 3))
    assert follow_images(model, (16, 16, 3)) is model


def test_weights_for_one_size_stay_as_they_are(tmp_path):
    network = Network(Architecture("wanet_mnist", 10, image_shape=(28, 28, 1)), (0.5,), (0.5,))
    save_variables(tmp_path / "m.pt", network, network.init(jax.random.key(0)))
    model = load_model(tmp_path / "m.pt", normalization="half")
    assert follow_images(model, (64, 64, 1)) is model
    assert follow_images(model, (30, 30, 1)) is model  # which the weights would allow


def test_which_weights_fit_other_sizes(pooled):
    shapes = load_model(pooled, normalization="half").state_dict.tensors.shapes
    assert takes_any_size(POOLED, shapes)
    assert not takes_any_size(FLATTENED, {})
