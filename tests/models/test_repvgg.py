"""RepVGG against torch, with its authors' strides and with chenyaofo's."""

import pytest
import torch

from rnp_jax.errors import AmbiguousError
from rnp_jax.models.inference import infer_architecture
from rnp_jax.models.repvgg import PLANS, Plan, design
from tests import parity
from tests.oracle.other_zoos import repvgg

TINY = Plan((1, 2, 1), (8, 12, 20))
PARAMETERS = {"repvgg_a0": 7_840_874, "repvgg_a1": 12_824_202, "repvgg_a2": 26_815_690}  # chenyaofo's


@pytest.fixture(autouse=True)
def tiny_designs():
    tiny = {
        f"tiny{'_small' * small}{'_deploy' * deploy}": design(TINY, small=small, deploy=deploy)
        for small in (False, True)
        for deploy in (False, True)
    }
    with parity.registered(**tiny):
        yield


@pytest.mark.parametrize(
    ("name", "strides"), [("tiny", (2, 2, 2)), ("tiny_small", (1, 1, 2)), ("tiny_small_deploy", (1, 1, 2))]
)
def test_every_layer_computes_what_torch_computes(name, strides):
    torch.manual_seed(0)
    module = parity.randomize(repvgg(*TINY, strides, name.endswith("deploy")))
    network, variables = parity.load(module, name, image_shape=(12, 12, 3))
    parity.check_parity(module, network, variables)
    parity.check_round_trip(module, network, variables)
    kind = "rbr_reparam" if name.endswith("deploy") else "bn"
    assert {site.layer.rpartition(".")[2] for site in network.sites} <= {kind, "rbr_identity"}
    assert network.sites


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_networks_are_recognised(name):
    with torch.device("meta"):
        module = repvgg(*PLANS[name])
    assert sum(leaf.numel() for leaf in module.parameters()) == PARAMETERS[name]
    shapes = parity.shapes_of(module)
    if name != "repvgg_a2":  # the stride of the second stage is 1, so its first block adds its input
        assert parity.recognised(shapes) == [f"chenyaofo_{name}"]
        return
    with pytest.raises(AmbiguousError) as caught:
        infer_architecture(shapes)
    assert caught.value.candidates == (f"chenyaofo_{name}", name)
    assert infer_architecture(shapes, image_shape=(224, 224, 3)).name == name
