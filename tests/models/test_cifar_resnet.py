"""The ResNet paper's networks for CIFAR against torch, in both namings."""

import re

import jax
import pytest
import torch

from rnp_jax.models import Architecture, Network
from rnp_jax.models.cifar_resnet import DESIGNS
from rnp_jax.models.inference import infer_architecture
from rnp_jax.models.network import count_parameters
from tests import parity
from tests.oracle.torchvision_resnet import ThreeStages

PARAMETERS = {"nad_resnet32": 466_906, "resnet20": 269_722, "cifar_resnet56": 855_770}


def build(name: str, width: int = 16) -> ThreeStages:
    source, depth = re.fullmatch(r"(.*)resnet(\d+)", name).groups()
    return ThreeStages((int(depth) - 2) // 6, width, padded=not source)


@pytest.mark.parametrize("name", ["resnet20", "cifar_resnet20"])
def test_stages_widen_by_zeros_or_by_projections(name):
    torch.manual_seed(0)
    module = parity.randomize(build(name, 4))
    network, variables = parity.load(module, image_shape=(12, 12, 3))
    assert network.architecture == Architecture(name, 10, 4, image_shape=(12, 12, 3))
    parity.check_parity(module, network, variables)
    parity.check_round_trip(module, network, variables)
    parity.check_sites(network, variables)


@pytest.mark.parametrize("name", DESIGNS)
def test_every_published_network_is_recognised(name):
    with torch.device("meta"):
        module = build(name)
    found = infer_architecture({key: tuple(value.shape) for key, value in module.state_dict().items()})
    assert found == Architecture(name, 10, 16, image_shape=(32, 32, 3))
    if name in PARAMETERS:
        assert count_parameters(jax.eval_shape(Network(found).init, jax.random.key(0))) == PARAMETERS[name]


@pytest.mark.slow
def test_published_sizes():
    torch.manual_seed(0)
    module = parity.randomize(build("nad_resnet32"))
    network, variables = parity.load(module, image_shape=(32, 32, 3))
    parity.check_parity(module, network, variables)
    parity.check_round_trip(module, network, variables)
