import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.models.chain import Chain, Segment
from tests.networks import SHALLOW, images_for, network_of


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


@pytest.mark.parametrize(
    "name",
    ["resnet18", "preactresnet18", "mlp", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet34", "resnet50"))],
)
def test_sites_are_the_maskable_layers_and_name_what_feeds_them(name):
    """Each site's input is what its producers give, added up (where no identity shortcut adds to it)."""
    network, images = network_of(name), images_for(name)
    variables = network.init(jax.random.key(0))
    outputs, inputs = network.activations(variables, images), network.inputs(variables, images)
    assert {site.layer for site in network.sites} == set(masks.filters(variables["masks"]))
    for site in network.sites:
        if site.producers != (site.layer,):
            given = sum(outputs[producer] for producer in site.producers)
            np.testing.assert_allclose(inputs[site.layer], given, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SHALLOW)
def test_rectified_sites_feed_a_relu(name):
    """What the next layer reads is the site's output without its negative part, and for the others it is not."""
    network, images = network_of(name), images_for(name)
    variables = network.init(jax.random.key(0))
    outputs, inputs = network.activations(variables, images), network.inputs(variables, images)
    for site in network.sites:
        readers = [value for value in inputs.values() if value.shape == outputs[site.layer].shape]
        read = any(np.allclose(jax.nn.relu(outputs[site.layer]), value) for value in readers)
        if (
            name == "mlp"
        ):  # its linear layers' own outputs come before the ReLU, and the last has no reader of its shape
            assert site.activation == "relu"
        else:
            assert read == (site.activation == "relu"), site


@pytest.mark.parametrize("name", SHALLOW)
def test_the_last_layer_classifies_the_features(name):
    network, images = network_of(name), images_for(name)
    variables = network.init(jax.random.key(0))
    (last,) = network.segments[-1].layers
    for train in (False, True):
        features, moved = network.features(variables, images, train=train)
        logits, moved_by_call = network(variables, images, train=train)
        layer = variables["params"][last]
        np.testing.assert_allclose(features @ layer["kernel"] + layer["bias"][None], logits, rtol=1e-5, atol=1e-5)
        assert jax.tree.all(jax.tree.map(np.array_equal, moved, moved_by_call))
