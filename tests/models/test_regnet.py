"""torchvision's RegNets against torch."""

import pytest
import torch
from torch import nn

from rnp_jax.models import Architecture
from rnp_jax.models.regnet import DESIGNS
from tests import parity
from tests.oracle.vision import torchvision_models


def build(name: str) -> nn.Module:
    """On the meta device; the sizes are computed before."""
    regnet = torchvision_models().regnet
    with pytest.MonkeyPatch.context() as patch:
        network = regnet.RegNet
        patch.setattr(regnet, "RegNet", lambda sizes, **_: sizes)
        sizes = getattr(regnet, name)()
    with torch.device("meta"):
        return network(sizes, num_classes=5)


@pytest.mark.parametrize("name", DESIGNS)
def test_published_keys_and_shapes_are_recognised(name):
    shapes = parity.shapes_of(build(name))
    assert parity.recognised(shapes) == [name]


@pytest.mark.parametrize("name", ["regnet_y_400mf", pytest.param("regnet_x_400mf", marks=pytest.mark.slow)])
def test_every_layer_computes_what_torch_computes(name):
    torch.manual_seed(0)
    module = parity.randomize(torchvision_models().get_model(name, num_classes=5))
    network, variables = parity.load(module, image_shape=(40, 36, 3))
    assert network.architecture == Architecture(name, 5, 32, image_shape=(40, 36, 3))
    parity.check_parity(module, network, variables)
    parity.check_round_trip(module, network, variables)
    block = "trunk_output.block1.block1-0"
    names = [site.layer for site in network.sites][:5]
    assert set(names) == {"stem.1", f"{block}.proj.1", *(f"{block}.f.{each}.1" for each in "abc")}
