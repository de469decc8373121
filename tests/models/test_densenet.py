"""torchvision's and TrojanZoo's DenseNets against torch."""

from collections import OrderedDict

import jax
import pytest
import torch
from torch import nn

from rnp_jax import masks
from rnp_jax.models import Architecture, Network
from rnp_jax.models.densenet import DESIGNS, design
from rnp_jax.models.inference import infer_architecture
from rnp_jax.models.network import count_parameters
from tests import parity
from tests.oracle.vision import torchvision_models

DEPTHS = (1, 1, 1, 2)
SHALLOW = {
    "shallow": design(DEPTHS, 64),
    "shallow_comp": design(DEPTHS, 64, "classifier.fc", "bare"),
    "shallow_small": design(DEPTHS, 64, beginning="small"),
}
PLACEMENTS = ("bn_scale", "channel", "conv_output")


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """One layer or two a dense block: all that the published depths repeat."""
    with parity.registered(**SHALLOW):
        yield


class TrojanZoo(nn.Module):
    """The last layer as ``classifier.fc``; a bare 3x3 convolution at first where ``comp``."""

    def __init__(self, network: nn.Module, comp: bool):
        super().__init__()
        layers = OrderedDict(network.get_submodule("features").named_children())
        if comp:
            layers["conv0"] = nn.Conv2d(3, len(network.get_parameter("features.conv0.weight")), 3, 1, 1, bias=False)
            for name in ("norm0", "relu0", "pool0"):
                del layers[name]
        self.features = nn.Sequential(layers)
        self.classifier = nn.Sequential(OrderedDict(fc=network.get_submodule("classifier")))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).relu().mean((2, 3)))


def build(name: str, width: int = 8) -> nn.Module:
    """The oracle of an architecture of ours; ``width`` is that of the shallow ones."""
    models = torchvision_models()
    if name.startswith("shallow"):
        network = models.densenet.DenseNet(width // 2, DEPTHS, width, num_classes=10)
    else:
        network = models.get_model(name.removeprefix("trojanzoo_").removesuffix("_comp"), num_classes=10)
    if name.endswith("_comp") or name.startswith("trojanzoo"):
        return TrojanZoo(network, comp=name.endswith("_comp"))
    return network


def loaded(name: str, side: int, width: int = 8) -> tuple[nn.Module, Network, dict]:
    torch.manual_seed(0)
    module = parity.randomize(build(name, width))
    return module, *parity.load(module, image_shape=(side, side, 3))


def test_every_layer_computes_what_torch_computes():
    """From 68 pixels on there are odd sizes among what the transitions halve: 17, 8, 4, 2."""
    module, network, variables = loaded("shallow", 68)
    assert network.architecture == Architecture("shallow", 10, 8, image_shape=(68, 68, 3))
    parity.check_parity(module, network, variables)
    parity.check_round_trip(module, network, variables)
    parity.check_sites(network, variables, pooled=("features.norm0", "features.norm5"))
    parity.check_pruning(module, network, variables)


def test_a_small_stem_with_all_that_follows():
    """huyvnphan's networks for CIFAR."""
    torch.manual_seed(0)
    network = torchvision_models().densenet.DenseNet(4, DEPTHS, 8, num_classes=10)
    stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    network.features.conv0 = stem
    module = parity.randomize(network)
    network, variables = parity.load(module, image_shape=(20, 20, 3))
    assert network.architecture == Architecture("shallow_small", 10, 8, image_shape=(20, 20, 3))
    parity.check_parity(module, network, variables)
    parity.check_round_trip(module, network, variables)


def test_a_small_stem_is_a_bare_convolution():
    module, network, variables = loaded("shallow_comp", 12)
    assert (network.architecture.name, network.architecture.width) == ("shallow_comp", 8)
    parity.check_parity(module, network, variables)
    assert "features.norm0" not in masks.filters(variables["masks"])


@pytest.mark.slow
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_pruning_is_torch_s_in_every_placement(placement):
    module, network, _ = loaded("shallow_comp", 12)
    parity.check_placement(module, network, placement)


@pytest.mark.slow
def test_training_reaches_every_parameter():
    network = Network(Architecture("shallow", 3, 8, image_shape=(32, 32, 3)))
    parity.check_training_step(network, network.init(jax.random.key(0)))


@pytest.mark.parametrize(
    "names", [("clp",), pytest.param(("rnp", "anp", "holder", "fp"), marks=pytest.mark.slow)], ids=["clp", "others"]
)
def test_the_defenses_run(names):
    parity.check_defenses(*loaded("shallow", 32)[1:], names)


@pytest.mark.parametrize(
    ("name", "width", "parameters"), [("densenet121", 64, 6_964_106), ("trojanzoo_densenet121_comp", 64, None)]
)
def test_published_keys_and_shapes_are_recognised(name, width, parameters):
    with torch.device("meta"):
        module = build(name)
    found = infer_architecture({key: tuple(value.shape) for key, value in module.state_dict().items()})
    side = 32 if name.endswith("_comp") else 224
    assert found == Architecture(name, 10, width, image_shape=(side, side, 3))
    count = count_parameters(jax.eval_shape(Network(found).init, jax.random.key(0)))
    assert count == sum(value.numel() for value in module.parameters())
    assert parameters in (None, count)


def test_every_published_depth_is_told_from_the_others():
    for name in ("densenet121", "densenet161", "densenet169", "densenet201", "trojanzoo_densenet121_comp"):
        with torch.device("meta"):
            shapes = {key: tuple(value.shape) for key, value in build(name).state_dict().items()}
        known = {**DESIGNS, **SHALLOW}
        assert [each for each, made in known.items() if made.head in shapes and made.matches(shapes)] == [name]
        assert shapes[DESIGNS[name].stem][0] == DESIGNS[name].width


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("densenet121", 32),
        ("trojanzoo_densenet121_comp", 8),
    ],
)
def test_published_sizes(name, side):
    module, network, variables = loaded(name, side)
    parity.check_parity(module, network, variables)
    parity.check_round_trip(module, network, variables)
