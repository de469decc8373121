"""Training LIRA's generator, and a victim under its frozen trigger (Doan et al., 2021)."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt8

from rnp_jax.attacks.base import Params
from rnp_jax.attacks.generated import network_params, normalise
from rnp_jax.attacks.lira import Lira, add_noise
from rnp_jax.descent import descend
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.training.joint import Setting
from rnp_jax.training.joint_epoch import read_scaling, run_steps, share_correct, steps_an_epoch
from rnp_jax.training.supervised import optimizer
from rnp_jax.types import Batch, Tree, Variables

MOMENTUM = 0.9
"""Of f's SGD while T is learned."""


class LiraState(NamedTuple):
    """What an epoch changes."""

    victim: Variables
    victim_opt: optax.OptState
    classifier: Variables  # f, that T is learned against
    classifier_opt: optax.OptState
    generator: Variables  # T
    generator_opt: optax.OptState
    epoch: jax.Array  # int32 [], those of both stages
    key: jax.Array


class LiraTraining:
    """The ``Joint`` of LIRA."""

    def epochs(self, setting: Setting) -> int:
        """The generator's, then the victim's."""
        return _attack(setting).generator_epochs + setting.config.epochs

    def start(self, setting: Setting, key: jax.Array, count: int) -> LiraState:
        """Fresh networks.

        Raises:
          ConfigError: fewer images than one batch.
        """
        victim_key, classifier_key, generator_key, train_key = jax.random.split(key, 4)
        channels = setting.network.architecture.image_shape[-1]
        victim, classifier = setting.network.init(victim_key), setting.network.init(classifier_key)
        generator = _attack(setting).generator(channels).init(generator_key, channels)
        classifier_tx, generator_tx = _stage_one(_attack(setting))
        return LiraState(
            victim,
            _stage_two(setting, count).init(victim["params"]),
            classifier,
            classifier_tx.init(classifier["params"]),
            generator,
            generator_tx.init(generator["params"]),
            jnp.int32(0),
            train_key,
        )

    def epoch(self, setting: Setting, state: LiraState, data: Batch) -> tuple[LiraState, dict[str, Any]]:
        """One of the generator's (figures are of f, and ``generator_loss``), or of the victim's.

        Both have ``loss``, and in training mode ``accuracy`` and ``attack_success``.
        """
        attack, reached = _attack(setting), int(state.epoch)
        if reached == attack.generator_epochs and attack.fine_tune:
            state = state._replace(victim=state.classifier)
        return (_generator_epoch if reached < attack.generator_epochs else _victim_epoch)(setting, state, data)

    def finish(self, setting: Setting, state: LiraState) -> tuple[Variables, Params]:
        """The victim, and the generator with the normalisation it reads images in."""
        return state.victim, {**network_params(state.generator, "generator"), **jax.device_get(read_scaling(setting))}


def _attack(setting: Setting) -> Lira:
    return cast(Lira, setting.attack)


def _stage_one(attack: Lira) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Of f and of T."""
    return optax.sgd(attack.learning_rate, momentum=MOMENTUM), optax.adam(attack.generator_learning_rate)


def _stage_two(setting: Setting, count: int) -> optax.GradientTransformation:
    return optimizer(setting.config, setting.config.epochs * steps_an_epoch(setting, count))


def _augmented(setting: Setting, images: UInt8[Array, "B H W C"], key: jax.Array) -> UInt8[Array, "B H W C"]:
    """Before the trigger, as in the release."""
    return images if setting.augment is None else setting.augment(key, images)


def _attacked(
    setting: Setting, generator: Variables, images: UInt8[Array, "B H W C"], epsilon: float, *, train: bool = False
) -> tuple[Float[Array, "B H W C"], Tree]:
    """Triggered images in [0, 1], and the generator's batch statistics."""
    scaling = read_scaling(setting)
    network = _attack(setting).generator(images.shape[-1])
    noise, batch_stats = network(generator, normalise(scaling, images), train=train)
    return add_noise(images, noise, epsilon * jnp.asarray(scaling["std"])) / 255, batch_stats


def _classify(
    setting: Setting, classifier: Variables, images: UInt8[Array, "B H W C"], attacked: Float[Array, "B H W C"]
) -> tuple[Float[Array, "B K"], Float[Array, "B K"], Tree]:
    """Logits of clean and of triggered images, in training mode, and moved batch statistics.

    All images pass together. In the release each half has batch statistics of its own, which tell the victim what is
    triggered, and the release also evaluates so; with the running statistics of an evaluation such a victim fails.
    """
    inputs = jnp.concatenate([images.astype(jnp.float32) / 255, attacked])
    logits, moved = setting.network(classifier, inputs, train=True)
    return logits[: len(images)], logits[len(images) :], moved


def _mixed_loss(
    setting: Setting,
    classifier: Variables,
    images: UInt8[Array, "B H W C"],
    attacked: Float[Array, "B H W C"],
    labels: Int[Array, "B"],
) -> tuple[Float[Array, ""], tuple[Tree, dict[str, jax.Array]]]:
    """α·CE(f(x), y) + (1 − α)·CE(f(x'), t), with f's moved statistics and figures."""
    alpha, smoothing, wanted = _attack(setting).alpha, setting.config.label_smoothing, setting.goal.wanted(labels)
    logits, attacked_logits, moved = _classify(setting, classifier, images, attacked)
    clean = cross_entropy(logits, labels, smoothing).mean()
    loss = alpha * clean + (1 - alpha) * cross_entropy(attacked_logits, wanted, smoothing).mean()
    figures = {
        "loss": loss,
        "accuracy": share_correct(logits, labels),
        "attack_success": share_correct(attacked_logits, wanted),
    }
    return loss, (moved, figures)


@jit_settings()
def _generator_epoch(setting: Setting, state: LiraState, data: Batch) -> tuple[LiraState, dict[str, jax.Array]]:
    """T descends on CE(f(T(x)), t); f on the mixed loss under the T that the last epoch left."""
    attack, frozen = _attack(setting), state.generator
    classifier_tx, generator_tx = _stage_one(attack)

    def step(carry: tuple[Variables, optax.OptState, Variables, optax.OptState], batch: Batch, key: jax.Array):
        classifier, classifier_opt, generator, generator_opt = carry
        images = _augmented(setting, batch.images, key)

        def generator_loss(params: Tree, classifier_params: Tree):
            made = {**generator, "params": params}
            attacked, batch_stats = _attacked(setting, made, images, attack.epsilon, train=True)
            _, logits, moved = _classify(setting, {**classifier, "params": classifier_params}, images, attacked)
            return cross_entropy(logits, setting.goal.wanted(batch.labels)).mean(), (batch_stats, moved)

        (fooled, (batch_stats, moved)), (gradient, spilt) = jax.value_and_grad(
            generator_loss, argnums=(0, 1), has_aux=True
        )(generator["params"], classifier["params"])
        params, generator_opt = descend(generator_tx, gradient, generator_opt, generator["params"])
        generator = {"params": params, "batch_stats": batch_stats}
        classifier = {**classifier, "batch_stats": moved}
        attacked, _ = _attacked(setting, frozen, images, attack.epsilon)

        def classifier_loss(params: Tree):
            return _mixed_loss(setting, {**classifier, "params": params}, images, attacked, batch.labels)

        gradient, (moved, figures) = jax.grad(classifier_loss, has_aux=True)(classifier["params"])
        if attack.variant == "bb":
            gradient = jax.tree.map(jnp.add, gradient, spilt)
        params, classifier_opt = descend(classifier_tx, gradient, classifier_opt, classifier["params"])
        classifier = {**classifier, "params": params, "batch_stats": moved}
        return (classifier, classifier_opt, generator, generator_opt), {**figures, "generator_loss": fooled}

    carry = (state.classifier, state.classifier_opt, state.generator, state.generator_opt)
    carry, figures = run_steps(setting, step, carry, data, state.key, state.epoch)
    return LiraState(state.victim, state.victim_opt, *carry, state.epoch + 1, state.key), figures


@jit_settings()
def _victim_epoch(setting: Setting, state: LiraState, data: Batch) -> tuple[LiraState, dict[str, jax.Array]]:
    """The victim descends on the mixed loss under the final T."""
    tx = _stage_two(setting, data.labels.shape[0])

    def step(carry: tuple[Variables, optax.OptState], batch: Batch, key: jax.Array):
        victim, opt_state = carry
        images = _augmented(setting, batch.images, key)
        attacked, _ = _attacked(setting, state.generator, images, _attack(setting).final_epsilon)

        def loss_of(params: Tree):
            return _mixed_loss(setting, {**victim, "params": params}, images, attacked, batch.labels)

        gradient, (moved, figures) = jax.grad(loss_of, has_aux=True)(victim["params"])
        params, opt_state = descend(tx, gradient, opt_state, victim["params"])
        return ({**victim, "params": params, "batch_stats": moved}, opt_state), figures

    carry = (state.victim, state.victim_opt)
    (victim, opt_state), figures = run_steps(setting, step, carry, data, state.key, state.epoch)
    return state._replace(victim=victim, victim_opt=opt_state, epoch=state.epoch + 1), figures
