"""kuangliu's EfficientNet-B0 against torch."""

from rnp_jax.models import cifar_efficientnet
from tests.zoo import Zoo

PARAMETERS = {
    "cifar_efficientnet_b0": 3_599_686,
}


class TestZoo(Zoo):
    module = cifar_efficientnet
    tiny = ("efficientnet",)
    parameters = PARAMETERS
