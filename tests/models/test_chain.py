import jax
import jax.numpy as jnp
import pytest

from rnp_jax import masks
from rnp_jax.models.chain import Chain, Segment
from tests.networks import SHALLOW, network_of


@pytest.mark.parametrize("name", SHALLOW)
def test_every_variable_lies_in_exactly_one_segment(name):
    network = network_of(name)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    selected = [segment.select(variables) for segment in network.segments]
    assert sum(len(jax.tree.leaves(part)) for part in selected) == len(jax.tree.leaves(variables))
    for layer, _ in masks.layers(variables["masks"]):
        assert sum(segment.holds(layer) for segment in network.segments) == 1, layer


def test_a_segment_holds_layers_by_whole_names():
    segment = Segment(("layer3.1",), Chain(parent=None), nested=True)
    assert segment.holds("layer3.1")
    assert segment.holds("layer3.1.bn1")
    assert not segment.holds("layer3.10.bn1")


def test_selection_below_a_name_and_beside_it():
    variables = {"params": {"a": {"x": {"kernel": 1}}, "b": {"kernel": 2}}, "masks": {"a": {"x": {"neuron": 3}}}}
    module = Chain(parent=None)
    nested, beside = Segment(("a",), module, nested=True), Segment(("b", "c"), module, nested=False)
    assert nested.select(variables) == {"params": {"x": {"kernel": 1}}, "masks": {"x": {"neuron": 3}}}
    assert beside.select(variables) == {"params": {"b": {"kernel": 2}}, "masks": {}}


def test_a_bare_chain_is_no_architecture():
    with pytest.raises(TypeError, match="Chain is not an architecture"):
        Chain().apply({}, jnp.zeros((1, 2, 2, 3)))
