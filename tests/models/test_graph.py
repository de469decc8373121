"""What parts ask a graph for, in which order."""

import pytest

from rnp_jax.models.graph import Layer
from rnp_jax.models.tracing_graph import trace


def told(part) -> list[tuple]:
    """The sites of a part on three channels: name, what feeds it, activation."""
    return [(site.layer, site.producers, site.activation) for site in trace((("", part),), 3).sites]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Layer("conv", "norm", 4), [("conv", ("conv",), None), ("norm", ("conv",), "relu")]),
        (Layer("conv", None, 4, activation="elu"), [("conv", ("conv",), "elu")]),
        (Layer("conv", "norm", 4, activation=None), [("conv", ("conv",), None), ("norm", ("conv",), None)]),
    ],
)
def test_a_unit_is_a_convolution_its_norm_and_its_activation(layer, expected):
    assert told(lambda g, x: g.unit(x, layer)) == expected


@pytest.mark.parametrize("activation", ["relu", None])
def test_a_preactivated_layer_begins_with_its_norm(activation):
    layer = Layer("conv", "norm", 4, activation=activation)
    assert told(lambda g, x: g.preactivated(x, layer)) == [("norm", (), activation), ("conv", ("conv",), None)]
