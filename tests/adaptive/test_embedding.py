"""The discriminator and one step of both players against torch, and a victim that hides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from rnp_jax.adaptive.embedding import Embedding, discriminate, draw_discriminator
from rnp_jax.attacks import Goal
from rnp_jax.errors import ConfigError
from rnp_jax.training.backdoor import PoisonConfig, train_backdoored
from tests.adaptive.runs import CONFIG, MLP, digits, equal, run

FEATURES = np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32)
MARKS = np.arange(24) % 4 == 0


def oracle(weights) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number, width in enumerate((8, 256, 128)):
        linear = nn.Linear(width, (256, 128, 1)[number], bias=number == 2)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(np.asarray(weights[str(number)]["kernel"]).T))
        layers += [linear] if number == 2 else [linear, nn.BatchNorm1d((256, 128)[number]), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers).train()


def test_the_loss_and_its_slopes_are_torch_s():
    weights = draw_discriminator(jax.random.key(0), 8)
    module, features = oracle(weights), torch.tensor(FEATURES, requires_grad=True)
    with torch.no_grad():
        module[-1].bias.zero_()
    expected = nn.functional.binary_cross_entropy_with_logits(
        module(features)[:, 0], torch.tensor(MARKS, dtype=torch.float32)
    )
    expected.backward()
    found, (slopes, own) = jax.value_and_grad(discriminate, (0, 1))(weights, jnp.asarray(FEATURES), jnp.asarray(MARKS))
    assert found == pytest.approx(expected.item(), rel=1e-4)
    assert features.grad is not None
    np.testing.assert_allclose(own, features.grad, rtol=1e-2, atol=1e-5)
    for number, place in enumerate((0, 3, 6)):
        np.testing.assert_allclose(slopes[str(number)]["kernel"], module[place].weight.grad.T, rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(slopes["1"]["scale"], module[4].weight.grad, rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(slopes["1"]["bias"], module[4].bias.grad, rtol=1e-2, atol=1e-5)


def test_the_discriminator_descends_its_own_loss_whatever_the_ratio():
    """A victim that hardly reacts leaves the same game to the discriminator."""
    found = [run(Embedding(ratio=ratio, learning_rate=0.1)).history["discriminator"] for ratio in (1e-9, 2e-9)]
    np.testing.assert_allclose(*found, rtol=1e-3)
    assert found[0][-1] < found[0][0]


def test_a_victim_that_hides_is_harder_to_tell():
    open_one, hidden = (run(Embedding(ratio=ratio, learning_rate=0.05)).history for ratio in (1e-9, 2.0))
    assert hidden["discriminator"][-1] > open_one["discriminator"][-1]


def test_runs_repeat_and_resume_bit_for_bit():
    states = []
    first = run(Embedding(), save=states.append)
    assert equal(run(Embedding(), state=states[0]).variables, first.variables)


def test_a_clean_set_is_refused():
    with pytest.raises(ConfigError, match="no image is poisoned before training"):
        train_backdoored(MLP, None, Goal(num_classes=10), digits(), 0, CONFIG, PoisonConfig(), adapt=Embedding())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"ratio": -1.0}, "ratio is -1.0"),
        ({"momentum": 2.0}, "momentum is 2.0"),
        ({"learning_rate": 0.0}, "learning_rate 0.0: expected a number above 0"),
    ],
)
def test_impossible_settings(settings, told):
    with pytest.raises(ConfigError, match=told):
        Embedding(**settings)
