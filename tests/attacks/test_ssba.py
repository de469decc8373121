from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.attacks.artefact import load_artefact, save_artefact
from rnp_jax.attacks.base import quantise
from rnp_jax.attacks.ssba import Ssba, _epoch, draw_secrets, gradients, train_pair
from rnp_jax.attacks.trees import to_params
from rnp_jax.data.digits import load_digits
from rnp_jax.errors import ConfigError, DataError
from tests.compiled import count_compiled

KEY = jax.random.key(0)
SHAPE = (8, 8, 3)
ATTACK = Ssba(bits=6, width=4, epochs=14, secret_epochs=2, learning_rate=3e-3)


def ignore(epoch, figures):
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
    networks, last = train_pair(ATTACK, images, KEY, lambda epoch, figures: found.told.append((epoch, figures)))
    assert last == found.told[-1][1]
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
    assert [epoch for epoch, _ in fitted.told] == list(range(1, 15))
    assert fitted.compiled == 1
    assert fitted.told[-1][1]["bit_accuracy"] > 0.95
    residuals = [figures["residual"] for _, figures in fitted.told]
    assert residuals[-1] < residuals[1] / 2  # the secret alone first, then also that it shall not be seen


def test_the_artefact_survives_its_file(fitted, tmp_path):
    save_artefact(tmp_path / "trigger.npz", fitted.params)
    loaded = load_artefact(tmp_path / "trigger.npz", ATTACK, SHAPE)
    assert loaded.keys() == fitted.params.keys()
    assert all(np.array_equal(loaded[name], fitted.params[name]) for name in loaded)


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
    with pytest.raises(DataError, match="images have 1 channels where the encoder is for 3"):
        ATTACK.trigger(params, jnp.zeros((1, 8, 8, 1), jnp.uint8), KEY)
    with pytest.raises(DataError, match="expected uint8"):
        ATTACK.trigger(params, jnp.zeros((1, 8, 8, 3)), KEY)
    with pytest.raises(DataError, match="1 images: expected 2 or more"):
        train_pair(ATTACK, np.zeros((1, *SHAPE), np.uint8), KEY, ignore)


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
        ("seed", -1),
    ],
)
def test_impossible_constants_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"{option} is {value}"):
        Ssba(**{option: value})
