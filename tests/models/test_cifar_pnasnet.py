"""kuangliu's PNASNets against torch."""

import pytest

from rnp_jax.models import cifar_pnasnet
from tests.zoo import Zoo, check_published

PARAMETERS = {
    "cifar_pnasnet_a": 130_646,
    "cifar_pnasnet_b": 451_626,
}


class TestZoo(Zoo):
    module = cifar_pnasnet
    tiny = ("pnasnet_b",)
    tiny_and_slow = ("pnasnet_a",)
    parameters = PARAMETERS

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["cifar_pnasnet_b"])
    def test_the_published_size_computes_what_torch_computes(self, name):
        check_published(name)
