"""The names and sizes of MobileNetV2's two layouts; their numbers on shallow networks: test_inverted_residual.py."""

import pytest
import torch
from torch import nn

from rnp_jax.errors import AmbiguousError, ArchitectureError
from rnp_jax.models import Architecture
from rnp_jax.models.inference import infer_architecture
from tests.oracle.mobilenet_v2 import MobileNetV2
from tests.oracle.vision import torchvision_models
from tests.oracle.zoos import chenyaofo_mobilenet_v2
from tests.parity import (
    check_parity,
    check_round_trip,
    load,
    randomize,
    shapes_of,
)


def torchvision_net(multiplier: float = 1.0, num_classes: int = 10) -> nn.Module:
    return torchvision_models().mobilenet_v2(width_mult=multiplier, num_classes=num_classes)


@pytest.mark.parametrize(
    "multiplier", [0.35, 1.4, *(pytest.param(each, marks=pytest.mark.slow) for each in (0.1, 0.25, 0.5, 0.75, 1.0))]
)
def test_channels_come_from_the_layers_themselves(multiplier):
    """0.35 and 0.5 have the same stem."""
    with torch.device("meta"):
        shapes = shapes_of(torchvision_net(multiplier))
    found = infer_architecture(shapes, name="mobilenet_v2")
    assert (found.width, bool(found.form)) == (shapes["features.0.0.weight"][0], multiplier in (0.1, 0.35, 1.4))


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
    assert infer_architecture(shapes_of(module), name=expected.name) == expected
    assert parameters in (None, sum(leaf.numel() for leaf in module.parameters()))


@pytest.mark.parametrize(
    ("classes", "side", "expected"),
    [
        (10, None, ("chenyaofo_mobilenet_v2", "mobilenet_v2")),
        (10, 32, ("chenyaofo_mobilenet_v2", "mobilenet_v2")),
        (10, 224, ("mobilenet_v2",)),
        (1000, None, ("mobilenet_v2",)),
    ],
)
def test_tensors_that_fit_two_plans_of_strides_ask(classes, side, expected):
    with torch.device("meta"):
        shapes = shapes_of(torchvision_net(0.25, classes))
    size = None if side is None else (side, side, 3)
    if len(expected) == 1:
        assert infer_architecture(shapes, image_shape=size).name == expected[0]
    else:
        with pytest.raises(AmbiguousError, match="choose one with --architecture") as caught:
            infer_architecture(shapes, image_shape=size)
        assert caught.value.candidates == expected


def test_the_strides_for_cifar_are_computed():
    """torchvision's network of a tenth of the width, with the strides of chenyaofo's and huyvnphan's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = randomize(chenyaofo_mobilenet_v2(0.1))
    network, variables = load(module, "chenyaofo_mobilenet_v2", image_shape=(12, 12, 3))
    check_parity(module, network, variables)
    check_round_trip(module, network, variables)


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
    network, variables = load(module, "mobilenet_v2" if build is torchvision_net else None)
    check_parity(module, network, variables)
    check_round_trip(module, network, variables)
