"""The names and sizes of MobileNetV2's two layouts; their numbers on shallow networks: test_inverted_residual.py."""

import pytest
import torch
from torch import nn

from rnp_jax.errors import ArchitectureError
from rnp_jax.models import Architecture
from rnp_jax.models.inference import infer_architecture
from tests.oracle.mobilenet_v2 import MobileNetV2
from tests.oracle.vision import torchvision_models
from tests.parity import (
    check_parity,
    check_round_trip,
    load,
    randomize,
    shapes_of,
)


def torchvision_net(multiplier: float = 1.0) -> nn.Module:
    return torchvision_models().mobilenet_v2(width_mult=multiplier, num_classes=10)


@pytest.mark.parametrize(
    ("build", "expected", "parameters"),
    [
        (MobileNetV2, Architecture("cifar_mobilenet_v2", 10, 32), 2_296_922),
        pytest.param(lambda: MobileNetV2(8), Architecture("cifar_mobilenet_v2", 10, 8), None, marks=pytest.mark.slow),
        (torchvision_net, Architecture("mobilenet_v2", 10, 32), 2_236_682),
        (lambda: torchvision_net(0.5), Architecture("mobilenet_v2", 10, 16), None),
        pytest.param(lambda: torchvision_net(1.5), Architecture("mobilenet_v2", 10, 48), None, marks=pytest.mark.slow),
    ],
)
def test_every_key_and_shape_is_ours(build, expected, parameters):
    with torch.device("meta"):
        module = build()
    assert infer_architecture(shapes_of(module)) == expected
    assert parameters in (None, sum(leaf.numel() for leaf in module.parameters()))


def test_a_missing_block_is_told():
    with torch.device("meta"):
        shapes = shapes_of(MobileNetV2(8))
    shapes = {key: shape for key, shape in shapes.items() if not key.startswith("layers.9.")}
    with pytest.raises(ArchitectureError, match=r" - layers\.9\.conv1\.weight"):
        infer_architecture(shapes)


@pytest.mark.slow
@pytest.mark.parametrize("build", [MobileNetV2, torchvision_net])
def test_the_published_width_computes_what_torch_computes(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = randomize(build())
    network, variables = load(module)
    check_parity(module, network, variables)
    check_round_trip(module, network, variables)
