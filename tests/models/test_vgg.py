"""VGG against torch: torchvision's definition, and the releases' own classifiers behind the same convolutions."""

import jax
import numpy as np
import pytest
import torch
from torch import nn

from rnp_jax.errors import ArchitectureError
from rnp_jax.models import Architecture, Network, count_parameters, vgg
from rnp_jax.models.inference import entries, infer_architecture
from tests.oracle.vgg import SmallVgg, Vgg
from tests.oracle.vision import torchvision_models
from tests.parity import (
    check_defenses,
    check_parity,
    check_placement,
    check_pruning,
    check_round_trip,
    check_sites,
    check_training_step,
    load,
    randomize,
    recognised,
)

WIDTH, CLASSES = 4, 5
IBAU = "ibau_small_vgg16"
DEPTHS = (11, 13, 16, 19)
PUBLISHED = {  # parameters of the published sizes, 10 classes but for torchvision's 1000
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "cifar_vgg19_bn": 20_040_522,
    "chenyaofo_vgg16_bn": 15_253_578,
    "weiaicunzai_vgg16_bn": 33_646_666,
    "toolbox_vgg16_bn": 15_253_578,
    "ibau_small_vgg16": 308_394,
}


def oracle(name: str, width: int = WIDTH, num_classes: int = CLASSES) -> nn.Module:
    """The torch network of one of our names, every statistic away from its default."""
    if name == IBAU:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return randomize(SmallVgg(width, num_classes))
    prefix, _, rest = name.partition("vgg")
    form = {"": "torchvision", "trojanzoo_": "comp_s" if name.endswith("_s") else "comp"}.get(prefix, prefix[:-1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomize(Vgg(int(rest[:2]), "_bn" in name, form, width, num_classes))


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def network_of(name: str, placement, width: int = 2) -> Network:
    return Network(Architecture(name, CLASSES, width), placement=placement)


@pytest.mark.parametrize(
    "name",
    [
        "cifar_vgg11",
        "vgg11_bn",
        "chenyaofo_vgg11_bn",
        "weiaicunzai_vgg11_bn",
        IBAU,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("toolbox_vgg11_bn", "trojanzoo_vgg13_comp", "trojanzoo_vgg11_bn_comp_s", "vgg19", "vgg16_bn")
        ),
    ],
)
def test_a_narrow_network_computes_what_torch_computes(name):
    module = oracle(name)
    network, variables = load(module)
    assert network.architecture == Architecture(name, CLASSES, WIDTH)
    check_parity(module, network, variables)
    check_round_trip(module, network, variables)
    check_pruning(module, network, variables)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [("cifar_vgg19_bn", 32)])
def test_the_published_width(name, side):
    module = oracle(name, 64, 10) if name.startswith("cifar") else torchvision_models().get_model(name, num_classes=10)
    network, variables = load(randomize(module), image_shape=(side, side, 3))
    assert network.architecture == Architecture(name, 10, 64, image_shape=(side, side, 3))
    check_parity(module, network, variables)
    check_round_trip(module, network, variables)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("norm", ["", "_bn"])
def test_torchvision_s_names_and_shapes_are_ours(depth, norm):
    """The full size, no values; and the torch oracle of the narrow tests has the same."""
    name = f"vgg{depth}{norm}"
    with torch.device("meta"):
        theirs = shapes_of(torchvision_models().get_model(name))
        assert theirs == shapes_of(Vgg(depth, bool(norm), "torchvision", 64, 1000))
    found = infer_architecture(theirs)
    assert found == Architecture(name, 1000, image_shape=(224, 224, 3))
    assert {entry.key for entry in entries(found)} == {key for key in theirs if "num_batches" not in key}
    assert parameters(found) == PUBLISHED[name]


@pytest.mark.parametrize("name", [name for name in vgg.DESIGNS if not name.startswith("vgg")])
def test_every_release_is_recognised_at_its_size(name):
    width = vgg.DESIGNS[name].width
    with torch.device("meta"):
        theirs = shapes_of(oracle(name, width, 10))
    assert recognised(theirs) == [name]
    found = infer_architecture(theirs)
    assert found == Architecture(name, 10, width)
    assert parameters(found) == PUBLISHED.get(name, parameters(found))


def test_lira_s_larger_images_follow_from_the_classifier_s_inputs():
    """https://github.com/khoadoan106/backdoor_attacks gives 64 x 64 images 2048 features."""
    shapes = shapes_of(oracle("cifar_vgg11_bn")) | {"classifier.weight": (CLASSES, 4 * 8 * WIDTH)}
    assert infer_architecture(shapes).image_shape == (64, 64, 3)


def test_i_bau_s_network_trains_as_torch_s_does_without_dropout():
    """The moments of what each batch norm reads and the logits, in training mode."""
    module = SmallVgg(WIDTH, CLASSES, dropout=(0.0, 0.0, 0.0))
    module.load_state_dict(oracle(IBAU).state_dict())
    network, variables = load(module)
    images = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    with torch.no_grad():
        expected = module.train()(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    logits, moved = jax.jit(lambda v, x: network(v, x, train=True))(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    moments = {name: value.numpy() for name, value in module.named_buffers() if not name.endswith("_tracked")}
    assert len(moments) == 2 * sum(len(leaves) == 2 for _, leaves in _moments(moved))
    for layer, leaves in _moments(moved):
        np.testing.assert_allclose(leaves["mean"], moments[f"{layer}.running_mean"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(leaves["var"], moments[f"{layer}.running_var"], rtol=1e-4, atol=1e-5)


def test_i_bau_s_sites_are_read_behind_their_elu_and_unlearning_moves_them():
    network, variables = load(oracle(IBAU))
    assert [site.layer for site in network.sites] == [f"features.{i}" for i in (1, 4, 9, 12, 17, 20)]
    assert {site.activation for site in network.sites} == {"elu"}
    check_sites(network, variables, pooled=("features.4", "features.12", "features.20"))
    check_training_step(network, variables)


@pytest.mark.parametrize("placement", ["channel", "conv_output"])
def test_i_bau_s_network_pruned_elsewhere_is_exported_as_it_acts(placement):
    module = oracle(IBAU)
    check_placement(module, load(module)[0], placement)


@pytest.mark.parametrize(("width", "classes", "side"), [(3, 43, 32), (7, 10, 64)])
def test_i_bau_s_network_at_other_sizes(width, classes, side):
    with torch.device("meta"):
        theirs = shapes_of(SmallVgg(width, classes, side=side))
    assert infer_architecture(theirs) == Architecture(IBAU, classes, width, image_shape=(side, side, 3))


@pytest.mark.parametrize("lacking", ["features.1.running_var", "features.4.weight", "classifier.weight"])
def test_what_lacks_a_layer_is_not_recognised(lacking):
    shapes = shapes_of(oracle("cifar_vgg11_bn"))
    del shapes[lacking]
    with pytest.raises(ArchitectureError, match="supported architectures has these tensors"):
        infer_architecture(shapes)


@pytest.mark.parametrize(
    ("name", "placement", "sites", "filters"),
    [
        ("vgg11_bn", "bn_scale", 8, "features.1"),
        ("vgg11_bn", "channel", 8, "features.1"),
        ("vgg11_bn", "conv_output", 8, "features.0"),
        ("vgg11", "conv_output", 8, "features.0"),
        ("vgg11", "unit", 2, "classifier.0"),
        ("vgg11", "bn_scale", 0, None),
        ("cifar_vgg11_bn", "unit", 0, None),
    ],
)
def test_sites_are_what_the_placement_masks(name, placement, sites, filters):
    network = network_of(name, placement)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    masked = sorted({layer for layer, leaves in _layers(shapes["masks"]) if "filter" in leaves})
    assert len(network.sites) == sites == len(masked)
    assert (min(masked) if masked else None) == filters
    assert {layer for site in network.sites for layer in (site.layer, *site.producers)} >= {*masked}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar_vgg11", "cifar_vgg11_bn", "toolbox_vgg11", IBAU])
def test_defenses_run(name):
    check_defenses(*load(oracle(name)))


def parameters(architecture: Architecture) -> int:
    return count_parameters(jax.eval_shape(Network(architecture).init, jax.random.key(0)))


def _layers(tree: dict, prefix: str = ""):
    for name, node in tree.items():
        if "neuron" in node:
            yield prefix + name, node
        else:
            yield from _layers(node, f"{prefix}{name}.")


def _moments(tree: dict, prefix: str = ""):
    for name, node in tree.items():
        if "mean" in node:
            yield prefix + name, node
        else:
            yield from _moments(node, f"{prefix}{name}.")
