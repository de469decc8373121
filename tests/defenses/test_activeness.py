"""Activeness-aware fine-tuning: its gradient in closed form, its steps against torch."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax.defenses.activeness import ActiveTuneConfig, _run, mixed_gradient, tune_actively
from rnp_jax.errors import ConfigError
from tests.compiled import count_compiled
from tests.defenses.twin import TorchTwin, Twin, assert_same, torch_batches, twin_data, variables_of

KEY = jax.random.key(0)
QUICK = ActiveTuneConfig(epochs=2, batch_size=6, learning_rate=0.05, alpha=0.6, radius=0.3, shuffle=False)


def torch_steps(module: TorchTwin, batches: list, config: ActiveTuneConfig) -> None:
    """Both gradients leave the running statistics alone; a third pass, after the step, moves them."""
    optimizer = torch.optim.SGD(module.parameters(), lr=config.learning_rate, momentum=config.momentum)
    parameters = list(module.parameters())
    module.train()
    for x, y in batches:
        for norm in (module.bn1, module.bn2):
            norm.momentum = 0.0
        first = torch.autograd.grad(F.cross_entropy(module(x), y), parameters)
        before = [w.detach().clone() for w in parameters]
        with torch.no_grad():
            for w, slope in zip(parameters, first, strict=True):
                w += config.radius * slope / slope.norm()
        second = torch.autograd.grad(F.cross_entropy(module(x), y), parameters)
        with torch.no_grad():
            for w, old, one, other in zip(parameters, before, first, second, strict=True):
                w.copy_(old)
                w.grad = (1 - config.alpha) * one + config.alpha * other
        optimizer.step()
        for norm in (module.bn1, module.bn2):
            norm.momentum = 0.1
        module(x)


def test_weights_and_statistics_are_torch_s():
    module, data = TorchTwin(), twin_data()
    found, history = tune_actively(Twin(), variables_of(module), data, KEY, QUICK)
    torch_steps(module, torch_batches(data, 6) * 2, QUICK)
    assert_same(found, module)
    assert set(history) == {"loss", "accuracy"}
    assert history["loss"].shape == (2,)


@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"radius": 0.0}])
def test_without_weight_or_radius_it_is_plain_descent(options):
    module, data = TorchTwin(), twin_data()
    variables, batches = variables_of(module), torch_batches(data, 6) * 2
    found, _ = tune_actively(Twin(), variables, data, KEY, replace(QUICK, **options))
    optimizer = torch.optim.SGD(module.parameters(), lr=QUICK.learning_rate, momentum=QUICK.momentum)
    for x, y in batches:
        module.eval()
        module.train()
        module.bn1.momentum = module.bn2.momentum = 0.0
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()
        module.bn1.momentum = module.bn2.momentum = 0.1
        module(x)
    assert_same(found, module)


def test_the_gradient_of_a_quadratic_is_exact():
    """L = θᵀHθ/2: g = Hθ + α r HHθ / ‖Hθ‖."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(4, 4)).astype(np.float32)
    hessian, theta = half @ half.T, rng.normal(size=4).astype(np.float32)
    found, figures = mixed_gradient(
        lambda params: (params["w"] @ hessian @ params["w"] / 2, "figures"), {"w": jnp.asarray(theta)}, 0.7, 0.05
    )
    slope = hessian @ theta
    np.testing.assert_allclose(found["w"], slope + 0.7 * 0.05 * hessian @ slope / np.linalg.norm(slope), rtol=1e-5)
    assert figures == "figures"


def test_each_tensor_is_moved_by_the_radius_and_one_without_slope_stays():
    def loss(params):
        return jnp.square(params["a"]).sum() / 2 + jnp.square(params["b"]).sum() * 50, None

    params = {"a": jnp.array([3.0, 4.0]), "b": jnp.zeros(2), "c": jnp.ones(1)}
    found, _ = mixed_gradient(loss, params, 1.0, 0.5)
    np.testing.assert_allclose(found["a"], [3.3, 4.4], rtol=1e-6)
    np.testing.assert_array_equal(found["b"], 0)
    np.testing.assert_array_equal(found["c"], 0)


def test_progress_changes_nothing_and_a_second_model_compiles_nothing():
    variables, data, calls = variables_of(TorchTwin()), twin_data(), []
    before = count_compiled(_run)
    shown, rows = tune_actively(Twin(1), variables, data, KEY, QUICK, progress=lambda *call: calls.append(call))
    tune_actively(Twin(1), variables_of(TorchTwin(1)), data, KEY, QUICK, progress=lambda *_: None)
    assert count_compiled(_run) - before == 1
    silent, series = tune_actively(Twin(1), variables, data, KEY, QUICK)
    assert count_compiled(_run) - before == 2  # both epochs in one program
    assert [call[:3] for call in calls] == [("tsbd", 1, 2), ("tsbd", 2, 2)]
    for one, other in zip(jax.tree.leaves((shown, rows)), jax.tree.leaves((silent, series)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"epochs": 0}, {"learning_rate": 0.0}, {"alpha": 1.5}, {"radius": -1.0}])
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected"):
        ActiveTuneConfig(**options)
