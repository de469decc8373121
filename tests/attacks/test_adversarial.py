import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.attacks.adversarial import Adversarial, Ball, ascend_loss
from rnp_jax.data.digits import load_digits
from rnp_jax.errors import ConfigError
from rnp_jax.models import Architecture, Network
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.training.supervised import TrainConfig, train
from rnp_jax.types import Batch

IMAGE = (4, 6, 3)
LINEAR = Network(Architecture("mlp", 2, 0, (("0", 2),), IMAGE), (0.5,) * 3, (2.0,) * 3)  # no softmax saturates
DEEP = Network(Architecture("mlp", 5, 0, (("0", 12), ("2", 5)), IMAGE), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
BALL = Ball(epsilon=8.0, step=1.5, steps=12)


def draw(count: int = 6, classes: int = 5) -> Batch:
    rng = np.random.default_rng(0)
    return Batch(rng.integers(0, 256, (count, *IMAGE), np.uint8), rng.integers(0, classes, count).astype(np.int32))


def test_a_linear_model_is_led_along_the_sign_of_its_weights():
    variables, (images, labels) = LINEAR.init(jax.random.key(0, impl="rbg")), draw(classes=2)
    weights = np.asarray(variables["params"]["0"]["kernel"])
    away = np.sign(weights[:, 1] - weights[:, 0])[None] * np.where(labels == 0, 1, -1)[:, None]
    expected = np.clip(images + 8.0 * away.reshape(images.shape), 0, 255)
    np.testing.assert_array_equal(ascend_loss(LINEAR, BALL, variables, images, labels), expected)


def test_steps_agree_with_torch():
    variables, (images, labels) = DEEP.init(jax.random.key(1, impl="rbg")), draw()
    (w0, b0), (w1, b1) = (
        [torch.tensor(np.asarray(variables["params"][layer][name])) for name in ("kernel", "bias")]
        for layer in ("0", "2")
    )
    mean, std = torch.tensor(DEEP.mean), torch.tensor(DEEP.std)
    clean = torch.tensor(images, dtype=torch.float32)
    moved = clean.clone()
    for _ in range(BALL.steps):
        moved.requires_grad_()
        hidden = torch.relu(((moved / 255 - mean) / std).flatten(1) @ w0 + b0)
        loss = torch.nn.functional.cross_entropy(hidden @ w1 + b1, torch.tensor(labels).long(), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = torch.clamp(moved.detach() + BALL.step * gradient.sign(), clean - 8, clean + 8).clamp(0, 255)
    np.testing.assert_array_equal(ascend_loss(DEEP, BALL, variables, images, labels), moved.numpy())


@pytest.mark.parametrize("ball", [BALL, Ball(epsilon=7.3, step=20.0, steps=3), Ball(epsilon=0.0, step=1.0, steps=2)])
def test_images_stay_in_the_ball_and_in_range_while_the_loss_rises(ball):
    variables, (images, labels) = DEEP.init(jax.random.key(2, impl="rbg")), draw(32)
    moved = np.asarray(ascend_loss(DEEP, ball, variables, images, labels))
    assert np.abs(moved - images).max() <= ball.epsilon + 1e-4
    assert moved.min() >= 0
    assert moved.max() <= 255
    before, after = (cross_entropy(DEEP(variables, x / np.float32(255))[0], labels) for x in (images, moved))
    if ball.epsilon:
        assert (np.asarray(after) > np.asarray(before)).all()
    else:
        np.testing.assert_array_equal(moved, images)


def test_bytes_and_floats_are_the_same_images():
    variables, (images, labels) = DEEP.init(jax.random.key(3, impl="rbg")), draw()
    floats = ascend_loss(DEEP, BALL, variables, images / np.float32(255), labels)
    np.testing.assert_allclose(floats, ascend_loss(DEEP, BALL, variables, images, labels), atol=1e-4)


def test_training_mode_perturbs_away_from_the_predictions_without_a_gradient_of_its_own():
    variables, (images, labels) = DEEP.init(jax.random.key(4, impl="rbg")), draw()
    robust = Adversarial(DEEP, BALL)
    np.testing.assert_array_equal(robust(variables, images)[0], DEEP(variables, images)[0])
    believed = DEEP(variables, images)[0].argmax(-1)
    seen = ascend_loss(DEEP, BALL, variables, images, believed) / 255
    np.testing.assert_array_equal(robust(variables, images, train=True)[0], DEEP(variables, seen)[0])

    def loss(params, apply, pixels):
        logits, _ = apply({**variables, "params": params}, pixels, train=True)
        return cross_entropy(logits, labels).mean()

    expected = jax.grad(loss)(variables["params"], DEEP, seen)
    found = jax.grad(loss)(variables["params"], robust, jnp.asarray(images))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


@pytest.mark.slow
def test_adversarial_training_makes_a_network_robust():
    digits = load_digits("train", (8, 8))
    data = Batch(digits.images, digits.labels)
    network = Network(Architecture("mlp", 10, 0, (("0", 32), ("2", 10)), (8, 8, 3)))
    attack, start = Ball(epsilon=24.0, step=6.0, steps=8), network.init(jax.random.key(0, impl="rbg"))
    right = []
    for apply in (network, Adversarial(network, Ball(epsilon=24.0, step=12.0, steps=3))):
        trained, _ = train(apply, start, data, jax.random.key(1, impl="rbg"), TrainConfig(6, 64, 0.05))
        moved = ascend_loss(network, attack, trained, data.images, data.labels)
        right.append([(network(trained, x)[0].argmax(-1) == data.labels).mean() for x in (data.images, moved / 255)])
    (clean, fragile), (also_clean, robust) = right
    assert min(clean, also_clean) > 0.85
    assert robust > fragile + 0.15


@pytest.mark.parametrize(
    ("option", "value"), [("epsilon", -1), ("epsilon", 256), ("step", float("nan")), ("steps", 0), ("steps", 2.5)]
)
def test_impossible_balls_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option} is {value}"):
        Ball(**{"epsilon": 8.0, "step": 2.0, "steps": 3, option: value})
