import pytest

from rnp_jax.errors import ConfigError
from rnp_jax.torch_io import Limits


def test_the_defaults_hold_the_largest_supported_network():
    vgg19_bytes = 575 * 10**6
    assert Limits().materialised_bytes > 2 * vgg19_bytes
    assert Limits().file_bytes >= Limits().materialised_bytes


@pytest.mark.parametrize("bound", [{"depth": -1}, {"depth": 201}, {"integer_bytes": 256}, {"rank": -1}, {"rank": 65}])
def test_impossible_bounds(bound):
    with pytest.raises(ConfigError, match=f"Limits.{next(iter(bound))} is {next(iter(bound.values()))}; give a number"):
        Limits(**bound)
