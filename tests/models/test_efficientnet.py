"""The names and sizes of EfficientNet; its numbers on a shallow network are in test_inverted_residual.py."""

from functools import partial

import pytest
import torch
from torch import nn

from rnp_jax.models import Architecture, Network, efficientnet
from rnp_jax.models.inference import infer_architecture
from tests.oracle.vision import torchvision_models
from tests.parity import (
    check_parity,
    check_pruning,
    check_round_trip,
    load,
    randomize,
    registered,
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
    "efficientnet_v2_s": (24, 20_190_298),
    "efficientnet_v2_m": (24, 52_871_166),
    "efficientnet_v2_l": (32, 117_247_082),
}
FAST = ("efficientnet_b2", "efficientnet_b3", "efficientnet_v2_s")  # b2 is as deep as b1, with as wide a stem


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


def test_a_shallow_second_version_computes_what_torch_computes():
    """Fused blocks with and without an expansion, with and without a shortcut, then one that is not fused."""
    found = torchvision_models().efficientnet
    rows = ((1, 3, 1, 8, 2), (4, 3, 2, 12, 2), (4, 3, 2, 16, 1), (4, 3, 2, 24, 1))
    kinds = (found.FusedMBConvConfig,) * 3 + (found.MBConvConfig,)
    inputs = (8, *(row[3] for row in rows))
    stages = [kind(*row[:3], inputs[i], *row[3:]) for i, (kind, row) in enumerate(zip(kinds, rows, strict=True))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        norm = partial(nn.BatchNorm2d, eps=1e-3)
        module = randomize(found.EfficientNet(stages, 0.2, num_classes=5, norm_layer=norm, last_channel=1280))
    with registered(shallow_v2=efficientnet.v2_design(rows)):
        network, variables = load(module, image_shape=(24, 20, 3))
        assert network.architecture == Architecture("shallow_v2", 5, 8, image_shape=(24, 20, 3))
        check_parity(module, network, variables)
        check_round_trip(module, network, variables)
        check_pruning(module, network, variables)


@pytest.mark.slow
def test_the_published_width_computes_what_torch_computes():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = randomize(build("efficientnet_b3"))
    network, variables = load(module)
    check_parity(module, network, variables)
    check_round_trip(module, network, variables)
