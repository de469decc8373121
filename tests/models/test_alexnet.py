"""torchvision's AlexNet against torch."""

import torch

from rnp_jax.models import Architecture
from tests import parity
from tests.oracle.vision import torchvision_models


def test_every_layer_computes_what_torch_computes():
    torch.manual_seed(0)
    module = torchvision_models().alexnet(num_classes=5).eval()
    network, variables = parity.load(module)
    assert network.architecture == Architecture("alexnet", 5, 64, image_shape=(224, 224, 3))
    network, variables = parity.load(module, image_shape=(67, 64, 3))  # not square, and the last window is cut off
    parity.check_parity(module, network, variables)
    parity.check_round_trip(module, network, variables)
    assert [site.layer for site in network.sites] == [f"features.{i}" for i in (0, 3, 6, 8, 10)]
