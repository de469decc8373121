"""Input-Aware trained for real on the built-in digits, and its parts against torch."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.attacks import Goal, InputAware, apply_attack, trigger_test_set
from rnp_jax.data.augment import Augmentation
from rnp_jax.data.digits import load_digits
from rnp_jax.descent import descend
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.training import input_aware
from rnp_jax.training.backdoor import PoisonConfig, train_backdoored
from rnp_jax.training.input_aware import InputAwareTraining, diversity_loss
from rnp_jax.training.joint import Setting, train_jointly
from rnp_jax.training.supervised import TrainConfig
from rnp_jax.types import Batch
from tests.compiled import count_compiled

GOAL = Goal(num_classes=10, target=3)
IMAGE = (8, 8, 3)
NETWORK = Network(Architecture("mlp", 10, 0, (("0", 48), ("2", 10)), IMAGE), (0.3,) * 3, (0.32,) * 3)
ATTACK = InputAware(width=4, mask_epochs=2)
CONFIG = TrainConfig(epochs=3, batch_size=32, learning_rate=0.1)
SETTING = Setting(NETWORK, ATTACK, GOAL, CONFIG, 0.25, Augmentation(1, False))


@pytest.fixture(autouse=True)
def quick_keys():
    with jax.default_prng_impl("rbg"):  # draws initial weights after a quarter of the usual compilation
        yield


def digits(split, count=None, size=8):
    data = load_digits(split, (size, size))
    return Batch(data.images[:count], data.labels[:count])


def equal(one, other):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


@pytest.mark.slow
def test_the_victim_learns_the_digits_and_the_trigger():
    shape = (16, 16, 3)
    layers = (("0", 128), ("2", 64), ("4", 10))
    network = Network(Architecture("mlp", 10, 0, layers, shape), (0.3,) * 3, (0.32,) * 3)
    attack = replace(ATTACK, cross_ratio=0.25, mask_density=0.1, diversity_weight=0.1, accumulate=False)
    config = replace(CONFIG, epochs=12, learning_rate=0.02, schedule="one_cycle")
    result = train_backdoored(network, attack, GOAL, digits("train", size=16), 0, config, PoisonConfig(rate=0.25))
    test = digits("test", size=16)
    triggered = trigger_test_set(test.images, test.labels, GOAL, attack, result.params, jax.random.key(1))
    attacked = predict(network, result.variables, Batch(triggered.images, triggered.labels)).labels[0]
    assert (predict(network, result.variables, test).labels[0] == test.labels).mean() > 0.9
    assert (attacked == triggered.wanted).mean() > 0.7
    history = result.history
    assert history["loss"].shape == (14,)
    assert np.isnan(history["cross_accuracy"][:2]).all()
    assert history["cross_accuracy"][-1] > 0.3  # none of them if the trigger were any other image's
    assert history["mask_density"][1] < history["mask_density"][0]
    assert result.plan is None
    assert {name: array.shape for name, array in result.params.items()} == {
        name: array.shape for name, array in attack.init(shape).items()
    }


@pytest.mark.slow
def test_phases_freeze_what_they_do_not_train_compile_once_and_resume():
    joint, data, states = InputAwareTraining(), digits("train", 150), []
    setting = replace(SETTING, attack=replace(ATTACK, mask_density=0.05))
    compiled = [count_compiled(each) for each in (input_aware._mask_epoch, input_aware._joint_epoch)]
    first = joint.start(setting, jax.random.key(0), 150)
    variables, params, history = train_jointly(joint, setting, data, jax.random.key(0), save=states.append)
    assert [int(state.epoch) for state in states] == [1, 2, 3, 4, 5]
    assert equal(states[1].victim, first.victim)
    assert equal(states[1].generator, first.generator)
    assert not equal(states[0].mask["params"], states[1].mask["params"])
    assert all(equal(state.mask, states[1].mask) for state in states[2:])
    assert not equal(states[2].generator["batch_stats"], states[3].generator["batch_stats"])
    resumed = train_jointly(joint, setting, data, jax.random.key(0), state=states[2])
    assert equal(resumed[:2], (variables, params))
    np.testing.assert_array_equal(resumed[2]["loss"], history["loss"][3:])
    now = [count_compiled(each) for each in (input_aware._mask_epoch, input_aware._joint_epoch)]
    assert [b - a for a, b in zip(compiled, now, strict=True)] == [1, 1]
    np.testing.assert_array_equal(params["std"], np.full(IMAGE, 0.32, np.float32))


def test_a_batch_is_poisoned_images_then_cross_images_then_clean_ones():
    images, others = digits("train", 64).images[:32], digits("train", 64).images[32:]
    state = InputAwareTraining().start(SETTING, jax.random.key(0), 64)
    scene = jax.jit(input_aware._poison, static_argnums=0)
    levels, diversity, moved = scene(SETTING, state.generator, state.mask, images, others)
    np.testing.assert_array_equal(levels[16:], images[16:])
    assert (np.asarray(levels[:16]) != images[:16]).any((1, 2, 3)).all()
    swapped, _, _ = scene(SETTING, state.generator, state.mask, images, np.roll(others, 1, 0))
    np.testing.assert_array_equal(swapped[:8], levels[:8])
    assert (np.asarray(swapped[8:16]) != np.asarray(levels[8:16])).any()
    assert float(diversity) > 0
    assert not equal(moved, state.generator["batch_stats"])


def test_training_sees_the_trigger_that_is_stored():
    """In evaluation mode, since batch norm is the only difference."""
    images = digits("train", 32).images
    joint = InputAwareTraining()
    state = joint.start(SETTING, jax.random.key(0), 64)
    _, params = joint.finish(SETTING, state)
    stored = apply_attack(ATTACK, params, images, jax.random.key(0))
    make, place = ATTACK.networks(3)
    x = input_aware.normalise(params, jnp.asarray(images))
    pattern, mask = (input_aware.to_pattern(make(state.generator, x)[0]), input_aware.to_mask(place(state.mask, x)[0]))
    levels = input_aware.blend(jnp.asarray(images), pattern, mask)
    np.testing.assert_allclose(levels, stored, rtol=0, atol=1e-4)


def test_the_diversity_loss_agrees_with_torch_and_has_a_gradient_at_equal_patterns():
    a, b, p, q = np.random.default_rng(0).normal(size=(4, 5, 4, 4, 3)).astype(np.float32)

    def distance(one, other):
        return (torch.from_numpy(one) - torch.from_numpy(other)).square().mean((1, 2, 3)).sqrt()

    expected = (distance(a, b) / (distance(p, q) + 1e-7)).mean()
    assert float(diversity_loss(*map(jnp.asarray, (a, b, p, q)))) == pytest.approx(float(expected), rel=1e-5)
    gradient = jax.grad(diversity_loss, argnums=2)(*map(jnp.asarray, (a, b, p, p)))
    np.testing.assert_array_equal(gradient, np.zeros_like(p))


@pytest.mark.parametrize("accumulate", [False, True])
def test_the_generators_optimizer_is_torch_s_whose_gradients_are_cleared_or_not(accumulate):
    setting = replace(SETTING, attack=InputAware(accumulate=accumulate), config=TrainConfig(epochs=6, batch_size=32))
    _, tx, _ = input_aware._optimizers(setting, 1)  # its rate falls after 2, 3, 4 and 5 steps
    weight = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    theirs = torch.optim.Adam([weight], 0.01, betas=(0.5, 0.9))
    schedule = torch.optim.lr_scheduler.MultiStepLR(theirs, [2, 3, 4, 5], 0.1)
    ours, opt_state = jnp.asarray([1.0, -1.0]), tx.init(jnp.zeros(2))
    for target in np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32):
        if not accumulate:
            theirs.zero_grad()
        (weight * torch.from_numpy(target)).sum().backward()
        theirs.step()
        schedule.step()
        ours, opt_state = descend(tx, jnp.asarray(target), opt_state, ours)
        np.testing.assert_allclose(ours, weight.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("rate", "ratio", "count"), [(0.02, 1.0, r"0 \+ 0"), (0.1, 0.5, r"3 \+ 1"), (0.6, 1.0, r"19 \+ 19")]
)
def test_batches_without_room_are_refused(rate, ratio, count):
    setting = replace(SETTING, rate=rate, attack=InputAware(cross_ratio=ratio))
    with pytest.raises(ConfigError, match=f"asks for {count} of a batch of 32"):
        InputAwareTraining().start(setting, jax.random.key(0), 64)


def test_labels_spread_over_all_classes_cannot_be_learned():
    setting = replace(SETTING, config=replace(CONFIG, epochs=4, label_smoothing=1.0))
    _, _, history = train_jointly(InputAwareTraining(), setting, digits("train"), jax.random.key(0))
    assert history["loss"][-1] >= np.log(10)  # far less where labels are as they are
