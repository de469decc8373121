"""kuangliu's ResNeXts and RegNets against torch."""

import pytest

from rnp_jax.models import cifar_bottlenecks
from tests.zoo import Zoo, check_defended, check_export

PARAMETERS = {
    "cifar_regnetx_200mf": 2_321_946,
    "cifar_regnetx_400mf": 4_779_338,
    "cifar_regnety_400mf": 5_714_362,
    "cifar_resnext29_2x64d": 9_128_778,
    "cifar_resnext29_4x64d": 27_104_586,
    "cifar_resnext29_8x64d": 89_598_282,
    "cifar_resnext29_32x4d": 4_774_218,
}


class TestZoo(Zoo):
    module = cifar_bottlenecks
    tiny = ("regnet",)
    tiny_and_slow = ("resnext",)
    parameters = PARAMETERS

    @pytest.mark.parametrize("name", ["regnet"])
    def test_what_is_pruned_is_exported_as_it_acts(self, name):
        check_export(name)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["regnet"])
    def test_defenses_run(self, name):
        check_defended(name)
