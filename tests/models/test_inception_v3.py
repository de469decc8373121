"""torchvision's Inception v3 against torch."""

import pytest
import torch
from torch import nn

from rnp_jax.models import Architecture
from rnp_jax.models.inference import infer_architecture
from tests import parity
from tests.oracle.vision import torchvision_models
from tests.oracle.zoos import huyvnphan_inception_v3


def build(*, aux: bool) -> nn.Module:
    torch.manual_seed(0)
    return torchvision_models().inception_v3(num_classes=5, aux_logits=aux, init_weights=False)


@pytest.mark.parametrize("aux", [False, True])
def test_the_auxiliary_classifier_is_not_read(aux):
    with torch.device("meta"):
        found = infer_architecture(parity.shapes_of(build(aux=aux)))
    assert found == Architecture("inception_v3", 5, 32, image_shape=(299, 299, 3))


def test_every_layer_computes_what_torch_computes():
    module = parity.randomize(build(aux=False))
    network, variables = parity.load(module, image_shape=(79, 75, 3))
    parity.check_parity(module, network, variables)
    parity.check_round_trip(module, network, variables)


def test_huyvnphan_s_network_for_small_images_is_recognised():
    with torch.device("meta"):
        found = infer_architecture(parity.shapes_of(huyvnphan_inception_v3()))
    assert found == Architecture("huyvnphan_inception_v3", 10, 192, image_shape=(32, 32, 3))


@pytest.mark.slow
def test_huyvnphan_s_network_computes_what_torch_computes():
    torch.manual_seed(0)
    module = parity.randomize(huyvnphan_inception_v3())
    network, variables = parity.load(module, image_shape=(9, 11, 3))
    parity.check_parity(module, network, variables)
