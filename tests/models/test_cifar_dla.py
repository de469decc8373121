"""kuangliu's DLA and its simple version against torch."""

import pytest

from rnp_jax.models import cifar_dla
from tests.zoo import Zoo, check_defended

PARAMETERS = {
    "cifar_dla": 16_291_386,
    "cifar_simple_dla": 15_142_970,
}


class TestZoo(Zoo):
    module = cifar_dla
    tiny = ("dla",)
    tiny_and_slow = ("simple_dla",)
    parameters = PARAMETERS

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["dla"])
    def test_defenses_run(self, name):
        check_defended(name)
