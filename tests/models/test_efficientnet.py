"""The names and sizes of EfficientNet; its numbers on a shallow network are in test_inverted_residual.py."""

import pytest
import torch
from torch import nn

from rnp_jax.models import Architecture, Network, efficientnet
from rnp_jax.models.inference import infer_architecture
from tests.oracle.vision import torchvision_models
from tests.parity import (
    check_parity,
    check_round_trip,
    load,
    randomize,
    shapes_of,
)

PUBLISHED = {  # channels of the stem, parameters with 10 classes
    "efficientnet_b0": (32, 4_020_358),
    "efficientnet_b1": (32, 6_525_994),
    "efficientnet_b2": (32, 7_715_084),
    "efficientnet_b3": (40, 10_711_602),
    "efficientnet_b4": (48, 17_566_546),
    "efficientnet_b5": (48, 28_361_274),
    "efficientnet_b6": (56, 40_758_754),
    "efficientnet_b7": (64, 63_812_570),
}
FAST = ("efficientnet_b2", "efficientnet_b3")  # b2 is as deep as b1, with as wide a stem


def build(name: str) -> nn.Module:
    return getattr(torchvision_models(), name)(num_classes=10)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in PUBLISHED]
)
def test_every_key_and_shape_is_ours(name):
    with torch.device("meta"):
        module = build(name)
    width, parameters = PUBLISHED[name]
    assert infer_architecture(shapes_of(module)) == Architecture(name, 10, width)
    assert sum(leaf.numel() for leaf in module.parameters()) == parameters


@pytest.mark.parametrize("name", efficientnet.DESIGNS)
def test_batch_norm_is_torchvision_s(name):
    """b5 to b7 have another epsilon and momentum than b0 to b4."""
    with torch.device("meta"):
        norms = [each for each in build(name).modules() if isinstance(each, nn.BatchNorm2d)]
    network = Network(Architecture(name, 10, PUBLISHED[name][0]))
    assert {(norm.eps, norm.momentum) for norm in norms} == {network.segments[0].module.style[2:]}
    assert len(network.sites) == len(norms)


@pytest.mark.slow
def test_the_published_width_computes_what_torch_computes():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = randomize(build("efficientnet_b3"))
    network, variables = load(module)
    check_parity(module, network, variables)
    check_round_trip(module, network, variables)
