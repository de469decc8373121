"""A shallow plain network, with and without batch norm, in every placement; the published ones have their own files."""

from dataclasses import replace

import jax
import pytest
import torch
from torch import nn

from rnp_jax import masks
from rnp_jax.models import Network
from rnp_jax.models.plain import ConvStep, Plan, plain_design
from tests.oracle.vgg import Ordered
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
    registered,
)

SIDE, CLASSES = 12, 5


def plan(batch_norm: bool) -> Plan:
    """Two convolutions of 8 and 16 filters, then pooling to 2 x 2 and a hidden layer of 24 units."""
    first, second = ("n0", "n1") if batch_norm else (None, None)
    convs = (ConvStep("c0", 8, first, pool="max"), ConvStep("c1", 16, second, size=5, pad=2, pool="average"))
    return Plan(convs, (("l0", 24),), "l1", pooled=2)


def oracle(batch_norm: bool) -> nn.Module:
    """The plan at half its width."""
    norms = [[("n0", nn.BatchNorm2d(4))], [("n1", nn.BatchNorm2d(8))]] if batch_norm else [[], []]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [("c0", nn.Conv2d(3, 4, 3, padding=1)), *norms[0], ("r0", nn.ReLU()), ("p0", nn.MaxPool2d(2))]
        layers += [("c1", nn.Conv2d(4, 8, 5, padding=2)), *norms[1], ("r1", nn.ReLU()), ("p1", nn.AvgPool2d(2))]
        layers += [("pool", nn.AdaptiveAvgPool2d(2)), ("flatten", nn.Flatten()), ("l0", nn.Linear(32, 12))]
        return randomize(Ordered([*layers, ("r2", nn.ReLU()), ("l1", nn.Linear(12, CLASSES))]))


@pytest.fixture(autouse=True)
def _registered():
    with registered(plain=plain_design(plan(False), SIDE), plain_bn=plain_design(plan(True), SIDE)):
        yield


@pytest.mark.parametrize("batch_norm", [False, True])
def test_it_computes_what_torch_computes(batch_norm):
    module = oracle(batch_norm)
    network, variables = load(module)
    assert network.architecture.name == ("plain_bn" if batch_norm else "plain")
    assert network.architecture.width == 4
    assert network.placement == ("bn_scale" if batch_norm else "conv_output")
    check_parity(module, network, variables)
    check_round_trip(module, network, variables)
    check_pruning(module, network, variables)
    check_sites(network, variables, pooled=("c0", "c1", "n0", "n1"))
    check_training_step(network, variables)


@pytest.mark.parametrize(
    ("batch_norm", "placement", "masked", "sites"),
    [
        (True, "channel", ["n0", "n1"], ["n0", "n1"]),
        (True, "conv_output", ["c0", "c1"], ["n0", "n1"]),
        (True, "unit", ["l0"], ["l0"]),
        (False, "unit", ["l0"], ["l0"]),
    ],
)
def test_pruning_in_other_placements_is_exported_as_it_acts(batch_norm, placement, masked, sites):
    module = oracle(batch_norm)
    network, _ = load(module)
    moved = replace(network, placement=placement)
    assert [site.layer for site in moved.sites] == sites
    assert [*masks.filters(jax.eval_shape(moved.init, jax.random.key(0))["masks"])] == masked
    check_placement(module, network, placement)


def test_without_batch_norm_nothing_is_masked_at_one():
    network = replace(load(oracle(False))[0], placement="bn_scale")
    assert network.sites == ()
    assert masks.filters(jax.eval_shape(network.init, jax.random.key(0))["masks"]) == {}


@pytest.mark.parametrize(
    ("batch_norm", "names"),
    [(False, ("rnp", "clp", "anp", "holder", "fp")), (True, ("rnp", "clp", "holder"))],
)
def test_defenses_run(batch_norm, names):
    check_defenses(*load(oracle(batch_norm)), names)


def test_a_head_s_hidden_units_can_be_defended():
    network, variables = load(oracle(True))
    moved = replace(network, placement="unit")
    variables = {**variables, "masks": moved.init(jax.random.key(0))["masks"]}
    check_defenses(moved, variables, ("holder", "clp"))


@pytest.mark.parametrize("extra", ["c2.weight", "n2.running_var"])
def test_a_plan_knows_its_layers_exactly(extra):
    shapes = {key: tuple(value.shape) for key, value in oracle(True).state_dict().items()}
    assert plan(True).matches(shapes)
    assert not plan(False).matches(shapes)
    assert not plan(True).matches({**shapes, extra: (8, 8, 3, 3)})
    assert not plan(True).matches({**shapes, "c1.weight": (8, 4, 3, 3)})


@pytest.mark.parametrize("width", [1, 3, 8, 13])
def test_every_width_is_recognised(width):
    network = Network(replace(load(oracle(True))[0].architecture, width=width))
    params = jax.eval_shape(network.init, jax.random.key(0))["params"]
    assert params["c0"]["kernel"].shape == (3, 3, 3, width)
    assert params["c1"]["kernel"].shape == (5, 5, width, max(1, 2 * width))
    assert params["l0"]["kernel"].shape == (4 * 2 * width, 3 * width)
