import jax
import jax.numpy as jnp

from rnp_jax import masks
from rnp_jax.models import Architecture, Network
from tests.networks import network_of


def test_hidden_units_are_maskable_and_the_logits_are_not():
    network = network_of("mlp")
    variables = jax.eval_shape(network.init, jax.random.key(0))
    assert {name: leaf.shape for name, leaf in masks.filters(variables["masks"]).items()} == {"0": (7,), "2": (6,)}
    assert [name for name, _ in masks.layers(variables["masks"])] == ["0", "2", "4"]
    assert variables["batch_stats"] == {}


def test_one_linear_layer_has_nothing_to_mask():
    network = Network(Architecture("mlp", 3, 0, (("fc", 3),), (1, 1, 8)), (0.0,) * 8, (1.0,) * 8)
    variables = network.init(jax.random.key(0))
    assert masks.filters(variables["masks"]) == {}
    params = {"fc": {"kernel": jnp.eye(8, 3), "bias": jnp.array([0.0, 0.0, 1.0])}}
    features = jnp.arange(8.0).reshape(1, 1, 1, 8)
    logits, _ = network({**variables, "params": params}, features)
    assert logits.tolist() == [[0, 1, 3]]
