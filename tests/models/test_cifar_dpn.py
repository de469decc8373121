"""kuangliu's DPNs against torch."""

import pytest

from rnp_jax.models import cifar_dpn
from tests.zoo import Zoo, check_defended, check_feeding

PARAMETERS = {
    "cifar_dpn26": 11_574_842,
    "cifar_dpn92": 34_236_634,
}


class TestZoo(Zoo):
    module = cifar_dpn
    tiny = ("dpn",)
    parameters = PARAMETERS

    @pytest.mark.parametrize("name", ["dpn"])
    def test_sites_name_what_feeds_them(self, name):
        check_feeding(name)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["dpn"])
    def test_defenses_run(self, name):
        check_defended(name)
