"""weiaicunzai's Xception against torch."""

from rnp_jax.models import cifar_xception
from tests.zoo import Zoo

PARAMETERS = {
    "weiaicunzai_xception": 21_013_988,
}


class TestZoo(Zoo):
    module = cifar_xception
    tiny = ("w_xception",)
    parameters = PARAMETERS
