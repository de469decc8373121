"""Two zoos' GoogLeNets against torch."""

import pytest

from rnp_jax.models import cifar_googlenet
from tests.zoo import Zoo, check_published

PARAMETERS = {
    "cifar_googlenet": 6_166_250,
    "weiaicunzai_googlenet": 6_402_564,
}


class TestZoo(Zoo):
    module = cifar_googlenet
    tiny = ("googlenet",)
    tiny_and_slow = ("w_googlenet",)
    parameters = PARAMETERS

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["cifar_googlenet"])
    def test_the_published_size_computes_what_torch_computes(self, name):
        check_published(name)
