"""torchvision's ShuffleNetV2 against torch, and with chenyaofo's strides."""

import pytest
import torch

from rnp_jax.errors import AmbiguousError
from rnp_jax.models import Architecture
from rnp_jax.models.inference import infer_architecture
from rnp_jax.models.shufflenet_v2 import DESIGNS
from tests import parity
from tests.oracle.vision import torchvision_models
from tests.oracle.zoos import chenyaofo_shufflenet_v2


@pytest.mark.parametrize("name", [name for name in DESIGNS if not name.startswith("chenyaofo")])
def test_published_keys_and_shapes_are_recognised(name):
    with torch.device("meta"):
        shapes = parity.shapes_of(torchvision_models().get_model(name, num_classes=5))
    large = (224, 224, 3)
    assert infer_architecture(shapes, image_shape=large) == Architecture(name, 5, 24, image_shape=large)
    with pytest.raises(AmbiguousError) as caught:
        infer_architecture(shapes)
    assert caught.value.candidates == (f"chenyaofo_{name}", name)


def test_every_layer_computes_what_torch_computes():
    torch.manual_seed(0)
    module = parity.randomize(torchvision_models().shufflenet_v2_x0_5(num_classes=5))
    network, variables = parity.load(module, "shufflenet_v2_x0_5", image_shape=(40, 36, 3))
    parity.check_parity(module, network, variables)
    parity.check_round_trip(module, network, variables)


def test_the_strides_for_cifar_are_computed():
    torch.manual_seed(0)
    module = parity.randomize(chenyaofo_shufflenet_v2("x0_5"))
    network, variables = parity.load(module, "chenyaofo_shufflenet_v2_x0_5", image_shape=(12, 12, 3))
    parity.check_parity(module, network, variables)
