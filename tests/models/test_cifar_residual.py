"""weiaicunzai's ResNets, SE-ResNets and ResNeXts, and bearpaw's ResNeXts against torch."""

import pytest

from rnp_jax.models import cifar_residual
from tests.zoo import Zoo, check_published

PARAMETERS = {
    "weiaicunzai_resnet18": 11_220_132,
    "weiaicunzai_resnet50": 23_705_252,
    "weiaicunzai_seresnet18": 11_314_012,
    "weiaicunzai_seresnet50": 26_262_804,
    "weiaicunzai_resnext50": 14_788_772,
    "weiaicunzai_resnext101": 25_303_204,
}


class TestZoo(Zoo):
    module = cifar_residual
    tiny = ("w_resnext", "w_seresnet")
    tiny_and_slow = ("w_resnet", "b_resnext")
    parameters = PARAMETERS

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["weiaicunzai_seresnet50"])
    def test_the_published_size_computes_what_torch_computes(self, name):
        check_published(name)
