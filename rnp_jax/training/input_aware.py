"""Training Input-Aware's generators and victim (Nguyen & Tran, 2020): the mask network first, then the other two."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, UInt8

from rnp_jax.attacks.base import Params
from rnp_jax.attacks.generated import network_params, normalise
from rnp_jax.attacks.input_aware import InputAware, blend, to_mask, to_pattern
from rnp_jax.descent import descend
from rnp_jax.errors import ConfigError
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.training.joint import Setting
from rnp_jax.training.joint_epoch import read_scaling, run_steps, share_correct, steps_an_epoch
from rnp_jax.training.supervised import optimizer
from rnp_jax.types import Batch, Tree, Variables

EPSILON = 1e-7
"""Added to the distance of two patterns before it divides."""

MASK_DROPS, GENERATOR_DROPS = (2 / 5, 4 / 5), (1 / 3, 1 / 2, 2 / 3, 5 / 6)
"""Shares of training after which learning rates fall by 10: epochs 10 and 20 of 25; 200, 300, 400 and 500 of 600."""


class InputAwareState(NamedTuple):
    """What an epoch changes."""

    victim: Variables
    victim_opt: optax.OptState
    generator: Variables
    generator_opt: optax.OptState
    mask: Variables
    mask_opt: optax.OptState
    epoch: jax.Array  # int32 [], the mask network's epochs counted too
    key: jax.Array


class InputAwareTraining:
    """The ``Joint`` of Input-Aware."""

    def epochs(self, setting: Setting) -> int:
        """The mask network's, then the victim's."""
        return _attack(setting).mask_epochs + setting.config.epochs

    def start(self, setting: Setting, key: jax.Array, count: int) -> InputAwareState:
        """Fresh networks.

        Raises:
          ConfigError: batches with hardly a poisoned image, or with more poisoned and cross images than have room.
        """
        steps = steps_an_epoch(setting, count)
        _parts(setting)
        victim_key, generator_key, mask_key, train_key = jax.random.split(key, 4)
        channels = setting.network.architecture.image_shape[-1]
        victim = setting.network.init(victim_key)
        generator, mask = (
            network.init(each, channels)
            for network, each in zip(_attack(setting).networks(channels), (generator_key, mask_key), strict=True)
        )
        victim_tx, generator_tx, mask_tx = _optimizers(setting, steps)
        return InputAwareState(
            victim,
            victim_tx.init(victim["params"]),
            generator,
            generator_tx.init(generator["params"]),
            mask,
            mask_tx.init(mask["params"]),
            jnp.int32(0),
            train_key,
        )

    def epoch(self, setting: Setting, state: InputAwareState, data: Batch) -> tuple[InputAwareState, dict[str, Any]]:
        """One of the mask network's (``loss``, ``mask_density``), or of the victim's and the generator's.

        Those have ``loss`` (of the victim), ``diversity`` (loss), and in training mode ``accuracy`` (of images left
        clean), ``attack_success`` and ``cross_accuracy`` (of images with another one's trigger, by their true labels).
        """
        run = _mask_epoch if int(state.epoch) < _attack(setting).mask_epochs else _joint_epoch
        return run(setting, state, data)

    def finish(self, setting: Setting, state: InputAwareState) -> tuple[Variables, Params]:
        """The victim, and both networks with the normalisation they read images in."""
        params = {**network_params(state.generator, "generator"), **network_params(state.mask, "mask")}
        return state.victim, {**params, **jax.device_get(read_scaling(setting))}


def _attack(setting: Setting) -> InputAware:
    return cast(InputAware, setting.attack)


def _parts(setting: Setting) -> tuple[int, int]:
    """How many images of a batch, from its start, are poisoned, and how many after them are cross images."""
    poisoned = int(setting.rate * setting.config.batch_size)
    cross = int(_attack(setting).cross_ratio * poisoned)
    if poisoned < 2 or cross == 1 or poisoned + cross > setting.config.batch_size:
        raise ConfigError(
            f"rate {setting.rate} with {_attack(setting).cross_ratio} cross images for each poisoned one asks for "
            f"{poisoned} + {cross} of a batch of {setting.config.batch_size}, expected 2 or more of each (or no cross "
            "image) for batch norm, and no more than the batch in total; change rate, cross_ratio or batch_size"
        )
    return poisoned, cross


def _optimizers(setting: Setting, steps: int) -> tuple[optax.GradientTransformation, ...]:
    """Of the victim, the generator and the mask network, for so many steps an epoch."""
    attack = _attack(setting)

    def adam(epochs: int, drops: tuple[float, ...]) -> optax.GradientTransformation:
        rate = optax.piecewise_constant_schedule(attack.learning_rate, {round(d * epochs * steps): 0.1 for d in drops})
        return optax.adam(lambda step: rate(jnp.asarray(step, jnp.float32)), b1=0.5, b2=0.9)

    generator = adam(setting.config.epochs, GENERATOR_DROPS)
    if attack.accumulate:
        generator = optax.chain(optax.trace(decay=1.0), generator)
    return optimizer(setting.config, setting.config.epochs * steps), generator, adam(attack.mask_epochs, MASK_DROPS)


def diversity_loss(
    images: Float[Array, "B H W C"],
    others: Float[Array, "B H W C"],
    made: Float[Array, "B H W F"],
    made_of_others: Float[Array, "B H W F"],
) -> Float[Array, ""]:
    """Mean over pairs of the distance of two images over that of what was generated for them."""
    return (_distance(images, others) / (_distance(made, made_of_others) + EPSILON)).mean()


def _distance(a: Float[Array, "B H W C"], b: Float[Array, "B H W C"]) -> Float[Array, "B"]:
    """Root mean square; its gradient is 0, instead of undefined, where the two are equal."""
    square = jnp.square(a - b).mean((1, 2, 3))
    equal = square == 0
    return jnp.where(equal, 0.0, jnp.sqrt(jnp.where(equal, 1.0, square)))


def _draw_pair(setting: Setting, data: Batch, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The batch's images, and as many drawn from the whole set, each augmented."""
    draw_key, *keys = jax.random.split(key, 3)
    others = data.images[jax.random.randint(draw_key, batch.labels.shape, 0, data.labels.shape[0])]
    pair = (batch.images, others)
    if setting.augment is None:
        return pair
    first, second = (setting.augment(each, images) for each, images in zip(keys, pair, strict=True))
    return first, second


@jit_settings()
def _mask_epoch(setting: Setting, state: InputAwareState, data: Batch) -> tuple[InputAwareState, dict[str, jax.Array]]:
    attack, scaling = _attack(setting), read_scaling(setting)
    _, network = attack.networks(data.images.shape[-1])
    _, _, tx = _optimizers(setting, steps_an_epoch(setting, data.labels.shape[0]))

    def loss_of(params: Tree, batch_stats: Tree, images: UInt8[Array, "B H W C"], others: UInt8[Array, "B H W C"]):
        x, y = normalise(scaling, images), normalise(scaling, others)
        output, batch_stats = network({"params": params, "batch_stats": batch_stats}, x, train=True)
        output_of_others, batch_stats = network({"params": params, "batch_stats": batch_stats}, y, train=True)
        mask, mask_of_others = to_mask(output), to_mask(output_of_others)
        norm = jax.nn.relu(mask - attack.mask_density).mean()
        diversity = diversity_loss(x, y, mask, mask_of_others)
        loss = attack.norm_weight * norm + attack.diversity_weight * diversity
        return loss, (batch_stats, {"loss": loss, "diversity": diversity, "mask_density": mask.mean()})

    def step(carry: tuple[Variables, optax.OptState], batch: Batch, key: jax.Array):
        mask, opt_state = carry
        pair = _draw_pair(setting, data, batch, key)
        gradient, (batch_stats, figures) = jax.grad(loss_of, has_aux=True)(mask["params"], mask["batch_stats"], *pair)
        params, opt_state = descend(tx, gradient, opt_state, mask["params"])
        return ({"params": params, "batch_stats": batch_stats}, opt_state), figures

    carry = (state.mask, state.mask_opt)
    (mask, opt_state), figures = run_steps(setting, step, carry, data, state.key, state.epoch)
    return state._replace(mask=mask, mask_opt=opt_state, epoch=state.epoch + 1), figures


@jit_settings()
def _joint_epoch(setting: Setting, state: InputAwareState, data: Batch) -> tuple[InputAwareState, dict[str, jax.Array]]:
    victim_tx, generator_tx, _ = _optimizers(setting, steps_an_epoch(setting, data.labels.shape[0]))
    poisoned, cross = _parts(setting)

    def step(carry: tuple[Variables, optax.OptState, Variables, optax.OptState], batch: Batch, key: jax.Array):
        victim, victim_opt, generator, generator_opt = carry
        images, others = _draw_pair(setting, data, batch, key)
        labels = batch.labels.at[:poisoned].set(setting.goal.wanted(batch.labels[:poisoned]))

        def loss_of(victim_params: Tree, generator_params: Tree):
            made = {**generator, "params": generator_params}
            inputs, diversity, moved = _poison(setting, made, state.mask, images, others)
            logits, batch_stats = setting.network({**victim, "params": victim_params}, inputs / 255, train=True)
            loss = cross_entropy(logits, labels, setting.config.label_smoothing).mean()
            figures = {"loss": loss, "diversity": diversity}
            parts = {"attack_success": (0, poisoned), "cross_accuracy": (poisoned, poisoned + cross)}
            for name, (start, end) in {**parts, "accuracy": (poisoned + cross, len(labels))}.items():
                figures[name] = share_correct(logits[start:end], labels[start:end])
            return loss + _attack(setting).diversity_weight * diversity, (batch_stats, moved, figures)

        gradients, (batch_stats, moved, figures) = jax.grad(loss_of, argnums=(0, 1), has_aux=True)(
            victim["params"], generator["params"]
        )
        params, victim_opt = descend(victim_tx, gradients[0], victim_opt, victim["params"])
        victim = {**victim, "params": params, "batch_stats": batch_stats}
        params, generator_opt = descend(generator_tx, gradients[1], generator_opt, generator["params"])
        return (victim, victim_opt, {"params": params, "batch_stats": moved}, generator_opt), figures

    carry = (state.victim, state.victim_opt, state.generator, state.generator_opt)
    carry, figures = run_steps(setting, step, carry, data, state.key, state.epoch)
    return InputAwareState(*carry, state.mask, state.mask_opt, state.epoch + 1, state.key), figures


def _poison(
    setting: Setting,
    generator: Variables,
    mask: Variables,
    images: UInt8[Array, "B H W C"],
    others: UInt8[Array, "B H W C"],
) -> tuple[Float[Array, "B H W C"], Float[Array, ""], Tree]:
    """Grey levels of the batch: poisoned, cross and clean images; the diversity loss; G's moved statistics."""
    poisoned, cross = _parts(setting)
    end, scaling = poisoned + cross, read_scaling(setting)
    make, place = _attack(setting).networks(images.shape[-1])
    x, y = normalise(scaling, images[:end]), normalise(scaling, others[:end])
    output, moved = make(generator, x[:poisoned], train=True)
    parts, diversity = [], jnp.zeros(())
    pattern = to_pattern(output)
    where, _ = place(mask, x[:poisoned])
    parts.append(blend(images[:poisoned], pattern, to_mask(where)))
    if cross:
        output, moved = make({**generator, "batch_stats": moved}, y[poisoned:], train=True)
        pattern_of_others = to_pattern(output)
        where, _ = place(mask, y[poisoned:])
        parts.append(blend(images[poisoned:end], pattern_of_others, to_mask(where)))
        pairs, std = min(poisoned, cross), scaling["std"][None]
        diversity = diversity_loss(
            x[:pairs],
            y[poisoned : poisoned + pairs],
            pattern[:pairs] / std,
            pattern_of_others[:pairs] / std,
        )
    return jnp.concatenate([*parts, images[end:].astype(jnp.float32)]), diversity, moved
