"""A network run segment by segment is the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.checkpoints import from_state_dict
from rnp_jax.defenses.stages import find_stages, run_segments
from rnp_jax.errors import DefenseError
from tests.networks import build_random, images_for, network_of, state_of


@pytest.mark.parametrize("name", ["resnet18", "preactresnet18", "mlp"])
@pytest.mark.parametrize("train", [False, True])
def test_logits_and_statistics_are_the_network_s(name, train):
    network = network_of(name)
    variables = from_state_dict(network, state_of(build_random(name)))
    images = jnp.asarray(images_for(name, 4))
    logits, outputs, moved = run_segments(network, variables, images, train=train)
    expected, expected_moved = network(variables, images, train=train)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert jax.tree.structure(moved) == jax.tree.structure(expected_moved)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6), moved, expected_moved)
    assert len(outputs) == len(network.segments)


def test_stages_end_where_the_maps_shrink():
    network = network_of("resnet18")
    variables = from_state_dict(network, state_of(build_random("resnet18")))
    stages = find_stages(network, variables)
    assert [network.segments[i].layers for i in stages] == [(f"layer{stage}.1",) for stage in (1, 2, 3, 4)]
    outputs = network.activations(variables, jnp.asarray(images_for("resnet18")))
    found = run_segments(network, variables, jnp.asarray(images_for("resnet18")))[1]
    for i in stages:
        (name,) = network.segments[i].layers
        np.testing.assert_allclose(found[i], outputs[name], rtol=1e-5, atol=1e-5)


def test_a_network_without_maps(features):
    with pytest.raises(DefenseError, match="mlp has no feature maps"):
        find_stages(features.network, features.variables)
