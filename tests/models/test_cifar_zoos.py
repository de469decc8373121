"""The zoos' networks for 32-pixel images against torch: tiny ones of every kind in all, published ones by their shapes.

The designs are in ``rnp_jax/models/cifar_*.py``; ``graph`` and ``parts`` hold what they share.
"""

import pytest
import torch

from rnp_jax import masks
from rnp_jax.models import (
    cifar_bottlenecks,
    cifar_densenet,
    cifar_dla,
    cifar_dpn,
    cifar_efficientnet,
    cifar_googlenet,
    cifar_mobilenet,
    cifar_pnasnet,
    cifar_preactresnet,
    cifar_residual,
    cifar_shufflenet,
    cifar_squeezenet,
    cifar_xception,
)
from rnp_jax.models.registry import DESIGNS
from tests.oracle.zoos import PUBLISHED
from tests.parity import (
    check_defenses,
    check_parity,
    check_pruning,
    check_round_trip,
    check_sites,
    check_training_step,
    copy_of,
    load,
    randomize,
    recognised,
    shapes_of,
)
from tests.tiny_zoos import TINY, loaded, network_of, register

PARAMETERS = {  # counted in the projects' own code; 10 classes, or 100 for weiaicunzai's
    "cifar_densenet121": 6_956_298,
    "cifar_densenet161": 26_482_378,
    "cifar_senet18": 11_260_354,
    "preactresnet34": 21_279_306,
    "preactresnet50": 23_509_066,
    "preactresnet101": 42_501_194,
    "cifar_googlenet": 6_166_250,
    "cifar_shufflenet_v2_x0_5": 352_042,
    "cifar_shufflenet_v2_x1_0": 1_263_854,
    "cifar_shufflenet_v2_x1_5": 2_488_874,
    "cifar_shufflenet_v2_x2_0": 5_338_026,
    "cifar_shufflenet_g2": 887_582,
    "cifar_shufflenet_g3": 862_768,
    "cifar_efficientnet_b0": 3_599_686,
    "cifar_regnetx_200mf": 2_321_946,
    "cifar_regnetx_400mf": 4_779_338,
    "cifar_regnety_400mf": 5_714_362,
    "cifar_dla": 16_291_386,
    "cifar_simple_dla": 15_142_970,
    "cifar_dpn26": 11_574_842,
    "cifar_dpn92": 34_236_634,
    "cifar_resnext29_2x64d": 9_128_778,
    "cifar_resnext29_4x64d": 27_104_586,
    "cifar_resnext29_8x64d": 89_598_282,
    "cifar_resnext29_32x4d": 4_774_218,
    "cifar_mobilenet": 3_217_226,
    "cifar_pnasnet_a": 130_646,
    "cifar_pnasnet_b": 451_626,
    "weiaicunzai_resnet18": 11_220_132,
    "weiaicunzai_resnet50": 23_705_252,
    "weiaicunzai_seresnet18": 11_314_012,
    "weiaicunzai_seresnet50": 26_262_804,
    "weiaicunzai_resnext50": 14_788_772,
    "weiaicunzai_resnext101": 25_303_204,
    "weiaicunzai_preactresnet18": 11_222_244,
    "weiaicunzai_preactresnet50": 23_720_164,
    "weiaicunzai_wrn40": 55_914_020,
    "weiaicunzai_mobilenet": 3_315_428,
    "weiaicunzai_shufflenet": 1_012_108,
    "weiaicunzai_shufflenet_v2": 1_360_896,
    "weiaicunzai_mobilenet_v2": 2_369_380,
    "weiaicunzai_squeezenet": 781_156,
    "weiaicunzai_xception": 21_013_988,
    "weiaicunzai_googlenet": 6_402_564,
    "weiaicunzai_densenet121": 7_048_548,
    "bearpaw_preresnet110": 1_730_522,
    "bearpaw_preresnet110_bottleneck": 1_146_842,
    "bearpaw_densenet100": 769_162,
    "bearpaw_densenet190": 25_624_430,
}


FAST = ("regnet", "senet", "densenet", "shufflenet", "shufflenet_v2", "efficientnet", "dla", "dpn", "pnasnet_b")
FAST += ("w_mobilenet_v2", "w_squeezenet", "w_xception", "googlenet", "w_resnext", "w_seresnet", "w_wrn", "b_densenet")
EVERY = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in TINY]


@pytest.fixture(autouse=True)
def tiny_designs():
    with register():
        yield


@pytest.mark.parametrize("name", EVERY)
def test_a_tiny_network_computes_what_torch_computes(name):
    module, network, variables = loaded(name)
    assert network.architecture.name == f"tiny_{name}"
    check_parity(module, network, variables)
    check_round_trip(copy_of(module), network, variables)
    assert {site.layer for site in network.sites} == {*masks.filters(variables["masks"])}


@pytest.mark.parametrize("name", TINY)
def test_sites_are_in_the_order_in_which_torch_runs_them(name):
    tiny = TINY[name]
    module = tiny.build().eval()
    order: list[str] = []
    for layer, each in module.named_modules():
        each.register_forward_hook(lambda *_, layer=layer: order.append(layer))
    module(torch.zeros(1, 3, tiny.side, tiny.side))
    network = network_of(name, module.state_dict()[tiny.design.base or ""].shape[0])
    sites = [site.layer for site in network.sites]
    assert sites == sorted(sites, key=order.index)


@pytest.mark.parametrize("name", ["dpn", "senet", "w_wrn"])
def test_sites_name_what_feeds_them(name):
    """Here one convolution, several whose outputs are added, or none that is scored with a norm."""
    _, network, variables = loaded(name)
    check_sites(network, variables, pooled=tuple(site.layer for site in network.sites))


@pytest.mark.parametrize("name", ["regnet", "shufflenet"])
def test_what_is_pruned_is_exported_as_it_acts(name):
    module, network, variables = loaded(name)
    check_pruning(copy_of(module), network, variables)
    check_training_step(network, variables)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["regnet", "senet", "densenet", "shufflenet", "dla", "dpn", "w_wrn"])
def test_defenses_run(name):
    """Where layers are so narrow that one is dead on random weights, relative radii have no scale: these have none."""
    check_defenses(*loaded(name)[1:])


def test_everything_of_the_zoos_is_here():
    modules = (cifar_bottlenecks, cifar_densenet, cifar_dla, cifar_dpn, cifar_efficientnet, cifar_googlenet)
    modules += (cifar_mobilenet, cifar_pnasnet, cifar_preactresnet, cifar_residual, cifar_shufflenet)
    modules += (cifar_squeezenet, cifar_xception)
    assert {*PUBLISHED} == {name for module in modules for name in module.DESIGNS}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_network_is_recognised(name):
    with torch.device("meta"):
        module = PUBLISHED[name]()
    shapes = shapes_of(module)
    assert recognised(shapes) == [name]
    assert shapes[DESIGNS[name].base or ""][0] == DESIGNS[name].width
    if name in PARAMETERS:
        assert sum(leaf.numel() for leaf in module.parameters()) == PARAMETERS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar_densenet121", "cifar_googlenet", "cifar_pnasnet_b", "weiaicunzai_seresnet50"])
def test_the_published_sizes_compute_what_torch_computes(name):
    torch.manual_seed(0)
    module = randomize(PUBLISHED[name]())
    network, variables = load(module)
    check_parity(module, network, variables)
    check_round_trip(module, network, variables)
