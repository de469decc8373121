"""Three zoos' DenseNets against torch."""

import pytest

from rnp_jax.models import cifar_densenet
from tests.zoo import Zoo, check_defended, check_published

PARAMETERS = {
    "cifar_densenet121": 6_956_298,
    "cifar_densenet161": 26_482_378,
    "weiaicunzai_densenet121": 7_048_548,
    "bearpaw_densenet100": 769_162,
    "bearpaw_densenet190": 25_624_430,
}


class TestZoo(Zoo):
    module = cifar_densenet
    tiny = ("densenet", "b_densenet")
    tiny_and_slow = ("w_densenet",)
    parameters = PARAMETERS

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["densenet"])
    def test_defenses_run(self, name):
        check_defended(name)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["cifar_densenet121"])
    def test_the_published_size_computes_what_torch_computes(self, name):
        check_published(name)
