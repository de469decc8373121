"""SSBA, also called ISSBA (Li et al., 2021): an encoder hides one secret in every image, by a residual of its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8

from rnp_jax.attacks.base import Attack, ImageShape, Params, check_images, quantise
from rnp_jax.attacks.means import Means
from rnp_jax.attacks.trees import to_params, to_tree
from rnp_jax.checks import MOST_STEPS, check_image_shape, check_number, check_seed
from rnp_jax.descent import descend
from rnp_jax.errors import DataError
from rnp_jax.fetching import fetch_late
from rnp_jax.models.steganography import Steganography
from rnp_jax.traced import is_off, jit_settings
from rnp_jax.types import Progress, Tree

SCALES = 3
"""Resolutions at which gradients are compared: full, half and quarter."""

MOST_HELD_OUT = 256
"""Images kept from training to measure how well secrets are read."""

CRITIC_BOUND = 0.01
"""To which the critic's weights are clipped after each step, so that its score cannot grow without end."""


@dataclass(frozen=True, kw_only=True)
class Ssba(Attack):
    """x' = Q(x + E(s, x)): one secret s for all images, encoder E learned with a decoder that reads any secret back.

    The encoder is StegaStamp's U-Net at half its width (1.2 MB in an artefact for 32x32x3 instead of 4.1 MB). Loss:
    2·mean(r²) + 1.5·gradients(r) + 1.5·BCE + 0.5·D(x') on the residual r, BCE alone in the first epochs. LPIPS, whose
    weights cannot be had without a download, is replaced by ``gradients``, the mean absolute finite difference of r at
    three scales; the decoder's spatial transformer, made for photographed prints, is left out. The encoder is
    convolutional: one learned at a size triggers any other.

    After each of these steps but in the first epochs, the critic D takes one down mean D(x) − mean D(x'), x' by the
    encoder as it now is. Its weights are clipped, as StegaStamp's (Tancik et al., 2020), whose clip of their gradients
    at 0.25 is left out: with such weights none comes near it. BackdoorBox clips gradients alone, at 0.01, rectifies the
    score, and in its examples never trains D, so that the term there is a random network's.

    Raises:
      ConfigError: a constant out of its range.
    """

    title = "Sample-specific (SSBA)"
    looks = "A secret that an encoder hides in each image; the eye does not see it."
    paper = "Li et al., 2021"
    learned = True
    deviation = (
        "LPIPS is replaced by the residual's gradients at three scales; the encoder has half the width; there is no "
        "spatial transformer."
    )

    bits: int = 20
    """Length of the secret: BackdoorBox's; the paper hides 100."""
    width: int = 16
    """Channels of the encoder's first level; 32 as published."""
    epochs: int = 20
    """Passes over the clean images that train encoder and decoder."""
    secret_epochs: int = 2
    """Of these, the first that train for the secret alone."""
    batch_size: int = 32
    """Images a step."""
    learning_rate: float = 1e-4
    """Adam's."""
    residual_weight: float = 2.0
    """Of the residual's mean square."""
    gradient_weight: float = 1.5
    """Of the residual's gradients, in LPIPS's place."""
    secret_weight: float = 1.5
    """Of the binary cross-entropy of the bits read."""
    critic_weight: float = 0.5
    """Of the critic's mean score of triggered images; 0 leaves the critic out."""
    critic_learning_rate: float = 1e-5
    """RMSprop's, of the critic."""
    seed: int = 0
    """Draws the secret."""

    def __post_init__(self):
        for name, most in (("bits", 1024), ("width", 256), ("epochs", MOST_STEPS), ("batch_size", MOST_STEPS)):
            check_number(name, getattr(self, name), 1, most, integer=True)
        check_number("secret_epochs", self.secret_epochs, 0, self.epochs, integer=True)
        weights = ("residual_weight", "gradient_weight", "secret_weight", "critic_weight")
        for name in ("learning_rate", "critic_learning_rate", *weights):
            check_number(name, getattr(self, name), 0)
        check_seed("seed", self.seed)

    def init(self, image_shape: ImageShape) -> Params:
        """``secret`` bool [S], and the arrays of an ``encoder/…`` that hides nothing, all zero."""
        secret = np.random.default_rng(self.seed).integers(0, 2, self.bits).astype(np.bool_)
        return {"secret": secret, **to_params(self.pair(check_image_shape(image_shape)).zeros(), "encoder")}

    def fit(self, params: Params, means: Means) -> Params:
        """Trains encoder, decoder and critic on the clean images; the encoder alone is kept."""
        trained, _ = train_pair(self, means.data.images, means.key, means.progress)
        return {**params, **to_params(trained["encoder"], "encoder")}

    def trigger(self, params: Params, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
        """Hide the secret in every image."""
        del key
        check_images(images, ())
        kernel = params["encoder/secret_kernel"]
        if images.shape[-1] != kernel.shape[-1]:
            raise DataError(
                f"images have {images.shape[-1]} channels, but the encoder is for {kernel.shape[-1]}; fit one for these"
            )
        _, height, width, channels = kernel.shape
        encoder = jax.tree.map(jnp.asarray, to_tree(params, "encoder"))
        secrets = jnp.tile(jnp.asarray(params["secret"], jnp.float32)[None], (images.shape[0], 1))
        scaled = images.astype(jnp.float32) / 255
        residuals = self.pair((height, width, channels)).hide(encoder, scaled, secrets)
        return quantise(255 * (scaled + residuals))

    def pair(self, image_shape: ImageShape) -> Steganography:
        """Encoder and decoder for images of this shape."""
        return Steganography(image_shape, self.bits, self.width)


def gradients(residuals: Float[Array, "B H W C"]) -> Float[Array, ""]:
    """Mean absolute difference of neighbouring pixels, down and right, averaged over ``SCALES`` halvings."""
    x, total = residuals, jnp.float32(0)
    for scale in range(SCALES):
        if scale and min(x.shape[1:3]) > 1:
            height, width = x.shape[1] // 2, x.shape[2] // 2
            blocks = x[:, : 2 * height, : 2 * width].reshape(x.shape[0], height, 2, width, 2, x.shape[3])
            x = blocks.mean((2, 4))
        for axis in (1, 2):
            if x.shape[axis] > 1:
                total += jnp.abs(jnp.diff(x, axis=axis)).mean()
    return total / SCALES


class _State(NamedTuple):
    networks: Tree  # encoder and decoder
    adam: optax.OptState
    critic: Tree  # empty where it has no weight
    rmsprop: optax.OptState


def train_pair(
    attack: Ssba, images: UInt8[np.ndarray, "N H W C"], key: jax.Array, progress: Progress
) -> tuple[Tree, dict[str, float]]:
    """Trains ``{'encoder', 'decoder'}`` on all images but a tenth (at most ``MOST_HELD_OUT``), secrets drawn anew.

    Returns:
      Both networks' parameters, and the last epoch's figures, each epoch's being told to ``progress``: ``loss``,
      ``critic`` (mean D(x') − D(x) before each step, where there is a critic), and on the images held out, stored with
      8 bits: ``bit_accuracy``, and ``residual``, mean absolute grey levels.

    Raises:
      DataError: fewer than two images.
    """
    check_images(images, ())
    if len(images) < 2:
        raise DataError(f"{len(images)} images: expected 2 or more, to train an encoder and to test it")
    height, width, channels = images.shape[1:]
    pair = attack.pair((height, width, channels))
    init_key, split_key, epoch_key = jax.random.split(key, 3)
    order = np.asarray(jax.random.permutation(split_key, len(images)))
    held_out = min(MOST_HELD_OUT, max(1, len(images) // 10))
    test, train = jax.device_put((images[order[:held_out]], images[order[held_out:]]))
    state = _start(attack, pair, init_key)

    def run() -> Iterator[dict[str, jax.Array]]:
        nonlocal state
        for epoch in range(attack.epochs):
            key = jax.random.fold_in(epoch_key, epoch)
            state, found = _epoch(attack, pair, state, train, test, key, jnp.int32(epoch))
            yield found

    figures: dict[str, float] = {}
    for epoch, found in enumerate(fetch_late(run()), 1):
        figures = {name: float(value) for name, value in found.items()}
        progress("encoder", epoch, attack.epochs, figures)
    return state.networks, figures


def _start(attack: Ssba, pair: Steganography, key: jax.Array) -> _State:
    """Fresh networks; encoder and decoder are the same whether there is a critic or not."""
    networks = jax.tree.map(jnp.asarray, pair.init(key))
    fresh = pair.init_critic(jax.random.fold_in(key, 1), CRITIC_BOUND) if attack.critic_weight else {}
    critic = jax.tree.map(jnp.asarray, fresh)
    return _State(networks, optax.adam(attack.learning_rate).init(networks), critic, _rmsprop(attack).init(critic))


@jit_settings(1, static=1)
def _epoch(
    attack: Ssba,
    pair: Steganography,
    state: _State,
    train: jax.Array,
    test: jax.Array,
    key: jax.Array,
    epoch: jax.Array,
) -> tuple[_State, dict[str, jax.Array]]:
    order_key, step_key, test_key = jax.random.split(key, 3)
    size = min(attack.batch_size, train.shape[0])
    steps = train.shape[0] // size
    batches = jax.random.permutation(order_key, train.shape[0])[: steps * size].reshape(steps, size)
    weighted = (epoch >= attack.secret_epochs).astype(jnp.float32)

    def step(state: _State, inputs: tuple[jax.Array, jax.Array]) -> tuple[_State, dict[str, jax.Array]]:
        index, key = inputs
        images = train[index].astype(jnp.float32) / 255
        return _step(attack, pair, state, images, draw_secrets(key, size, attack.bits), weighted)

    state, figures = jax.lax.scan(step, state, (batches, jax.random.split(step_key, steps)))
    secrets, images = draw_secrets(test_key, test.shape[0], attack.bits), test.astype(jnp.float32) / 255
    stored = quantise(255 * (images + pair.hide(state.networks["encoder"], images, secrets))).astype(jnp.float32)
    right = (pair.read(state.networks["decoder"], stored / 255) > 0) == (secrets > 0)
    residual = jnp.abs(stored - test.astype(jnp.float32)).mean()
    means = {name: values.mean() for name, values in figures.items()}
    return state, {**means, "bit_accuracy": right.astype(jnp.float32).mean(), "residual": residual}


def _step(
    attack: Ssba,
    pair: Steganography,
    state: _State,
    images: Float[Array, "B H W C"],
    secrets: Float[Array, "B S"],
    weighted: Float[Array, ""],
) -> tuple[_State, dict[str, jax.Array]]:
    """One of encoder and decoder, and where the residual is ``weighted`` (1, not 0), then one of the critic."""

    def loss_of(networks: Tree) -> jax.Array:
        residuals = pair.hide(networks["encoder"], images, secrets)
        encoded = jnp.clip(images + residuals, 0, 1)
        read = pair.read(networks["decoder"], encoded)
        visible = attack.residual_weight * jnp.square(residuals).mean() + attack.gradient_weight * gradients(residuals)
        if not is_off(attack.critic_weight):
            visible += attack.critic_weight * pair.judge(state.critic, encoded).mean()
        secret = optax.sigmoid_binary_cross_entropy(read, secrets).mean()
        return weighted * visible + attack.secret_weight * secret

    loss, gradient = jax.value_and_grad(loss_of)(state.networks)
    networks, adam = descend(optax.adam(attack.learning_rate), gradient, state.adam, state.networks)
    state = state._replace(networks=networks, adam=adam)
    if is_off(attack.critic_weight):
        return state, {"loss": loss}
    encoded = jnp.clip(images + pair.hide(state.networks["encoder"], images, secrets), 0, 1)
    stepped, told_apart = _critic_step(attack, pair, state, images, encoded)
    return jax.tree.map(partial(jnp.where, weighted > 0), stepped, state), {"loss": loss, "critic": told_apart}


def _critic_step(
    attack: Ssba,
    pair: Steganography,
    state: _State,
    images: Float[Array, "B H W C"],
    encoded: Float[Array, "B H W C"],
) -> tuple[_State, Float[Array, ""]]:
    """One step towards higher scores of encoded images than of clean ones, and how far apart these were before."""

    def loss_of(critic: Tree) -> jax.Array:
        return pair.judge(critic, images).mean() - pair.judge(critic, encoded).mean()

    loss, gradient = jax.value_and_grad(loss_of)(state.critic)
    moved, rmsprop = descend(_rmsprop(attack), gradient, state.rmsprop, state.critic)
    critic = jax.tree.map(lambda weights: jnp.clip(weights, -CRITIC_BOUND, CRITIC_BOUND), moved)
    return state._replace(critic=critic, rmsprop=rmsprop), -loss


def _rmsprop(attack: Ssba) -> optax.GradientTransformation:
    """As torch has it by default (BackdoorBox). TensorFlow's (StegaStamp), its mean square started at 1 and its ε of
    1e-10 inside the root, would hardly move a fresh critic, whose gradients are of 1e-7 to 1e-5, for 200 steps.
    """
    return optax.rmsprop(attack.critic_learning_rate, decay=0.99, eps=1e-8, eps_in_sqrt=False)


def draw_secrets(key: jax.Array, count: int, bits: int) -> Float[Array, "B S"]:
    """Fair bits, as zeros and ones."""
    return jax.random.bernoulli(key, shape=(count, bits)).astype(jnp.float32)
