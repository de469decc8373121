"""torchvision's MNASNets against torch."""

import numpy as np
import pytest
import torch

from rnp_jax.checkpoints import to_state_dict
from rnp_jax.models import Architecture
from rnp_jax.models.mnasnet import DESIGNS
from tests import parity
from tests.oracle.vision import torchvision_models

WIDTHS = {"mnasnet0_5": 16, "mnasnet0_75": 24, "mnasnet1_0": 32, "mnasnet1_3": 40}


@pytest.mark.parametrize("name", WIDTHS)
def test_published_keys_and_shapes_are_recognised(name):
    with torch.device("meta"):
        shapes = parity.shapes_of(torchvision_models().get_model(name, num_classes=5))
    assert parity.recognised(shapes) == [name]
    assert DESIGNS[name].width == WIDTHS[name]


def test_every_layer_computes_what_torch_computes():
    torch.manual_seed(0)
    module = parity.randomize(torchvision_models().MNASNet(0.25, num_classes=5))
    network, variables = parity.load(module, image_shape=(40, 36, 3))
    assert network.architecture == Architecture("mnasnet1_0", 5, 8, image_shape=(40, 36, 3))
    parity.check_parity(module, network, variables)
    before, after = parity.state_of(module), to_state_dict(network, variables)  # torch's module needs a version to load
    assert {key for key in before if not key.endswith("num_batches_tracked")} == set(after)
    assert all(np.array_equal(value, before[key]) for key, value in after.items())
    norm = next(layer for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    assert network.layers["layers.1"].momentum == norm.momentum
