"""FT-SAM's step against torch, and what the climb is."""

import jax
import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from rnp_jax.checkpoints import from_state_dict, to_state_dict
from rnp_jax.defenses import FtSamConfig, ft_sam, phase
from rnp_jax.defenses.ft_sam import climb, smoothed_cross_entropy
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.types import Batch
from tests.compiled import count_compiled
from tests.networks import CLASSES, build_random, images_for, network_of, state_of
from tests.oracle import models, rnp

KEY = jax.random.key(0)


def torch_steps(module, batches, rho: float, swing: int) -> None:
    """Two passes a batch: the second normalises by the batch but leaves the running statistics alone."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=swing)
    norms = models.batch_norms(module).values() if isinstance(module, models.ResNet) else ()
    parameters = list(module.parameters())
    for x, y in batches:
        slopes = torch.autograd.grad(F.cross_entropy(module(x), y, label_smoothing=0.09), parameters)
        total = torch.sqrt(sum((w.detach().abs() * g).square().sum() for w, g in zip(parameters, slopes, strict=True)))
        steps = [rho * w.detach() ** 2 * g / total for w, g in zip(parameters, slopes, strict=True)]
        with torch.no_grad():
            for w, step in zip(parameters, steps, strict=True):
                w += step
        for norm in norms:
            norm.momentum = 0.0
        optimizer.zero_grad()
        F.cross_entropy(module(x), y, label_smoothing=0.09).backward()
        for norm in norms:
            norm.momentum = 0.1
        with torch.no_grad():
            for w, step in zip(parameters, steps, strict=True):
                w -= step
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(("name", "swing"), [("mlp", 3), pytest.param("resnet18", 4, marks=pytest.mark.slow)])
def test_weights_are_torch_s(name, swing):
    """torch's label smoothing s spreads s over all K classes, ours over the K - 1 others: 0.09·5/4 there is 0.072."""
    module, network = build_random(name), network_of(name)
    variables = from_state_dict(network, state_of(module))
    images, labels = images_for(name, 10), np.arange(10, dtype=np.int32) % CLASSES
    config = FtSamConfig(
        epochs=2, batch_size=6, learning_rate=0.02, swing=swing, weight_decay=0.01, rho=0.3, shuffle=False,
        label_smoothing=0.09 * (CLASSES - 1) / CLASSES,
    )  # fmt: skip
    found = ft_sam(network, variables, Batch(images, labels), KEY, config)
    module.train()
    batches = [(x.flatten(1) if name == "mlp" else x, y) for x, y in rnp.make_batches(images, labels, 6) * 2]
    torch_steps(module, batches, 0.3, swing)
    ours = to_state_dict(network, found.variables)
    for key, expected in state_of(module).items():
        if "tracked" not in key:
            np.testing.assert_allclose(ours[key], expected, rtol=1e-3, atol=3e-4, err_msg=key)
    assert found.kind == "weights"


def test_the_climb_is_rho_away_and_uphill():
    params = {"a": np.array([3.0, -0.5], np.float32), "b": np.array([[0.25]], np.float32)}
    slope = {"a": np.array([1.0, 2.0], np.float32), "b": np.array([[-4.0]], np.float32)}
    step = climb(params, slope, 0.7)
    relative = [step[name] / np.abs(params[name]) for name in params]
    assert np.sqrt(sum((each**2).sum() for each in relative)) == pytest.approx(0.7)
    plain = climb(params, slope, 0.7, adaptive=False)
    assert np.sqrt(sum((plain[name] ** 2).sum() for name in plain)) == pytest.approx(0.7)
    np.testing.assert_allclose(plain["a"] / plain["b"][0, 0], slope["a"] / slope["b"][0, 0], rtol=1e-6)
    assert all((np.sign(step[name]) == np.sign(slope[name])).all() for name in slope)


def test_no_smoothing_is_cross_entropy_and_all_of_it_is_flat():
    logits = np.array([[2.0, -1.0, 0.5]], np.float32)
    found = smoothed_cross_entropy(logits, np.array([1], np.int32), 0.0)
    np.testing.assert_allclose(found, F.cross_entropy(torch.tensor(logits), torch.tensor([1])).numpy(), rtol=1e-6)
    flat = smoothed_cross_entropy(logits, np.array([1], np.int32), 2 / 3)
    np.testing.assert_allclose(flat, -torch.log_softmax(torch.tensor(logits), 1).mean().numpy(), rtol=1e-6)


def test_a_second_model_compiles_nothing(features):
    config = FtSamConfig(epochs=2, batch_size=24, swing=None)
    before = count_compiled(phase._run_until)
    for seed in (0, 1):
        ft_sam(features.network, features.variables, features.data, jax.random.key(seed), config)
    assert count_compiled(phase._run_until) - before == 1


def test_a_loss_that_diverges(features):
    params = jax.tree.map(lambda leaf: leaf * 1e30, features.variables["params"])
    with pytest.raises(DefenseError, match="ft_sam diverged: the loss became nan in epoch 1; lower"):
        ft_sam(features.network, {**features.variables, "params": params}, features.data, KEY, FtSamConfig())


@pytest.mark.parametrize("options", [{"epochs": 0}, {"swing": 0}, {"rho": -1.0}, {"label_smoothing": 1.0}])
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected"):
        FtSamConfig(**options)
