"""torchvision's GoogLeNet against torch."""

import pytest
import torch

from rnp_jax.models import Architecture, Network
from rnp_jax.models.inference import infer_architecture
from tests import parity
from tests.oracle.vision import torchvision_models
from tests.oracle.zoos import huyvnphan_googlenet


def build(*, aux: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    return torchvision_models().googlenet(num_classes=5, aux_logits=aux, init_weights=False)


def test_every_layer_computes_what_torch_computes():
    module = parity.randomize(build(aux=False))
    network, variables = parity.load(module, image_shape=(40, 36, 3))
    assert network.architecture == Architecture("googlenet", 5, 64, image_shape=(40, 36, 3))
    parity.check_parity(module, network, variables)
    parity.check_round_trip(module, network, variables)


@pytest.mark.parametrize("aux", [False, True])
def test_auxiliary_classifiers_are_not_read(aux):
    with torch.device("meta"):
        found = infer_architecture(parity.shapes_of(build(aux=aux)))
    assert found == Architecture("googlenet", 5, 64, image_shape=(224, 224, 3))


def test_huyvnphan_s_network_for_small_images_is_recognised():
    with torch.device("meta"):
        found = infer_architecture(parity.shapes_of(huyvnphan_googlenet()))
    assert found == Architecture("huyvnphan_googlenet", 10, 192, image_shape=(32, 32, 3))


@pytest.mark.slow
def test_huyvnphan_s_network_computes_what_torch_computes():
    torch.manual_seed(0)
    module = parity.randomize(huyvnphan_googlenet())
    network, variables = parity.load(module, image_shape=(10, 12, 3))
    parity.check_parity(module, network, variables)


def test_sites_are_in_forward_order():
    sites = [site.layer for site in Network(Architecture("googlenet", 3, 4)).sites]
    assert sites[3:6] == [f"inception3a.{each}.bn" for each in ("branch1", "branch2.0", "branch2.1")]
    assert len(sites) == len(set(sites)) == 57
