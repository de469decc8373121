"""The names and sizes of MobileNetV3; its numbers on a shallow network are in test_inverted_residual.py."""

from dataclasses import replace

import jax
import pytest
import torch
from torch import nn

from rnp_jax.models import Architecture, Network
from rnp_jax.models.inference import infer_architecture
from rnp_jax.models.inverted_residual import divisible
from tests.oracle.vision import torchvision_models
from tests.parity import (
    check_parity,
    check_round_trip,
    load,
    randomize,
    shapes_of,
)

PUBLISHED = {"mobilenet_v3_large": 4_214_842, "mobilenet_v3_small": 1_528_106}


def build(name: str, multiplier: float = 1.0) -> nn.Module:
    return getattr(torchvision_models(), name)(width_mult=multiplier, num_classes=10)


@pytest.mark.parametrize(
    "multiplier", [1.0, 1.25, *(pytest.param(each, marks=pytest.mark.slow) for each in (0.35, 0.5, 0.75))]
)
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_key_and_shape_is_ours(name, multiplier):
    """Also where the layers' channels do not follow from the stem's."""
    with torch.device("meta"):
        module = build(name, multiplier)
    found = infer_architecture(shapes_of(module))
    assert replace(found, form=()) == Architecture(name, 10, divisible(16 * multiplier))
    assert multiplier not in (1, 0.5) or not found.form
    assert multiplier != 1 or sum(leaf.numel() for leaf in module.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_narrow_network_has_the_published_layers(name):
    """Also where its channels are no multiples of 8."""
    layers = [set(Network(Architecture(name, 10, width)).layers) for width in (4, 16)]
    assert layers[0] == layers[1]


def test_batch_norm_is_torchvision_s():
    with torch.device("meta"):
        theirs = dict(build("mobilenet_v3_small").named_modules())
    ours = Network(Architecture("mobilenet_v3_small", 10, 16))
    for site in ours.sites:
        norm = theirs[site.layer]
        assert (ours.layers[site.layer].eps, ours.layers[site.layer].momentum) == (norm.eps, norm.momentum)
    variables = jax.eval_shape(ours.init, jax.random.key(0))
    assert len(ours.sites) == sum(isinstance(each, nn.BatchNorm2d) for each in theirs.values())
    assert variables["batch_stats"]["features.0.1"]["mean"].shape == (16,)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_width_computes_what_torch_computes(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = randomize(build(name))
    network, variables = load(module)
    check_parity(module, network, variables)
    check_round_trip(module, network, variables)
