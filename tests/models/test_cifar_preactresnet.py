"""Four zoos' networks whose blocks begin with batch norm against torch."""

import pytest

from rnp_jax.models import cifar_preactresnet
from tests.zoo import Zoo, check_defended, check_feeding

PARAMETERS = {
    "cifar_senet18": 11_260_354,
    "preactresnet34": 21_279_306,
    "preactresnet50": 23_509_066,
    "preactresnet101": 42_501_194,
    "weiaicunzai_preactresnet18": 11_222_244,
    "weiaicunzai_preactresnet50": 23_720_164,
    "weiaicunzai_wrn40": 55_914_020,
    "bearpaw_preresnet110": 1_730_522,
    "bearpaw_preresnet110_bottleneck": 1_146_842,
}


class TestZoo(Zoo):
    module = cifar_preactresnet
    tiny = ("senet", "w_wrn")
    tiny_and_slow = ("preact", "w_preact", "meliketoy", "b_preresnet")
    parameters = PARAMETERS

    @pytest.mark.parametrize("name", ["senet", "w_wrn"])
    def test_sites_name_what_feeds_them(self, name):
        check_feeding(name)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["senet", "w_wrn"])
    def test_defenses_run(self, name):
        check_defended(name)
