"""What a network reads."""

import numpy as np
import pytest

from rnp_jax.config import ComputeOptions, DataOptions, SourceOptions
from rnp_jax.pipeline.images import open_data
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.suspect import read_features
from rnp_jax.types import Batch
from tests.runs import CHECKPOINT


@pytest.fixture(scope="module")
def model():
    return open_model(str(CHECKPOINT), SourceOptions(), ComputeOptions())


def test_a_head_reads_the_features_of_its_extractor(head):
    model = open_model(str(head), SourceOptions(), ComputeOptions())
    assert model.extractor is not None
    assert (model.extractor.name, model.network.architecture.image_shape) == (CHECKPOINT.stem, (1, 1, 64))
    test = open_data(model, DataOptions(test_images=20), "test")
    assert test.images.shape == (20, 32, 32, 3)
    read = model.read(test.batch)
    np.testing.assert_array_equal(read.images, read_features(model.extractor, test.images))
    np.testing.assert_array_equal(read.images[:, 0, 0], model.extractor(test.images))
    np.testing.assert_array_equal(read.labels, test.labels)


def test_a_network_reads_images_as_they_are(model):
    batch = Batch(np.zeros((2, 32, 32, 3), np.uint8), np.zeros(2, np.int32))
    assert model.extractor is None
    assert model.read(batch) is batch
