"""The penalty and its slopes against torch's singular values, and what it does to a victim."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.adaptive.lipschitz import Lipschitz, excess, iterate_norms
from rnp_jax.defenses.clp import lipschitz_bounds
from rnp_jax.defenses.site_maps import find
from rnp_jax.errors import ConfigError
from rnp_jax.training.supervised import train_epoch
from tests.adaptive.runs import NORMED, equal, run
from tests.compiled import count_compiled


@pytest.mark.parametrize("shape", [(6, 20, 3, 3), (6, 2, 3, 3), (6, 5)])
def test_norms_and_their_slopes_are_torch_s(shape):
    weight = torch.tensor(np.random.default_rng(1).normal(size=shape), dtype=torch.float64, requires_grad=True)
    expected = torch.linalg.svdvals(weight.reshape(len(weight), weight.shape[1], -1))[:, 0]
    (expected * torch.arange(1.0, 7)).sum().backward()
    axes = (2, 3, 1, 0) if weight.ndim == 4 else (1, 0)
    kernel = jnp.asarray(weight.detach().numpy().transpose(axes), jnp.float32)
    np.testing.assert_allclose(iterate_norms(kernel), expected.detach(), rtol=1e-5)
    slope = jax.grad(lambda kernel: (iterate_norms(kernel) * jnp.arange(1.0, 7)).sum())(kernel)
    assert weight.grad is not None
    np.testing.assert_allclose(slope, weight.grad.numpy().transpose(axes), atol=2e-4)


def test_kernels_of_zeros_and_equal_scores_have_finite_slopes():
    kernel = jnp.zeros((3, 3, 2, 4))
    slope = jax.grad(lambda kernel: excess({"a": iterate_norms(kernel)}, 1.0))(kernel)
    np.testing.assert_array_equal(slope, 0)
    np.testing.assert_array_equal(iterate_norms(kernel), 0)


def test_the_penalty_is_what_stands_above_the_threshold():
    rows = {"a": jnp.asarray([1.0, 1, 1, 5]), "b": jnp.asarray([1.0, 2, 3]), "c": jnp.asarray([7.0])}
    assert excess(rows, 1.0) == pytest.approx(5 - 2 - 2)  # of b the highest is just at its threshold
    assert excess(rows, 2.0) == 0
    assert excess(rows, 0.0) == pytest.approx(3 + 1)


def test_the_penalty_of_a_network_and_its_slopes_are_torch_s():
    rng, shapes = np.random.default_rng(4), jax.eval_shape(NORMED.init, jax.random.key(0))
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(-1, 1, leaf.shape), jnp.float32), shapes)
    variables["batch_stats"] = jax.tree.map(jnp.square, variables["batch_stats"])

    @jax.jit
    @jax.value_and_grad
    def penalty(params):
        return excess(lipschitz_bounds(NORMED, {**variables, "params": params}, iterate_norms), 0.5)

    found, slope = penalty(variables["params"])
    params, total = (
        jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf), requires_grad=True), variables["params"]),
        0,
    )
    for site in NORMED.sites:
        (conv,) = site.producers
        kernel = find(params, conv)["kernel"]
        scores = (
            torch.linalg.svdvals(kernel.movedim(-1, 0).flatten(1, -2))[:, 0] if kernel.ndim == 4 else kernel.norm(dim=0)
        )
        if site.layer != conv:
            var = np.asarray(find(variables["batch_stats"], site.layer)["var"])
            scores = scores * find(params, site.layer)["scale"].abs() / torch.tensor(var).sqrt()
        total = total + torch.relu(scores.max() - scores.mean() - 0.5 * scores.std())
    total.backward()
    assert found == pytest.approx(total.item(), rel=1e-4)
    expected = jax.tree.map(lambda leaf: np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy(), params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), slope, expected)


def test_a_victim_has_less_of_it_and_numbers_share_a_program():
    weak, before = run(Lipschitz(weight=1e-6, u=0.5)), count_compiled(train_epoch)
    strong = run(Lipschitz(weight=0.5, u=0.5))
    assert count_compiled(train_epoch) == before
    assert strong.history["penalty"][-1] < weak.history["penalty"][-1]
    assert equal(run(Lipschitz(weight=0.5, u=0.5)).variables, strong.variables)


@pytest.mark.parametrize(("settings", "told"), [({"weight": -1.0}, "weight is -1.0"), ({"u": -2.0}, "u is -2.0")])
def test_impossible_settings(settings, told):
    with pytest.raises(ConfigError, match=told):
        Lipschitz(**settings)
