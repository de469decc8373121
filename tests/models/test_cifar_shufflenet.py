"""Two zoos' ShuffleNets against torch."""

import pytest

from rnp_jax.models import cifar_shufflenet
from tests.zoo import Zoo, check_defended, check_export

PARAMETERS = {
    "cifar_shufflenet_v2_x0_5": 352_042,
    "cifar_shufflenet_v2_x1_0": 1_263_854,
    "cifar_shufflenet_v2_x1_5": 2_488_874,
    "cifar_shufflenet_v2_x2_0": 5_338_026,
    "cifar_shufflenet_g2": 887_582,
    "cifar_shufflenet_g3": 862_768,
    "weiaicunzai_shufflenet": 1_012_108,
    "weiaicunzai_shufflenet_v2": 1_360_896,
}


class TestZoo(Zoo):
    module = cifar_shufflenet
    tiny = ("shufflenet", "shufflenet_v2")
    tiny_and_slow = ("w_shufflenet", "w_shufflenet_v2")
    parameters = PARAMETERS

    @pytest.mark.parametrize("name", ["shufflenet"])
    def test_what_is_pruned_is_exported_as_it_acts(self, name):
        check_export(name)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["shufflenet"])
    def test_defenses_run(self, name):
        check_defended(name)
