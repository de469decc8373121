"""LIRA trained for real on the built-in digits, and its two gradients written out."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.attacks import Goal, Lira, apply_attack, trigger_test_set
from rnp_jax.attacks.lira import add_noise
from rnp_jax.data.augment import Augmentation
from rnp_jax.data.digits import load_digits
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.training import lira
from rnp_jax.training.backdoor import PoisonConfig, train_backdoored
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.training.joint import Setting, train_jointly
from rnp_jax.training.lira import LiraTraining
from rnp_jax.training.supervised import TrainConfig
from rnp_jax.types import Batch
from tests.compiled import count_compiled

GOAL = Goal(num_classes=10, target=3)
IMAGE = (8, 8, 3)
NETWORK = Network(Architecture("mlp", 10, 0, (("0", 48), ("2", 10)), IMAGE), (0.3,) * 3, (0.32,) * 3)
ATTACK = Lira(width=2, generator_epochs=2, generator_learning_rate=0.003)
CONFIG = TrainConfig(epochs=2, batch_size=32, learning_rate=0.1)
SETTING = Setting(NETWORK, ATTACK, GOAL, CONFIG, 0.1, Augmentation(1, False))


@pytest.fixture(autouse=True)
def quick_keys():
    with jax.default_prng_impl("rbg"):  # draws initial weights after a quarter of the usual compilation
        yield


def digits(split, count=None):
    data = load_digits(split, IMAGE[:2])
    return Batch(data.images[:count], data.labels[:count])


def equal(one, other):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


@pytest.mark.slow
def test_the_victim_learns_the_digits_and_a_trigger_of_a_few_levels():
    attack = replace(ATTACK, width=4, generator_epochs=10)
    config = replace(CONFIG, epochs=10)
    result = train_backdoored(NETWORK, attack, GOAL, digits("train"), 0, config, PoisonConfig())
    test = digits("test")
    triggered = trigger_test_set(test.images, test.labels, GOAL, attack, result.params, jax.random.key(1))
    attacked = predict(NETWORK, result.variables, Batch(triggered.images, triggered.labels)).labels[0]
    assert (predict(NETWORK, result.variables, test).labels[0] == test.labels).mean() > 0.9
    assert (attacked == triggered.wanted).mean() > 0.9
    assert np.abs(triggered.images.astype(int) - test.images[triggered.indices]).max() <= 0.1 * 0.32 * 255 + 0.5
    assert result.history["loss"].shape == (20,)
    assert result.history["attack_success"][-1] > 0.9
    assert np.isnan(result.history["generator_loss"][10:]).all()
    assert {name: array.shape for name, array in result.params.items()} == {
        name: array.shape for name, array in attack.init(IMAGE).items()
    }


@pytest.mark.parametrize("fine_tune", [False, True])
def test_the_victim_starts_as_new_or_as_f(fine_tune):
    attack = replace(ATTACK, generator_epochs=1, fine_tune=fine_tune)
    setting = replace(SETTING, attack=attack, config=replace(CONFIG, epochs=1, learning_rate=1e-12))
    data = Batch(*map(jnp.asarray, digits("train", 64)))
    before = LiraTraining().start(setting, jax.random.key(0), 64)._replace(epoch=jnp.int32(1))
    after, _ = LiraTraining().epoch(setting, before, data)
    start = before.classifier if fine_tune else before.victim
    for ours, theirs in zip(jax.tree.leaves(after.victim["params"]), jax.tree.leaves(start["params"]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_the_trigger_is_fixed_in_stage_two():
    joint, data, states = LiraTraining(), digits("train", 100), []
    compiled = [count_compiled(each) for each in (lira._generator_epoch, lira._victim_epoch)]
    first = joint.start(SETTING, jax.random.key(0), 100)
    variables, params, history = train_jointly(joint, SETTING, data, jax.random.key(0), save=states.append)
    assert [int(state.epoch) for state in states] == [1, 2, 3, 4]
    assert equal(states[1].victim, first.victim)
    assert not equal(states[0].generator["params"], states[1].generator["params"])
    assert all(equal(state.generator, states[1].generator) for state in states[2:])
    assert all(equal(state.classifier, states[1].classifier) for state in states[2:])
    assert not equal(first.victim["params"], first.classifier["params"])
    resumed = train_jointly(joint, SETTING, data, jax.random.key(0), state=states[0])
    assert equal(resumed[:2], (variables, params))
    np.testing.assert_array_equal(resumed[2]["loss"], history["loss"][1:])
    now = [count_compiled(each) for each in (lira._generator_epoch, lira._victim_epoch)]
    assert [b - a for a, b in zip(compiled, now, strict=True)] == [1, 1]


def test_training_sees_the_trigger_that_is_stored():
    attack = replace(ATTACK, final_epsilon=5.0)  # so that an untrained T is seen
    setting, joint, images = replace(SETTING, attack=attack), LiraTraining(), digits("train", 32).images
    state = joint.start(setting, jax.random.key(0), 64)
    _, params = joint.finish(setting, state)
    seen, _ = lira._attacked(setting, state.generator, jnp.asarray(images), attack.final_epsilon)
    stored = apply_attack(attack, params, images, jax.random.key(0))
    np.testing.assert_allclose(seen * 255, stored, rtol=0, atol=1e-4)
    assert (stored != images).any((1, 2, 3)).all()


@pytest.mark.parametrize(("variant", "spilt"), [pytest.param("orig", 0.0, marks=pytest.mark.slow), ("bb", 1.0)])
def test_in_stage_one_f_descends_on_its_loss_and_in_bb_on_the_generators_too(variant, spilt):
    attack = replace(ATTACK, variant=variant, generator_learning_rate=0.0)
    setting = replace(SETTING, attack=attack, config=replace(CONFIG, batch_size=16), augment=None)
    joint, data = LiraTraining(), Batch(*map(jnp.asarray, digits("train", 16)))  # one step, of all images
    state = joint.start(setting, jax.random.key(0), 16)
    x = (data.images.astype(jnp.float32) / 255 - 0.3) / 0.32
    generator = attack.generator(3)

    def attacked(train):
        noise, _ = generator(state.generator, x, train=train)
        return add_noise(data.images, noise, jnp.full(IMAGE, attack.epsilon * 0.32)) / 255

    def loss(params, inputs, labels):
        logits, _ = NETWORK({**state.classifier, "params": params}, inputs)
        return cross_entropy(logits, labels).mean()

    wanted, params = GOAL.wanted(data.labels), state.classifier["params"]
    clean = jax.grad(loss)(params, data.images, data.labels)
    frozen, learned = (jax.grad(loss)(params, attacked(train), wanted) for train in (False, True))
    expected = jax.tree.map(
        lambda p, c, f, own: p - 0.01 * (0.5 * c + 0.5 * f + spilt * own), params, clean, frozen, learned
    )
    moved, _ = joint.epoch(setting, state, data)
    for ours, theirs in zip(jax.tree.leaves(moved.classifier["params"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


def test_a_set_smaller_than_a_batch_is_refused():
    with pytest.raises(ConfigError, match="batch_size 32 exceeds the 20 training images"):
        LiraTraining().start(SETTING, jax.random.key(0), 20)


def test_labels_spread_over_all_classes_cannot_be_learned():
    setting = replace(SETTING, config=replace(CONFIG, epochs=6, label_smoothing=1.0))
    _, _, history = train_jointly(LiraTraining(), setting, digits("train"), jax.random.key(0))
    assert history["loss"][-1] >= np.log(10)  # far less where labels are as they are
