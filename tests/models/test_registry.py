"""Architectures by name."""

import pytest

from rnp_jax.errors import ConfigError
from rnp_jax.models import ARCHITECTURES, Architecture, Network, resnet
from rnp_jax.models.registry import DESIGNS
from tests.networks import DEEP, SHALLOW


def test_every_architecture_is_tested():
    """Those of residual networks and heads here, each of the others in its own file."""
    assert {*SHALLOW, *DEEP} == {*resnet.DESIGNS, "mlp"}
    assert {*resnet.DESIGNS, "mlp"} <= {*ARCHITECTURES}


@pytest.mark.parametrize("name", DESIGNS)
def test_the_head_is_the_layer_that_gives_the_number_of_classes(name):
    design = DESIGNS[name]
    side = 224 if callable(design.image_side) else design.image_side
    network = Network(Architecture(name, 5, design.width, image_shape=(side, side, 3)))
    assert f"{network.head}.weight" == design.head
    assert network.segments[-1].layers == (network.head,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vgg", "num_classes": 10}, "unknown architecture 'vgg'; did you mean vgg19 or"),
        ({"name": "resnet18", "num_classes": 1}, "num_classes is 1, expected an integer between 2 and 100000"),
        ({"name": "resnet18", "num_classes": 10, "width": 0}, "width is 0, expected"),
        ({"name": "resnet18", "num_classes": 10, "width": 2**40}, "width is 1099511627776, expected"),
        ({"name": "resnet18", "num_classes": 10, "image_shape": (-1, -1, 3)}, "each a positive integer"),
        ({"name": "resnet18", "num_classes": 10, "image_shape": (10**6, 32, 3)}, "sides up to 4096"),
        ({"name": "mlp", "num_classes": 10}, "its layers"),
        ({"name": "mlp", "num_classes": 10, "layers": (("0", 0), ("1", 10))}, "each of 1 unit or more"),
        ({"name": "mlp", "num_classes": 10, "layers": (("0", 10),) * 101}, "an mlp of 101 layers: .* 1 to 100"),
    ],
)
def test_impossible_architectures(options, message):
    with pytest.raises(ConfigError, match=message):
        Architecture(**options)
