"""Universal PGD on a linear model in closed form and against torch, and a victim that learns the trigger."""

import jax
import numpy as np
import pytest
import torch

from rnp_jax.attacks import grond
from rnp_jax.attacks.crafting import REPORTED
from rnp_jax.attacks.goal import Goal
from rnp_jax.attacks.grond import Grond
from rnp_jax.attacks.means import Means
from rnp_jax.errors import ConfigError
from rnp_jax.models import Architecture, Network
from rnp_jax.types import Batch
from tests.compiled import count_compiled

KEY = jax.random.key(0, impl="rbg")
IMAGE = (4, 6, 3)
LINEAR = Network(Architecture("mlp", 2, 0, (("0", 2),), IMAGE), (0.5,) * 3, (0.25,) * 3)
DEEP = Network(Architecture("mlp", 5, 0, (("0", 12), ("2", 5)), IMAGE), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))


def fit(attack, network, variables, target=1, told=None, **goal):
    data = Batch(np.random.default_rng(0).integers(60, 196, (20, *IMAGE), np.uint8), np.zeros(20, np.int32))
    goal = Goal(num_classes=network.architecture.num_classes, target=target, **goal)
    progress = (lambda *_: None) if told is None else lambda *row: told.append(row)
    means = Means(network, data, goal, KEY, lambda _: variables, progress)
    return attack.fit(attack.init(IMAGE), means)["delta"], data


@pytest.mark.parametrize(("epsilon", "most"), [(6.0, 6), (6.9, 6)])
def test_on_a_linear_model_it_is_the_sign_of_the_weights(epsilon, most):
    variables = LINEAR.init(KEY)
    weights = np.asarray(variables["params"]["0"]["kernel"])
    expected = most * np.sign(weights[:, 1] - weights[:, 0]).reshape(IMAGE)
    found, _ = fit(Grond(epsilon=epsilon, steps=8), LINEAR, variables)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


def test_steps_are_torch_s():
    """Batches of all images, so that their order has no say."""
    variables = DEEP.init(jax.random.key(2, impl="rbg"))
    found, data = fit(Grond(epsilon=9.0, step=1.0, steps=7), DEEP, variables, target=3)
    (w0, b0), (w1, b1) = (
        [torch.tensor(np.asarray(variables["params"][layer][name])) for name in ("kernel", "bias")]
        for layer in ("0", "2")
    )
    delta = torch.zeros(IMAGE, requires_grad=True)
    for _ in range(7):
        pixels = ((torch.tensor(data.images) + delta) / 255 - torch.tensor(DEEP.mean)) / torch.tensor(DEEP.std)
        logits = torch.relu(pixels.flatten(1) @ w0 + b0) @ w1 + b1
        (slope,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, torch.full((20,), 3)), delta)
        delta = (delta - slope.sign()).clamp(-9, 9).detach().requires_grad_()
    assert (found == delta.detach().numpy()).mean() > 0.97  # rounding decides the sign of slopes near 0
    assert np.abs(found).max() == 7


def test_it_tells_its_steps_in_one_program_repeats_and_the_loss_falls():
    told, steps, variables = [], 2 * REPORTED + 5, DEEP.init(KEY)
    before = count_compiled(grond._learn)
    attack = Grond(epsilon=20.0, step=0.1, steps=steps, batch_size=8)
    first, _ = fit(attack, DEEP, variables, told=told)
    assert [row[:3] for row in told] == [("trigger", n, steps) for n in (REPORTED, 2 * REPORTED, steps)]
    assert told[-1][3]["loss"] < told[0][3]["loss"]
    np.testing.assert_array_equal(first, fit(attack, DEEP, variables)[0])
    assert count_compiled(grond._learn) == before + 1


def test_training_and_test_images_show_the_same():
    attack, images = Grond(), np.random.default_rng(1).integers(0, 256, (5, *IMAGE), np.uint8)
    params = attack.init(IMAGE)
    expected = np.clip(images + params["delta"].astype(np.int32), 0, 255)
    for method in (attack.implant, attack.trigger):
        np.testing.assert_array_equal(method(params, images, KEY), expected)


def test_all_to_all_is_refused():
    with pytest.raises(ConfigError, match="use all_to_one"):
        fit(Grond(), LINEAR, {}, mapping="all_to_all")


@pytest.mark.parametrize(("option", "value"), [("epsilon", 0.5), ("step", -1), ("steps", 0), ("batch_size", 0)])
def test_impossible_constants_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"^{option} is {value}"):
        Grond(**{option: value})
