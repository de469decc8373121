"""Two zoos' MobileNets, and weiaicunzai's MobileNetV2 against torch."""

from rnp_jax.models import cifar_mobilenet
from tests.zoo import Zoo

PARAMETERS = {
    "cifar_mobilenet": 3_217_226,
    "weiaicunzai_mobilenet": 3_315_428,
    "weiaicunzai_mobilenet_v2": 2_369_380,
}


class TestZoo(Zoo):
    module = cifar_mobilenet
    tiny = ("w_mobilenet_v2",)
    tiny_and_slow = ("mobilenet", "w_mobilenet")
    parameters = PARAMETERS
