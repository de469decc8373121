"""The releases' MNIST classifiers against plain torch networks with their keys."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from rnp_jax import masks
from rnp_jax.models import Architecture, mnist
from rnp_jax.models.inference import infer_architecture
from tests.oracle import vgg
from tests.parity import (
    check_defenses,
    check_parity,
    check_pruning,
    check_round_trip,
    check_sites,
    check_training_step,
    load,
    randomize,
)

WIDTH = 3  # no layer's channels equal its side, so that no axis can be mistaken for another
PUBLISHED = {  # the releases' own shapes
    "wanet_mnist": {
        "conv1.weight": (32, 1, 3, 3),
        "conv1.bias": (32,),
        "layer2.conv1.weight": (64, 32, 3, 3),
        "layer3.bn1.weight": (64,),
        "linear6.weight": (512, 1024),
        "linear9.weight": (10, 512),
    },
    "inputaware_mnist": {
        "conv1.weight": (32, 1, 5, 5),
        "conv5.weight": (64, 32, 5, 5),
        "linear6.weight": (512, 1024),
        "linear9.weight": (10, 512),
    },
    "backdoorbox_mnist": {
        "conv1.weight": (16, 1, 5, 5),
        "conv2.weight": (32, 16, 5, 5),
        "fc1.weight": (512, 512),
        "fc2.weight": (10, 512),
    },
    "badnets_mnist": {
        "conv1.0.weight": (16, 1, 5, 5),
        "conv2.0.weight": (32, 16, 5, 5),
        "fc1.0.weight": (512, 512),
        "fc2.0.weight": (10, 512),
    },
    "lenet": {
        "conv1.weight": (6, 1, 5, 5),
        "conv2.weight": (16, 6, 5, 5),
        "fc1.weight": (120, 400),
        "fc2.weight": (84, 120),
        "fc3.weight": (10, 84),
    },
    "pytorch_mnist": {
        "conv1.weight": (32, 1, 3, 3),
        "conv2.weight": (64, 32, 3, 3),
        "fc1.weight": (128, 9216),
        "fc2.weight": (10, 128),
    },
    "trojanzoo_mnist": {
        "features.conv1.weight": (32, 1, 3, 3),
        "features.conv2.weight": (64, 32, 3, 3),
        "classifier.fc1.weight": (128, 9216),
        "classifier.fc2.weight": (10, 128),
    },
}


def oracle(name: str, width: int = WIDTH) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomize(vgg.mnist(name, width))


def image_shape(name: str) -> tuple[int, int, int]:
    side = 32 if name == "lenet" else 28
    return side, side, 1


def loaded(name: str, placement):
    module = oracle(name)
    network, variables = load(module)
    network = replace(network, placement=placement)
    return module, network, {**variables, "masks": network.init(jax.random.key(0))["masks"]}


@pytest.mark.parametrize("name", mnist.DESIGNS)
def test_a_narrow_network_computes_what_torch_computes(name):
    module = oracle(name)
    network, variables = load(module)
    assert network.architecture == Architecture(name, 10, WIDTH, image_shape=image_shape(name))
    check_parity(module, network, variables)
    check_round_trip(module, network, variables)
    check_pruning(module, network, variables)


@pytest.mark.parametrize("name", mnist.DESIGNS)
def test_the_published_sizes_are_recognised(name):
    with torch.device("meta"):
        module = vgg.mnist(name, mnist.DESIGNS[name].width)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert shapes.items() >= PUBLISHED[name].items()
    found = infer_architecture(shapes)
    assert found == Architecture(name, 10, mnist.DESIGNS[name].width, image_shape=image_shape(name))


@pytest.mark.parametrize("name", ["badnets_mnist", "lenet"])
def test_those_for_32_pixels_in_colour(name):
    module = randomize(vgg.mnist(name, WIDTH, channels=3))
    network, variables = load(module)
    assert network.architecture == Architecture(name, 10, WIDTH, image_shape=(32, 32, 3))
    check_parity(module, network, variables)


@pytest.mark.parametrize(
    ("name", "placement", "masked"),
    [
        ("wanet_mnist", "bn_scale", ["layer2.bn1", "layer3.bn1"]),
        ("wanet_mnist", "conv_output", ["conv1", "layer2.conv1", "layer3.conv1"]),
        ("wanet_mnist", "unit", ["linear6"]),
        ("inputaware_mnist", "conv_output", ["conv1", "conv5"]),
        ("backdoorbox_mnist", "unit", ["fc1"]),
    ],
)
def test_pruning_in_every_placement_is_exported_as_it_acts(name, placement, masked):
    module, network, variables = loaded(name, placement)
    assert [*masks.filters(variables["masks"])] == masked
    assert {layer for site in network.sites for layer in (site.layer, *site.producers)} >= {*masked}
    check_pruning(module, network, variables)
    check_sites(network, variables, pooled=("conv1", "conv5"))


@pytest.mark.parametrize("name", ["wanet_mnist", "backdoorbox_mnist"])
def test_a_step_in_training_mode_moves_every_mask(name):
    _, network, variables = loaded(name, mnist.DESIGNS[name].placement)
    check_training_step(network, variables)


@pytest.mark.parametrize(
    ("name", "placement", "names"),
    [
        ("wanet_mnist", "bn_scale", ("clp", "holder")),
        *(
            pytest.param(*case, ("rnp", "clp", "anp", "holder", "fp"), marks=pytest.mark.slow)
            for case in (
                ("wanet_mnist", "bn_scale"),
                ("wanet_mnist", "conv_output"),
                ("wanet_mnist", "unit"),
                ("inputaware_mnist", "conv_output"),
                ("backdoorbox_mnist", "conv_output"),
                ("pytorch_mnist", "unit"),
            )
        ),
    ],
)
def test_defenses_run(name, placement, names):
    _, network, variables = loaded(name, placement)
    check_defenses(network, variables, names)


def test_what_wa_net_s_first_batch_norm_reads_is_rectified():
    """So its channels are affine in the norm's own input, and not in that of the convolution before it."""
    _, network, variables = loaded("wanet_mnist", "bn_scale")
    images = jnp.asarray(np.random.default_rng(0).random((2, 28, 28, 1), np.float32))
    inputs = network.inputs(variables, images)["layer2.bn1"]
    np.testing.assert_array_equal(inputs, np.maximum(network.activations(variables, images)["conv1"], 0))
    first, second = network.sites
    assert not first.direct
    assert second.direct
