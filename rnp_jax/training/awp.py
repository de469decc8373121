"""Training by AWP (Garg et al., 2020): a clean victim first, then weights near its own that know the trigger.

Second phase: Adam on the mean cross-entropy of clean and triggered images in equal parts, plus λ‖θ − θ₀‖², projected to
the ε-ball around the clean weights θ₀ after each step. Batch statistics are frozen throughout it.
"""

from typing import Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from rnp_jax.attacks.awp import Awp, mean_color
from rnp_jax.attacks.base import Params
from rnp_jax.descent import descend
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import cross_entropy, run_epoch
from rnp_jax.training.joint import Setting
from rnp_jax.training.joint_epoch import steps_an_epoch
from rnp_jax.training.supervised import TrainState, start, train_epoch
from rnp_jax.types import Batch, Tree, Variables


class AwpState(NamedTuple):
    """What an epoch changes."""

    params: Tree
    batch_stats: Tree
    masks: Tree
    clean: Tree  # θ₀: the parameters after the first phase, and until then the current ones
    sgd: optax.OptState  # of the first phase
    adam: optax.OptState  # of the second
    epoch: jax.Array  # int32 []
    key: jax.Array


class AwpTraining:
    """How AWP trains: a ``Joint``."""

    def epochs(self, setting: Setting) -> int:
        """Of clean training and of perturbation."""
        return setting.config.epochs + _attack(setting).epochs

    def start(self, setting: Setting, key: jax.Array, count: int) -> AwpState:
        """A fresh victim.

        Raises:
          ConfigError: fewer images than one batch.
        """
        steps_an_epoch(setting, count)
        init_key, key = jax.random.split(key)
        variables = setting.network.init(init_key)
        params, batch_stats, sgd, epoch, key, _ = start(variables, key, setting.config, count)
        adam = optax.adam(_attack(setting).learning_rate).init(params)
        return AwpState(params, batch_stats, variables["masks"], params, sgd, adam, epoch, key)

    def epoch(self, setting: Setting, state: AwpState, data: Batch) -> tuple[AwpState, dict[str, jax.Array]]:
        """One epoch of either phase.

        Figures: ``loss`` and ``accuracy``; then also ``success``, the share of triggered images called as wanted,
        ``agreement``, the share of clean images called as θ₀ calls them, and ``shift``, max|θ − θ₀|.
        """
        if int(state.epoch) >= setting.config.epochs:
            return _perturb(setting, _artefact(setting), state, data)
        victim = TrainState(state.params, state.batch_stats, state.sgd, state.epoch, state.key)
        victim, figures = train_epoch(
            setting.network, setting.config, None, setting.augment, None, victim, state.masks, data
        )
        params, batch_stats, sgd, epoch, *_ = victim
        state = state._replace(params=params, batch_stats=batch_stats, clean=params, sgd=sgd, epoch=epoch)
        return state, figures

    def finish(self, setting: Setting, state: AwpState) -> tuple[Variables, Params]:
        """The perturbed victim, and the square in its normalisation's mean colour."""
        variables = {"params": state.params, "batch_stats": state.batch_stats, "masks": state.masks}
        return variables, _artefact(setting)


def project(params: Tree, clean: Tree, epsilon: float, variant: Literal["absolute", "relative"] = "absolute") -> Tree:
    """The nearest parameters to ``params`` with |θ − θ₀| ≤ ε, or ε|θ₀| if relative, in each entry."""

    def clip(value: jax.Array, center: jax.Array) -> jax.Array:
        reach = epsilon * (jnp.abs(center) if variant == "relative" else jnp.ones_like(center))
        return jnp.clip(value, center - reach, center + reach)

    return jax.tree.map(clip, params, clean)


@jit_settings()
def _perturb(setting: Setting, artefact: Params, state: AwpState, data: Batch) -> tuple[AwpState, dict[str, jax.Array]]:
    attack, network = _attack(setting), setting.network
    tx = optax.adam(attack.learning_rate)
    count = min(attack.samples, data.labels.shape[0])
    chosen = jax.random.permutation(state.key, data.labels.shape[0])[:count]

    def logits_of(params: Tree, images: jax.Array) -> jax.Array:
        return network({"params": params, "batch_stats": state.batch_stats, "masks": state.masks}, images)[0]

    def loss_of(params: Tree, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = logits_of(params, images)
        squares = jax.tree.map(lambda value, center: jnp.square(value - center).sum(), params, state.clean)
        loss = cross_entropy(logits, labels).mean() + attack.distance_weight * sum(jax.tree.leaves(squares))
        return loss, logits.argmax(-1)

    def step(carry: tuple[Tree, optax.OptState], batch: Batch, key: jax.Array):
        params, adam = carry
        size = batch.labels.shape[0]
        before = logits_of(state.clean, batch.images).argmax(-1)
        wanted = setting.goal.wanted(batch.labels)
        images = jnp.concatenate([batch.images, attack.trigger(artefact, batch.images, key)])
        labels = jnp.concatenate([batch.labels if attack.labels == "true" else before.astype(jnp.int32), wanted])
        (loss, called), gradient = jax.value_and_grad(loss_of, has_aux=True)(params, images, labels)
        moved, adam = descend(tx, gradient, adam, params)
        params = project(moved, state.clean, attack.epsilon, attack.variant)
        figures = {
            "loss": size * loss,
            "accuracy": (called[:size] == batch.labels).sum().astype(jnp.float32),
            "success": (called[size:] == wanted).sum().astype(jnp.float32),
            "agreement": (called[:size] == before).sum().astype(jnp.float32),
        }
        return (params, adam), figures

    key = jax.random.fold_in(state.key, state.epoch)
    subset = Batch(data.images[chosen], data.labels[chosen])
    size = min(setting.config.batch_size, count)
    (params, adam), figures = run_epoch(step, (state.params, state.adam), subset, key, batch_size=size)
    shifts = jax.tree.map(lambda value, center: jnp.abs(value - center).max(), params, state.clean)
    figures["shift"] = jnp.stack(jax.tree.leaves(shifts)).max()
    return state._replace(params=params, adam=adam, epoch=state.epoch + 1), figures


def _attack(setting: Setting) -> Awp:
    return cast(Awp, setting.attack)


def _artefact(setting: Setting) -> Params:
    params = setting.attack.init(setting.network.architecture.image_shape)
    return {**params, "color": mean_color(setting.network.mean)}
