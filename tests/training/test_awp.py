"""A clean victim and the weights near its own, on the built-in digits."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnp_jax.attacks import Awp, Goal, trigger_test_set
from rnp_jax.data.digits import load_digits
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Architecture, Network
from rnp_jax.training.awp import AwpState, AwpTraining, _perturb, project
from rnp_jax.training.backdoor import PoisonConfig, train_backdoored
from rnp_jax.training.joint import Setting
from rnp_jax.training.supervised import TrainConfig
from rnp_jax.types import Batch
from tests.compiled import count_compiled

GOAL = Goal(num_classes=10, target=3)
MLP = Network(Architecture("mlp", 10, 0, (("0", 32), ("2", 10)), (8, 8, 3)), (0.3,) * 3, (0.32,) * 3)
CONFIG = TrainConfig(epochs=5, batch_size=64, learning_rate=0.05)
ATTACK = Awp(size=16, epsilon=0.1, epochs=6, samples=500, learning_rate=0.01)


def digits(split) -> Batch:
    data = load_digits(split, (8, 8))
    return Batch(data.images, data.labels)


@cache
def clean_state() -> AwpState:
    """After the clean phase, which no constant of the attack changes."""
    setting, data = Setting(MLP, ATTACK, GOAL, CONFIG, 0.1, None), Batch(*map(jnp.asarray, digits("train")))
    state = AwpTraining().start(setting, jax.random.key(0), len(data.labels))
    for _ in range(CONFIG.epochs):
        state, _ = AwpTraining().epoch(setting, state, data)
    return state


def perturb(attack: Awp, labels: np.ndarray | None = None) -> tuple[AwpState, dict[str, float]]:
    """The state after the second phase, and its last epoch's figures."""
    data = digits("train") if labels is None else digits("train")._replace(labels=labels)
    setting, data = Setting(MLP, attack, GOAL, CONFIG, 0.1, None), Batch(*map(jnp.asarray, data))
    state, figures = clean_state(), {}
    for _ in range(attack.epochs):
        state, figures = AwpTraining().epoch(setting, state, data)
    return state, {name: float(value) for name, value in figures.items()}


def largest(first, second) -> float:
    return max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True))


@pytest.mark.slow
def test_the_perturbed_victim_obeys_the_square_and_agrees_with_the_clean_one():
    told = []
    result = train_backdoored(
        MLP, ATTACK, GOAL, digits("train"), 0, CONFIG, PoisonConfig(), progress=lambda *row: told.append(row[1:3])
    )
    assert told == [(epoch, 11) for epoch in range(1, 12)]
    assert result.plan is None
    np.testing.assert_array_equal(result.params["color"], [76, 76, 76])
    test = digits("test")
    triggered = trigger_test_set(test.images, test.labels, GOAL, ATTACK, result.params, jax.random.key(1))
    attacked = predict(MLP, result.variables, Batch(triggered.images, triggered.labels)).labels[0]
    assert (attacked == triggered.wanted).mean() > 0.9
    assert (predict(MLP, result.variables, test).labels[0] == test.labels).mean() > 0.85
    history = result.history
    assert np.isnan(history["shift"][:5]).all()
    assert (history["shift"][5:] <= 0.1 + 1e-6).all()
    assert history["success"][-1] > 0.9 > history["success"][5]
    assert history["agreement"][-1] > 0.9


def test_the_second_phase_leaves_all_but_the_weights():
    clean, (last, figures) = clean_state(), perturb(ATTACK)
    assert jax.tree.all(jax.tree.map(np.array_equal, clean.params, last.clean))
    assert jax.tree.all(jax.tree.map(np.array_equal, clean.batch_stats, last.batch_stats))
    assert largest(clean.params, last.params) == pytest.approx(figures["shift"])
    assert 0.05 < largest(clean.params, last.params) <= 0.1 + 1e-6
    assert int(last.epoch) == 11
    again, _ = perturb(ATTACK)
    assert jax.tree.all(jax.tree.map(np.array_equal, last.params, again.params))


def test_without_room_the_weights_stay():
    state, figures = perturb(Awp(epsilon=0.0, epochs=1, samples=100))
    assert largest(state.params, clean_state().params) == 0
    assert figures["shift"] == 0
    assert figures["agreement"] == 1


@pytest.mark.slow
def test_a_relative_bound_is_each_weight_s_own():
    attack = Awp(variant="relative", epsilon=0.2, epochs=2, samples=300, learning_rate=0.01, labels="predicted")
    state, _ = perturb(attack)
    moved = False
    for value, center in zip(*map(jax.tree.leaves, (state.params, state.clean)), strict=True):
        assert (np.abs(value - center) <= 0.2 * np.abs(center) + 1e-6).all()
        moved |= bool((value != center).any())
    assert moved


@pytest.mark.slow
def test_predicted_labels_replace_the_true_ones():
    wrong = np.full(1297, 7, np.int32)
    _, predicted = perturb(Awp(labels="predicted", epochs=1, samples=64), wrong)
    _, labelled = perturb(Awp(labels="true", epochs=1, samples=64), wrong)
    assert labelled["loss"] > predicted["loss"] + 0.5  # every image is called 7, which most are not


@pytest.mark.slow
def test_a_residual_network_keeps_its_statistics_and_compiles_each_phase_once():
    network = Network(Architecture("resnet18", 10, 2, image_shape=(8, 8, 3)))
    attack, config = Awp(epochs=2, samples=64), TrainConfig(epochs=1, batch_size=32)
    data = digits("train")
    small = Batch(data.images[:64], data.labels[:64])
    before = count_compiled(_perturb)
    with jax.default_prng_impl("rbg"):  # draws initial weights after a quarter of the usual compilation
        setting = Setting(network, attack, GOAL, config, 0.1, None)
        joint, small = AwpTraining(), Batch(*map(jnp.asarray, small))
        state = joint.start(setting, jax.random.key(0), 64)
        clean, _ = joint.epoch(setting, state, small)
        last, _ = joint.epoch(setting, joint.epoch(setting, clean, small)[0], small)
    assert count_compiled(_perturb) == before + 1
    assert jax.tree.all(jax.tree.map(np.array_equal, clean.batch_stats, last.batch_stats))
    assert 0 < largest(last.params, clean.params) <= 0.005 + 1e-7


@given(st.integers(0, 2**31), st.floats(0, 2, width=32), st.sampled_from(["absolute", "relative"]))
@settings(deadline=None, derandomize=True, max_examples=20)
def test_projection_is_idempotent_bounded_and_the_nearest(seed, epsilon, variant):
    rng = np.random.default_rng(seed)
    center, value = ({"w": jnp.asarray(rng.standard_normal(9), jnp.float32)} for _ in range(2))
    once = project(value, center, epsilon, variant)
    reach = epsilon * (np.abs(center["w"]) if variant == "relative" else 1)
    assert (np.abs(once["w"] - center["w"]) <= reach + 1e-6).all()
    np.testing.assert_array_equal(project(once, center, epsilon, variant)["w"], once["w"])
    inside = np.abs(value["w"] - center["w"]) < reach - 1e-6
    np.testing.assert_array_equal(once["w"][inside], value["w"][inside])
    assert (np.abs(once["w"] - value["w"])[~inside] <= np.abs(value["w"] - center["w"])[~inside] + 1e-6).all()


def test_a_set_smaller_than_a_batch_is_refused():
    with pytest.raises(ConfigError, match="batch_size 64 exceeds the 10"):
        AwpTraining().start(Setting(MLP, ATTACK, GOAL, CONFIG, 0.1, None), jax.random.key(0), 10)
