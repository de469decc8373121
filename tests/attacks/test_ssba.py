import dataclasses
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.attacks.artefact import load_artefact, save_artefact
from rnp_jax.attacks.base import quantise
from rnp_jax.attacks.ssba import (
    CRITIC_BOUND,
    Ssba,
    _critic_step,
    _epoch,
    _start,
    _step,
    draw_secrets,
    gradients,
    train_pair,
)
from rnp_jax.attacks.trees import to_params
from rnp_jax.data.digits import load_digits
from rnp_jax.errors import ConfigError, DataError
from tests.compiled import count_compiled
from tests.oracle import steganography as oracle

KEY = jax.random.key(0)
SHAPE = (8, 8, 3)
ATTACK = Ssba(bits=6, width=4, epochs=14, secret_epochs=2, learning_rate=3e-3, critic_learning_rate=1e-4)
SMALL = Ssba(bits=3, width=2, learning_rate=0.03, critic_learning_rate=1e-4)
PAIR = SMALL.pair((16, 16, 3))


def ignore(phase, epoch, most, figures):
    pass


@dataclass
class Fitted:
    """A pair trained on the digits, what was told meanwhile, and how often the epoch was compiled."""

    encoder: dict = field(default_factory=dict)
    decoder: dict = field(default_factory=dict)
    told: list = field(default_factory=list)
    compiled: int = 0
    params: dict = field(default_factory=dict)


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    found, before = Fitted(), count_compiled(_epoch)
    images = load_digits("train", SHAPE[:2]).images
    networks, last = train_pair(ATTACK, images, KEY, lambda *row: found.told.append(row))
    assert last == found.told[-1][3]
    found.encoder, found.decoder, found.compiled = networks["encoder"], networks["decoder"], count_compiled(_epoch)
    found.compiled -= before
    found.params = {**ATTACK.init(SHAPE), **to_params(networks["encoder"], "encoder")}
    return found


@pytest.mark.slow
def test_secrets_are_read_from_new_images_stored_with_8_bits(fitted):
    images = load_digits("test", SHAPE[:2]).images
    scaled, pair = jnp.asarray(images / np.float32(255)), ATTACK.pair(SHAPE)
    secrets = draw_secrets(jax.random.key(7), len(images), ATTACK.bits)
    stored = quantise(255 * (scaled + pair.hide(fitted.encoder, scaled, secrets)))
    read = pair.read(fitted.decoder, stored.astype(jnp.float32) / 255) > 0
    assert (np.asarray(read) == np.asarray(secrets > 0)).mean() > 0.95
    blank = pair.read(fitted.decoder, scaled) > 0
    assert (np.asarray(blank) == np.asarray(secrets > 0)).mean() < 0.7


@pytest.mark.slow
def test_the_trigger_hides_the_one_secret_by_residuals_that_differ(fitted):
    images = load_digits("test", SHAPE[:2]).images[:64]
    triggered = ATTACK.trigger(fitted.params, jnp.asarray(images), KEY)
    read = ATTACK.pair(SHAPE).read(fitted.decoder, triggered.astype(jnp.float32) / 255) > 0
    assert (np.asarray(read) == fitted.params["secret"][None]).mean() > 0.95
    residuals = np.asarray(triggered).astype(np.int32) - images
    assert all((residuals[i] != residuals[0]).any() for i in range(1, 64))
    assert 0 < np.abs(residuals).mean() < 20
    np.testing.assert_array_equal(ATTACK.trigger(fitted.params, jnp.asarray(images), jax.random.key(9)), triggered)
    alone = ATTACK.trigger(fitted.params, jnp.asarray(images[5:6]), KEY)
    np.testing.assert_allclose(np.int32(alone[0]), np.int32(triggered[5]), atol=1)


@pytest.mark.slow
def test_training_tells_of_each_epoch_and_compiles_once(fitted):
    assert [row[:3] for row in fitted.told] == [("encoder", epoch, 14) for epoch in range(1, 15)]
    assert fitted.compiled == 1
    assert fitted.told[-1][3]["bit_accuracy"] > 0.95
    assert all(abs(figures["critic"]) > 0 for *_, figures in fitted.told)
    residuals = [figures["residual"] for *_, figures in fitted.told]
    assert residuals[-1] < residuals[1] / 2  # the secret alone first, then also that it shall not be seen


def test_the_artefact_survives_its_file(tmp_path):
    params = {**ATTACK.init(SHAPE), **to_params(ATTACK.pair(SHAPE).init(KEY)["encoder"], "encoder")}
    save_artefact(tmp_path / "trigger.npz", params)
    loaded = load_artefact(tmp_path / "trigger.npz", ATTACK, SHAPE)
    assert loaded.keys() == params.keys()
    assert all(np.array_equal(loaded[name], params[name]) for name in loaded)


@pytest.mark.slow
def test_training_is_decided_by_its_key(fitted):
    images = load_digits("train", SHAPE[:2]).images
    again, other = (train_pair(ATTACK, images, jax.random.key(seed), ignore)[0] for seed in (0, 1))
    first = {"encoder": fitted.encoder, "decoder": fitted.decoder}
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    assert not jax.tree.all(jax.tree.map(np.array_equal, first, other))


def test_the_default_artefact_is_small_and_before_training_does_nothing(digits):
    params = Ssba().init((32, 32, 3))
    assert sum(value.nbytes for value in params.values()) < 1.5e6
    np.testing.assert_array_equal(Ssba().trigger(params, jnp.asarray(digits[0][:2]), KEY), digits[0][:2])
    secrets = [Ssba(seed=seed).init(SHAPE)["secret"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(secrets[0], secrets[1])
    assert (secrets[0] != secrets[2]).any()


def test_gradients_by_hand():
    flat = jnp.full((2, 8, 8, 1), 0.3)
    assert float(gradients(flat)) == 0
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, :, None, None], (1, 8, 8, 1))
    assert float(gradients(ramp)) == pytest.approx((1 + 2 + 4) / 3)
    checker = jnp.asarray(np.indices((8, 8)).sum(0) % 2, jnp.float32)[None, ..., None]
    assert float(gradients(checker)) == pytest.approx(2 / 3)
    assert np.isfinite(float(gradients(jnp.ones((1, 1, 3, 2)))))


def test_images_that_do_not_fit_are_refused():
    params = ATTACK.init(SHAPE)
    with pytest.raises(DataError, match="images have 1 channels, but the encoder is for 3"):
        ATTACK.trigger(params, jnp.zeros((1, 8, 8, 1), jnp.uint8), KEY)
    with pytest.raises(DataError, match="expected uint8"):
        ATTACK.trigger(params, jnp.zeros((1, 8, 8, 3)), KEY)
    with pytest.raises(DataError, match="1 images: expected 2 or more"):
        train_pair(ATTACK, np.zeros((1, *SHAPE), np.uint8), KEY, ignore)


def small_batch():
    rng = np.random.default_rng(1)
    return rng.random((16, 16, 16, 3), np.float32), rng.integers(0, 2, (16, SMALL.bits)).astype(np.float32)


def started(attack, critic=None):
    """A fresh state; its critic with weights drawn by this function of a shape, if given."""
    state = _start(attack, PAIR, KEY)
    return state if critic is None else state._replace(critic=jax.tree.map(lambda p: critic(p.shape), state.critic))


run_step = jax.jit(_step, static_argnums=(0, 1))
run_critic_step = jax.jit(_critic_step, static_argnums=(0, 1))


@pytest.mark.parametrize("critic_weight", [0.0, 0.5])
def test_the_pair_steps_down_the_loss_that_torch_has(critic_weight):
    rng = np.random.default_rng(0)
    attack = dataclasses.replace(SMALL, critic_weight=critic_weight)
    state = started(attack, lambda shape: jnp.asarray(rng.normal(0, 0.3, shape), jnp.float32))
    images, secrets = small_batch()
    learning = oracle.to_torch({**state.networks, "critic": state.critic})
    loss = oracle.pair_loss(learning, torch.from_numpy(images), torch.from_numpy(secrets), critic_weight)
    loss.backward()
    found, figures = run_step(attack, PAIR, state, images, secrets, jnp.float32(1))
    assert float(figures["loss"]) == pytest.approx(float(loss.detach()), rel=1e-4)
    gradient = jax.tree.map(lambda m: m / np.float32(0.1), found.adam[0].mu)  # Adam's first moment after one step
    for name in ("encoder", "decoder"):
        for got, parameter in zip(jax.tree.leaves(gradient[name]), jax.tree.leaves(learning[name]), strict=True):
            scale = float(parameter.grad.abs().max())
            np.testing.assert_allclose(got, parameter.grad, rtol=1e-3, atol=1e-4 * scale + 1e-9)


def test_other_weights_of_the_loss_are_no_other_program():
    before, images = count_compiled(_epoch), load_digits("train", SHAPE[:2]).images[:40]
    for weights in ({}, {"critic_weight": 0.1}, {"learning_rate": 1e-3, "residual_weight": 1.0}):
        attack = dataclasses.replace(SMALL, bits=2, epochs=1, secret_epochs=0, **weights)
        train_pair(attack, images, KEY, lambda *_: None)
    assert count_compiled(_epoch) == before + 1


def test_the_critic_s_steps_are_torch_s_and_stay_within_its_bound():
    # Weights and images of one sign, so that no gradient is a rounding error whose quotient RMSprop would take.
    rng = np.random.default_rng(0)
    state = started(SMALL, lambda shape: jnp.asarray(rng.uniform(0.001, CRITIC_BOUND, shape), jnp.float32))
    clean, encoded = rng.uniform(0.5, 0.7, (16, 16, 16, 3)), rng.uniform(0.8, 1, (16, 16, 16, 3))
    clean, encoded = clean.astype(np.float32), encoded.astype(np.float32)
    critic = oracle.to_torch(state.critic)
    optimizer = torch.optim.RMSprop(jax.tree.leaves(critic), SMALL.critic_learning_rate)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = (oracle.judge(critic, torch.from_numpy(clean)) - oracle.judge(critic, torch.from_numpy(encoded))).mean()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for parameter in jax.tree.leaves(critic):
                parameter.clamp_(-0.01, 0.01)
        state, told_apart = run_critic_step(SMALL, PAIR, state, clean, encoded)
        losses.append(float(loss.detach()))
        assert float(told_apart) == pytest.approx(-losses[-1], rel=1e-3)
    for got, parameter in zip(jax.tree.leaves(state.critic), jax.tree.leaves(critic), strict=True):
        np.testing.assert_allclose(got, parameter.detach(), rtol=1e-4, atol=1e-7)
    moved = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.critic)])
    assert np.abs(moved).max() == np.float32(CRITIC_BOUND)
    assert (np.abs(moved) < CRITIC_BOUND).any()
    assert losses[2] < losses[1] < losses[0]


def test_the_critic_learns_to_tell_what_one_encoder_hides_in_new_images():
    state, digits = started(SMALL), load_digits("train", (16, 16)).images[:96].astype(np.float32) / 255
    encoder = jax.tree.map(lambda p: p * np.float32(0.5), state.networks["encoder"])
    residuals = np.asarray(PAIR.hide(encoder, jnp.asarray(digits), draw_secrets(jax.random.key(3), 96, SMALL.bits)))
    encoded, told = (digits + residuals).clip(0, 1), []
    for i in range(100):
        batch = slice(i % 4 * 16, i % 4 * 16 + 16)
        state, gap = run_critic_step(SMALL, PAIR, state, digits[batch], encoded[batch])
        told.append(float(gap))
    assert told[-1] > 100 * abs(told[0])
    clean, hidden = (np.asarray(PAIR.judge(state.critic, jnp.asarray(images[64:]))) for images in (digits, encoded))
    assert (hidden[:, None] > clean[None]).mean() > 0.9


def test_the_critic_sees_what_the_encoder_hides_after_its_own_step():
    (images, secrets), state = small_batch(), started(SMALL)
    found, figures = run_step(SMALL, PAIR, state, images, secrets, jnp.float32(1))
    after, before = (
        np.clip(images + PAIR.hide(s.networks["encoder"], jnp.asarray(images), jnp.asarray(secrets)), 0, 1)
        for s in (found, state)
    )
    expected, gap = run_critic_step(SMALL, PAIR, state, images, after)
    assert float(figures["critic"]) == pytest.approx(float(gap), rel=1e-2)
    assert float(run_critic_step(SMALL, PAIR, state, images, before)[1]) != pytest.approx(float(gap), rel=0.1)
    moved = [np.sign(s.critic["score"]["kernel"] - state.critic["score"]["kernel"]) for s in (expected, found)]
    assert (moved[0] == moved[1]).mean() > 0.95


def test_the_first_epochs_do_without_the_critic():
    (images, secrets), states = small_batch(), []
    for critic_weight in (0.0, 0.5):
        attack = dataclasses.replace(SMALL, critic_weight=critic_weight)
        start = started(attack)
        found, _ = run_step(attack, PAIR, start, images, secrets, jnp.float32(0))
        assert jax.tree.all(jax.tree.map(np.array_equal, found.critic, start.critic))
        assert jax.tree.all(jax.tree.map(np.array_equal, found.rmsprop, start.rmsprop))
        states.append((start, found))
    (start, without), (same, under) = states
    assert start.critic == {}
    assert jax.tree.all(jax.tree.map(np.array_equal, start.networks, same.networks))
    gradients_without, gradients_under = (jax.tree.leaves(found.adam[0].mu) for found in (without, under))
    for one, other in zip(gradients_without, gradients_under, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("bits", 0),
        ("width", 0),
        ("epochs", 0),
        ("batch_size", 0),
        ("secret_epochs", 21),
        ("learning_rate", -1.0),
        ("residual_weight", -1.0),
        ("gradient_weight", -1.0),
        ("secret_weight", -1.0),
        ("critic_weight", -1.0),
        ("critic_learning_rate", float("nan")),
        ("seed", -1),
    ],
)
def test_impossible_constants_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option} is {value}"):
        Ssba(**{option: value})
