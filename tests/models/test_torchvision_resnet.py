"""torchvision's and TrojanZoo's ResNets against torch."""

import jax
import pytest
import torch

from rnp_jax.models import Architecture, Network
from rnp_jax.models.inference import infer_architecture
from rnp_jax.models.network import count_parameters
from rnp_jax.models.resnet import design
from rnp_jax.models.torchvision_resnet import DESIGNS, TORCHVISION, TROJANZOO
from tests import parity
from tests.oracle.torchvision_resnet import TrojanZoo
from tests.oracle.vision import torchvision_models

SHALLOW = {
    "shallow": design("basic", (2, 1, 1, 1), TORCHVISION),
    "shallow_comp": design("basic", (1, 1, 1, 1), TROJANZOO._replace(stem=3)),
    "shallow_next": design("bottleneck", (1, 2, 1, 1), TROJANZOO, widening=2, groups=32),
}
PLACEMENTS = ("bn_scale", "channel", "conv_output")
PUBLISHED = [name for name, each in DESIGNS.items() if not each.family and each.largest_side is None]
LARGE = ("resnet101", "resnet152", "wide_resnet101_2", "resnext101_32x8d", "resnext101_64x4d")


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """One block or two a stage: all that the published depths repeat."""
    with parity.registered(**SHALLOW):
        yield


def build(name: str, num_classes: int = 10) -> torch.nn.Module:
    """The oracle of an architecture of ours."""
    models = torchvision_models()
    source, _, layers = name.partition("_")
    if source == "torchvision" and layers.endswith("_cifar"):
        network = models.get_model(layers.removesuffix("_cifar"), num_classes=num_classes)
        network.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        return network
    if source == "torchvision":
        return models.get_model(layers, num_classes=num_classes)
    if source == "trojanzoo":
        network = models.get_model(layers.removesuffix("_comp"), num_classes=num_classes)
        return TrojanZoo(network, comp=name.endswith("_comp"))
    resnet = models.resnet
    if name == "shallow":
        return resnet.ResNet(resnet.BasicBlock, [2, 1, 1, 1], num_classes)
    if name == "shallow_comp":
        return TrojanZoo(resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes), comp=True)
    bottlenecks = resnet.ResNet(resnet.Bottleneck, [1, 2, 1, 1], num_classes, groups=32, width_per_group=4)
    return TrojanZoo(bottlenecks, comp=False)


def loaded(name: str, side: int) -> tuple[torch.nn.Module, Network, dict]:
    torch.manual_seed(0)
    module = parity.randomize(build(name))
    return module, *parity.load(module, image_shape=(side, side, 3))


def tiny(name: str) -> Network:
    return Network(Architecture(name, 3, 4, image_shape=(16, 16, 3)))


@pytest.mark.parametrize(("name", "side", "pooled"), [("shallow", 40, "bn1"), ("shallow_next", 40, "features.bn1")])
def test_every_layer_computes_what_torch_computes(name, side, pooled):
    module, network, variables = loaded(name, side)
    assert network.architecture == Architecture(name, 10, 64, image_shape=(side, side, 3))
    parity.check_parity(module, network, variables)
    parity.check_round_trip(module, network, variables)
    parity.check_sites(network, variables, pooled=(pooled,))
    if name == "shallow":
        parity.check_placement(module, network, "bn_scale")


@pytest.mark.slow
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_pruning_is_torch_s_in_every_placement(placement):
    module, network, _ = loaded("shallow_comp", 12)
    parity.check_placement(module, network, placement)


def test_a_small_stem_neither_strides_nor_pools():
    module, network, variables = loaded("shallow_comp", 12)
    parity.check_parity(module, network, variables)
    parity.check_sites(network, variables)


@pytest.mark.slow
def test_training_reaches_every_parameter():
    network = tiny("shallow")
    parity.check_training_step(network, network.init(jax.random.key(0)))


@pytest.mark.parametrize(
    "names", [("clp",), pytest.param(("rnp", "anp", "holder", "fp"), marks=pytest.mark.slow)], ids=["clp", "others"]
)
def test_the_defenses_run(names):
    network = tiny("shallow")
    parity.check_defenses(network, network.init(jax.random.key(0)), names)


def check_published(name: str, width: int, side: int, parameters: int | None) -> None:
    with torch.device("meta"):
        module = build(name)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    found = infer_architecture(shapes)
    assert found == Architecture(name, 10, width, image_shape=(side, side, 3))
    count = count_parameters(jax.eval_shape(Network(found).init, jax.random.key(0)))
    assert count == sum(value.numel() for value in module.parameters())
    assert parameters in (None, count)


@pytest.mark.parametrize(
    ("name", "width", "side", "parameters"),
    [
        ("torchvision_resnet18", 64, 224, 11_181_642),
        ("trojanzoo_resnet18_comp", 64, 32, 11_173_962),
        ("torchvision_resnet50", 64, 224, 23_528_522),
    ],
)
def test_published_keys_and_shapes_are_recognised(name, width, side, parameters):
    check_published(name, width, side, parameters)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_published_network_is_recognised(name):
    check_published(name, DESIGNS[name].width, 224 if DESIGNS[name].image_side == 224 else 32, None)


def test_a_small_stem_with_pooling_is_taken_where_it_is_named():
    """huyvnphan's; ``torchvision_resnet18_cifar`` has the same tensors."""
    torch.manual_seed(0)
    resnet = torchvision_models().resnet
    module = resnet.ResNet(resnet.BasicBlock, [1, 2, 1, 1], 10)
    module.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    module = parity.randomize(module)
    pooled = design("basic", (1, 2, 1, 1), TORCHVISION._replace(stem=3, pooled=True))._replace(largest_side=0)
    with parity.registered(shallow_pooled=pooled):
        network, variables = parity.load(module, "shallow_pooled", image_shape=(12, 12, 3))
        parity.check_parity(module, network, variables)
    with torch.device("meta"):
        shapes = parity.shapes_of(build("torchvision_resnet18_cifar"))
    assert infer_architecture(shapes).name == "torchvision_resnet18_cifar"
    assert infer_architecture(shapes, name="huyvnphan_resnet18").name == "huyvnphan_resnet18"


def test_a_wide_network_is_told_from_a_plain_one_and_from_a_resnext_without_building_any():
    for name in ("torchvision_resnet50", "torchvision_wide_resnet50_2", "torchvision_resnext50_32x4d"):
        with torch.device("meta"):
            shapes = {key: tuple(value.shape) for key, value in build(name).state_dict().items()}
        single = {known: each for known, each in DESIGNS.items() if not each.family and each.stem in shapes}
        assert [known for known, each in single.items() if each.matches(shapes)] == [name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("torchvision_resnet18", 224),
        ("torchvision_resnext50_32x4d", 32),
    ],
)
def test_published_sizes(name, side):
    module, network, variables = loaded(name, side)
    parity.check_parity(module, network, variables)
    parity.check_round_trip(module, network, variables)
