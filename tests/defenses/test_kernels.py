"""Which weights are filters, and replacing some of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.defenses.kernels import filter_kernels, is_shortcut, with_leaves
from rnp_jax.errors import DefenseError
from rnp_jax.models import Architecture, Network

KEY = jax.random.key(0)


def test_convolutions_are_filters_and_linear_layers_beside_them_are_not():
    network = Network(Architecture("wanet_mnist", 3, 2, image_shape=(28, 28, 1)), (0.5,), (0.3,))
    variables = network.init(KEY)
    found = filter_kernels(network, variables)
    assert {name: kernel.shape for name, kernel in found.items()} == {
        "conv1": (3, 3, 1, 2), "layer2.conv1": (3, 3, 2, 4), "layer3.conv1": (3, 3, 4, 4),
    }  # fmt: skip
    assert found["conv1"] is variables["params"]["conv1"]["kernel"]


def test_shortcuts_are_known_by_their_names():
    network = Network(Architecture("resnet18", 3, 2))
    shapes = jax.eval_shape(network.init, KEY)
    found = [name for name in filter_kernels(network, shapes) if is_shortcut(name)]
    assert found == ["layer2.0.shortcut.0", "layer3.0.shortcut.0", "layer4.0.shortcut.0"]
    assert is_shortcut("features.layer2.0.downsample.0")
    assert not is_shortcut("downsampler.conv1")


def test_hidden_layers_are_filters_where_there_is_no_convolution(features):
    found = filter_kernels(features.network, features.variables)
    assert {name: kernel.shape for name, kernel in found.items()} == {"0": (6, 16), "2": (16, 8)}


def test_a_network_of_one_layer_has_no_filters():
    network = Network(Architecture("mlp", 3, 0, (("fc", 3),), (1, 1, 6)), (0.0,) * 6, (1.0,) * 6)
    with pytest.raises(DefenseError, match="mlp has no filters: expected a network with convolutions or hidden layers"):
        filter_kernels(network, network.init(KEY))


def test_leaves_are_replaced_by_name_and_all_others_kept():
    params = {"a": {"0": {"kernel": jnp.ones(2), "bias": jnp.ones(1)}}, "b": {"kernel": jnp.ones(3)}}
    found = with_leaves(params, {"a.0": {"kernel": jnp.zeros(2)}})
    np.testing.assert_array_equal(found["a"]["0"]["kernel"], [0, 0])
    assert found["a"]["0"]["bias"] is params["a"]["0"]["bias"]
    assert found["b"]["kernel"] is params["b"]["kernel"]
    np.testing.assert_array_equal(params["a"]["0"]["kernel"], [1, 1])
