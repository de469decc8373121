"""I-BAU: the hypergradient against an exact inverse and against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax.checkpoints import from_state_dict, to_state_dict
from rnp_jax.defenses import IbauConfig, ibau
from rnp_jax.defenses.ibau import _run, hypergradient
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.networks import CLASSES, build_random, images_for, network_of, state_of
from tests.oracle import rnp

KEY = jax.random.key(0)


def test_the_hypergradient_is_that_of_the_exact_inverse():
    """Inner loss |Xδ - θ|²/2 + λ|δ|²/2, outer c·δ + |θ|²/2: dL/dθ = θ + X (XᵀX + λ)⁻¹ c."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3)).astype(np.float32)
    c, theta = rng.normal(size=3).astype(np.float32), rng.normal(size=4).astype(np.float32)
    hessian = x.T @ x + 0.5 * np.eye(3, dtype=np.float32)
    rate = float(1 / np.linalg.eigvalsh(hessian).max())
    best = np.linalg.solve(hessian, x.T @ theta)

    def inner(params, delta):
        return jnp.square(x @ delta - params).sum() / 2 + jnp.square(delta).sum() / 4

    def contract(params, delta):
        return delta - rate * jax.grad(inner, argnums=1)(params, delta)

    def outer(params, delta):
        return c @ delta + jnp.square(params).sum() / 2

    assert jnp.abs(contract(theta, best) - best).max() < 1e-5  # a fixed point
    found = [hypergradient(outer, contract, jnp.asarray(theta), jnp.asarray(best), steps) for steps in (1, 5, 400)]
    np.testing.assert_allclose(found[0], theta + rate * x @ c, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[2], theta + x @ np.linalg.solve(hessian, c), rtol=1e-3, atol=1e-4)
    exact = theta + x @ np.linalg.solve(hessian, c)
    assert np.linalg.norm(found[1] - exact) < np.linalg.norm(found[0] - exact)


def torch_round(module, adam, batches: list, config: IbauConfig) -> float:
    """One round, every image triggered; ``batches`` of flat normalised pixels, ``std`` brings δ there."""
    std = torch.tensor(rnp.STD).repeat_interleave(batches[0][0].shape[1] // 3)  # channels first
    delta = torch.zeros(batches[0][0].shape[1], requires_grad=True)

    def inner(x, y, delta):
        return config.penalty * delta.square().sum() - F.cross_entropy(module(x + delta / std), y)

    for number in range(config.inner_steps):
        x, _ = batches[number % len(batches)]
        (slope,) = torch.autograd.grad(inner(x, module(x).argmax(1), delta), delta)
        delta = (delta - config.inner_learning_rate * slope).detach().requires_grad_()
    parameters = list(module.parameters())
    for x, y in batches:
        loss = F.cross_entropy(module(x + delta / std), y)
        slope, *direct = torch.autograd.grad(loss, [delta, *parameters])
        (first,) = torch.autograd.grad(inner(*batches[0], delta), delta, create_graph=True)
        mapped = delta - config.fixed_point_rate * first
        series = torch.zeros_like(delta)
        for _ in range(config.fixed_point_steps):
            series = torch.autograd.grad(mapped, delta, series, retain_graph=True)[0] + slope
        implicit = torch.autograd.grad(mapped, parameters, series, allow_unused=True)
        for w, one, other in zip(parameters, direct, implicit, strict=True):
            w.grad = one if other is None else one + other
        adam.step()
    return float(torch.linalg.vector_norm(delta.detach()))


def test_weights_are_torch_s():
    module, network = build_random("mlp"), network_of("mlp")
    variables = from_state_dict(network, state_of(module))
    images, labels = images_for("mlp", 13), np.arange(13, dtype=np.int32) % CLASSES
    config = IbauConfig(rounds=2, batch_size=6, inner_steps=3, inner_learning_rate=0.5, portion=1.0, shuffle=False)
    found = ibau(network, variables, Batch(images, labels), KEY, config)
    batches = [(x.flatten(1), y) for x, y in rnp.make_batches(images, labels, 6)][:2]
    adam = torch.optim.Adam(module.parameters(), lr=1e-3)
    norms = [torch_round(module, adam, batches, config) for _ in range(2)]
    np.testing.assert_allclose(found.history["ibau"]["norm"], norms, rtol=1e-3)
    ours = to_state_dict(network, found.variables)
    for key, expected in state_of(module).items():
        np.testing.assert_allclose(ours[key], expected, rtol=1e-3, atol=1e-4, err_msg=key)
    assert found.kind == "weights"


def test_a_perturbation_is_found_and_the_penalty_bounds_it(features):
    """At the optimum δ balances 2λδ with a slope of the cross-entropy, which is bounded: ‖δ‖ falls with λ."""
    norms, accuracies = [], []
    for penalty in (1e-3, 1e-1, 10.0):
        config = IbauConfig(
            rounds=1, batch_size=48, inner_learning_rate=0.04, inner_steps=400, penalty=penalty, portion=1.0
        )
        found = ibau(features.network, features.variables, features.data, KEY, config, holdout=features.holdout)
        norms.append(float(found.history["ibau"]["norm"][0]))
        accuracies.append(float(found.history["ibau"]["accuracy"][0]))
    assert norms[0] > norms[1] > norms[2] > 0
    assert accuracies[0] <= 0.7  # all images misled as one: at most two of three classes are still right
    assert accuracies[2] > 0.9


def test_progress_changes_nothing_and_a_second_model_compiles_nothing(features):
    config = IbauConfig(rounds=2, batch_size=16, inner_steps=2)
    calls = []
    before = count_compiled(_run)
    shown = ibau(features.network, features.variables, features.data, KEY, config, progress=lambda *c: calls.append(c))
    ibau(features.network, features.variables, features.data, jax.random.key(1), config, progress=lambda *_: None)
    assert count_compiled(_run) - before == 1
    silent = ibau(features.network, features.variables, features.data, KEY, config)
    assert count_compiled(_run) - before == 2  # both rounds in one program
    assert [call[:3] for call in calls] == [("ibau", 1, 2), ("ibau", 2, 2)]
    for name, row in shown.history["ibau"].items():
        np.testing.assert_allclose(row, silent.history["ibau"][name], rtol=1e-5)


def test_fewer_images_than_a_batch(features):
    few = Batch(features.data.images[:5], features.data.labels[:5])
    found = ibau(features.network, features.variables, few, KEY, IbauConfig(rounds=1))
    assert found.history["ibau"]["loss"].shape == (1,)


def test_a_loss_that_diverges(features):
    params = jax.tree.map(lambda leaf: leaf * 1e30, features.variables["params"])
    with pytest.raises(DefenseError, match="I-BAU diverged"):
        ibau(features.network, {**features.variables, "params": params}, features.data, KEY, IbauConfig())


@pytest.mark.parametrize("options", [{"rounds": 0}, {"learning_rate": 0.0}, {"portion": 0.0}, {"penalty": -1.0}])
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected"):
        IbauConfig(**options)
