"""torchvision's SqueezeNets against torch."""

import pytest
import torch

from rnp_jax.models import Architecture, Network
from rnp_jax.models.bounds import bound_entries
from tests import parity
from tests.oracle.vision import torchvision_models

WIDTHS = {"squeezenet1_0": 96, "squeezenet1_1": 64}


@pytest.mark.parametrize("name", ["squeezenet1_1", pytest.param("squeezenet1_0", marks=pytest.mark.slow)])
def test_every_layer_computes_what_torch_computes(name):
    torch.manual_seed(0)
    module = torchvision_models().get_model(name, num_classes=5).eval()
    network, variables = parity.load(module, image_shape=(66, 65, 3))  # the last window reaches over the edge
    assert network.architecture == Architecture(name, 5, WIDTHS[name], image_shape=(66, 65, 3))
    parity.check_parity(module, network, variables)
    parity.check_round_trip(module, network, variables)
    parity.check_pruning(module, network, variables)


def test_sites_are_in_forward_order():
    network = Network(Architecture("squeezenet1_1", 3, 8, image_shape=(40, 40, 3)), placement="conv_output")
    sites = [site.layer for site in network.sites]
    assert sites[:4] == ["features.0", *(f"features.3.{name}" for name in ("squeeze", "expand1x1", "expand3x3"))]
    assert sites == list(dict.fromkeys(sites))


def test_the_bound_on_the_classifier_has_channels_first():
    last = bound_entries(Architecture("squeezenet1_1", 3, 8, image_shape=(40, 40, 3)))[-1]
    assert last.layer == "classifier.1"
    assert last.torch_shape[0] == last.shape[-1] == 3
