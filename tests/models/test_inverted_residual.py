"""Shallow networks of every family against torch, in all that a checkpoint goes through here."""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from rnp_jax import masks
from rnp_jax.defenses.sensitivity import HolderConfig, holder_scores
from rnp_jax.errors import DataError
from rnp_jax.models import Architecture, Network, efficientnet, mobilenet_v2, mobilenet_v3
from rnp_jax.models.chain import Site
from rnp_jax.models.inverted_residual import divisible, widened
from rnp_jax.types import Variables
from tests.oracle.mobilenet_v2 import MobileNetV2
from tests.oracle.vision import torchvision_models
from tests.parity import (
    check_defenses,
    check_parity,
    check_placement,
    check_pruning,
    check_round_trip,
    check_sites,
    check_training_step,
    copy_of,
    load,
    randomize,
    registered,
)

CLASSES = 5
V2_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2))
CIFAR_STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 1, 2))  # every kind of shortcut, and none
V3_ROWS = ((3, 16, 16, False, "relu", 1), (5, 72, 40, True, "relu", 2), (3, 184, 40, True, "hard_swish", 1))
EFFICIENT_STAGES = ((1, 3, 1, 16, 1), (6, 5, 2, 24, 2))
DESIGNS = {
    "shallow_v2": mobilenet_v2.design(V2_STAGES),
    "shallow_cifar_v2": mobilenet_v2.cifar_design(CIFAR_STAGES),
    "shallow_v3": mobilenet_v3.design(V3_ROWS, 64),
    "shallow_efficientnet": efficientnet.design(1.0, 1.0, stages=EFFICIENT_STAGES),
}
ELSEWHERE = {  # norms whose output no layer reads as the site says: gated first, pooled, or read without a sum
    "shallow_v2": ("features.1.conv.2", "features.2.conv.3", "features.4.1"),
    "shallow_cifar_v2": ("layers.3.bn3", "bn2"),
    "shallow_v3": ("features.2.block.1.1", "features.2.block.3.1", "features.3.block.1.1", "features.4.1"),
    "shallow_efficientnet": (
        "features.1.0.block.0.1",
        "features.1.0.block.2.1",
        "features.2.0.block.1.1",
        "features.2.0.block.3.1",
        "features.2.1.block.1.1",
        "features.3.1",
    ),
}


def build(name: str) -> nn.Module:
    """The torch network of a shallow design, its stem half as wide as published (a quarter for EfficientNet)."""
    models = torchvision_models()
    if name == "shallow_cifar_v2":
        return MobileNetV2(16, CLASSES, CIFAR_STAGES)
    if name == "shallow_v2":
        settings = [list(stage) for stage in V2_STAGES]
        return models.MobileNetV2(CLASSES, 0.5, settings, round_nearest=8)
    if name == "shallow_v3":
        return models.MobileNetV3(v3_rows(0.5), divisible(64 * 0.5), CLASSES)
    return models.EfficientNet(efficient_stages(0.25), 0.2, num_classes=CLASSES)


def v3_rows(multiplier: float) -> list[Any]:
    from torchvision.models.mobilenetv3 import InvertedResidualConfig

    settings, inputs = [], 16
    for kernel, expanded, channels, squeezed, activation, stride in V3_ROWS:
        kind = "HS" if activation == "hard_swish" else "RE"
        row = (inputs, kernel, expanded, channels, squeezed, kind, stride, 1, multiplier)
        settings.append(InvertedResidualConfig(*row))
        inputs = channels
    return settings


def efficient_stages(multiplier: float) -> list[Any]:
    """torchvision rounds to multiples of 8 where blocks expand, which narrow ones are not."""
    from torchvision.models.efficientnet import MBConvConfig

    settings, inputs = [], efficientnet.STEM
    for expansion, kernel, stride, channels, count in EFFICIENT_STAGES:
        stage = MBConvConfig(expansion, kernel, stride, inputs, channels, count)
        stage.input_channels, stage.out_channels = (int(size * multiplier) for size in (inputs, channels))
        stage.adjust_channels = lambda channels, times, _=None: int(channels * times)
        settings.append(stage)
        inputs = channels
    return settings


@cache
def loaded(name: str) -> tuple[nn.Module, Network, Variables]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = randomize(build(name))
        side = 8 if name == "shallow_cifar_v2" else 16  # the release averages over windows of 4
        return module, *load(module, image_shape=(side, side, 3))


@pytest.fixture(autouse=True)
def shallow_designs():
    with registered(**DESIGNS):
        yield


def cases(*fast: str):
    """All shallow networks, most of them slow to compile."""
    return pytest.mark.parametrize(
        "case", [pytest.param(name, marks=[] if name in fast else pytest.mark.slow) for name in DESIGNS]
    )


@cases(*DESIGNS)
def test_a_shallow_network_computes_what_torch_computes(case):
    module, network, variables = loaded(case)
    assert network.architecture.name == case
    assert network.architecture.width == (8 if "v3" in case or "efficient" in case else 16)
    check_parity(module, network, variables)
    check_round_trip(module, network, variables)


@cases("shallow_cifar_v2")
def test_pruning_is_exported_as_it_acts(case):
    module, network, variables = loaded(case)
    check_pruning(copy_of(module), network, variables)


@pytest.mark.parametrize("placement", ["channel", "conv_output"])
@cases("shallow_v3")
def test_pruning_in_other_placements(case, placement):
    module, network, _ = loaded(case)
    check_placement(copy_of(module), network, placement)


@cases("shallow_v3")
def test_a_step_in_training_mode_moves_every_mask(case):
    _, network, variables = loaded(case)
    check_training_step(network, variables)


@cases("shallow_v3")
def test_sites_name_what_feeds_and_what_reads_them(case):
    _, network, variables = loaded(case)
    check_sites(network, variables, ELSEWHERE[case])
    assert {site.layer for site in network.sites} == set(masks.filters(variables["masks"]))


def test_gates_of_squeeze_and_excitation_have_no_filters():
    for placement in ("bn_scale", "conv_output"):
        network = Network(Architecture("shallow_v3", CLASSES, 8), placement=placement)
        filters = masks.filters(jax.eval_shape(network.init, jax.random.key(0))["masks"])
        assert not [name for name in filters if ".fc" in name]
        fed = {name for site in network.sites for name in (site.layer, *site.producers)}
        assert set(filters) <= fed


def test_the_hidden_layer_has_filters_in_the_placement_unit():
    module, network, _ = loaded("shallow_v3")
    assert replace(network, placement="unit").sites == (Site("classifier.0", ("classifier.0",), "hard_swish"),)
    check_placement(copy_of(module), network, "unit")


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("shallow_v3", ("clp",)),
        *(pytest.param(name, ("rnp", "clp", "anp", "holder", "fp"), marks=pytest.mark.slow) for name in DESIGNS),
    ],
)
def test_defenses_run(name, names):
    check_defenses(*loaded(name)[1:], names)


def test_holder_scores_of_a_depthwise_channel_are_its_own():
    """A channel's response follows from its own kernel alone."""
    _, network, variables = loaded("shallow_cifar_v2")
    images = np.random.default_rng(0).random((4, *network.architecture.image_shape), np.float32)
    config, layer = HolderConfig(scope="local", radii=(0.1,)), "layers.1.bn2"
    before = holder_scores(network, variables, images, config, layers=[layer])[layer]
    channel = int(before.argmax())
    changed = jax.tree.map(jnp.asarray, variables)
    convolution = changed["params"]["layers.1"]["conv2"]
    convolution["kernel"] = convolution["kernel"].at[..., channel].mul(3)
    after = holder_scores(network, changed, images, config, layers=[layer])[layer]
    rest = np.arange(len(before)) != channel
    np.testing.assert_allclose(after[rest], before[rest], rtol=1e-5)
    assert after[channel] != pytest.approx(before[channel], rel=0.1)


def test_a_single_image_that_is_one_pixel_has_no_statistics():
    _, network, variables = loaded("shallow_v3")
    with pytest.raises(DataError, match=r"features\.2\.block\.1\.1 has 1 value per channel"):
        jax.eval_shape(lambda: network(variables, jnp.zeros((1, 4, 4, 3)), train=True))


@pytest.mark.parametrize("value", [1, 4, 11.9, 12, 12.1, 17.9, 30, 99.5, 1000])
@pytest.mark.parametrize("divisor", [1, 8])
def test_channels_are_rounded_as_torchvision_rounds_them(value, divisor):
    torchvision_models()
    from torchvision.models._utils import _make_divisible

    assert divisible(value, divisor) == _make_divisible(value, divisor)


def test_a_width_that_is_no_multiple_of_8_is_kept_as_it_is():
    assert [widened(channels, 4, 16) for channels in (16, 64, 200, 1)] == [4, 16, 50, 1]
    assert [widened(channels, 16, 16) for channels in (16, 64, 200)] == [16, 64, 200]
