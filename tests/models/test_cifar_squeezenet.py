"""weiaicunzai's SqueezeNet against torch."""

from rnp_jax.models import cifar_squeezenet
from tests.zoo import Zoo

PARAMETERS = {
    "weiaicunzai_squeezenet": 781_156,
}


class TestZoo(Zoo):
    module = cifar_squeezenet
    tiny = ("w_squeezenet",)
    parameters = PARAMETERS
