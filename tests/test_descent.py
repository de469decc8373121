import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from rnp_jax.descent import descend


def test_adam_is_torch_s_and_keeps_to_strict_promotion():
    weights = torch.nn.Parameter(torch.ones(3))
    theirs, tx, ours = torch.optim.Adam([weights], lr=0.1), optax.adam(0.1), {"w": jnp.ones(3)}
    state = tx.init(ours)
    for gradient in ([1.0, -2.0, 0.0], [0.5, 3.0, 0.0]):
        weights.grad = torch.tensor(gradient)
        theirs.step()
        ours, state = descend(tx, {"w": jnp.asarray(gradient)}, state, ours)
        np.testing.assert_allclose(ours["w"], weights.detach(), rtol=1e-5)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, 2 * x), lambda x: {"a": {"b": x}}])
def test_an_array_or_any_tree_of_arrays_descends(wrap):
    tx = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1))  # reads the parameters
    params = wrap(jnp.full(2, 4.0))
    moved, _ = descend(tx, wrap(jnp.asarray([1.0, 0.0])), tx.init(params), params)
    expected = wrap(np.asarray([3.7, 3.8]))
    assert jax.tree.structure(moved) == jax.tree.structure(params)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6), moved, expected)
