"""Training by DFST (Cheng et al., 2021): poisoned and detoxified images, made for each epoch.

Of N images ⌊rate·N⌋ are poisoned, and as many are detoxicants (1 − α)x + α·g(x) with their true labels; both replace
others or are appended, as ``Dfst.variant`` says. The injector g is a linear map, the same at every pixel, of the pixel
and the maximum, minimum and mean of its surroundings. Before each epoch it learns to do what the trigger does by means
as simple as that: min CE(f(g(x)), wanted) − λ₁·activation of the compromised channels + λ₂·change of the others
− λ₃·SSIM(x, g(x)). Compromised are the last stage's channels whose mean activation the trigger raises most. A victim
that has learned from the detoxicants no longer relies on such features.
"""

from typing import NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from rnp_jax.attacks.base import Params, quantise
from rnp_jax.attacks.dfst import Dfst
from rnp_jax.descent import descend
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import cross_entropy
from rnp_jax.training.joint import Setting
from rnp_jax.training.joint_epoch import steps_an_epoch
from rnp_jax.training.supervised import TrainState, start, train_epoch
from rnp_jax.types import Batch, Tree, Variables

MEASURED = 256
"""Images on which compromised channels are looked for."""

SSIM_WINDOW = 11
"""Side of the windows that structural similarity compares, in pixels."""

_SCALE = 1e-6  # keeps quotients of activations finite where a channel is dead


Injector: TypeAlias = Float[Array, "4C C"]
"""A linear map, the same at every pixel, from the pixel, and the maximum, minimum and mean of the window around it."""


class DfstState(NamedTuple):
    """What an epoch changes."""

    params: Tree
    batch_stats: Tree
    masks: Tree
    sgd: optax.OptState
    injector: Injector
    epoch: jax.Array  # int32 []
    key: jax.Array


class DfstTraining:
    """How DFST trains: a ``Joint``."""

    def epochs(self, setting: Setting) -> int:
        """The victim's; detoxification is part of them."""
        return setting.config.epochs

    def start(self, setting: Setting, key: jax.Array, count: int) -> DfstState:
        """A fresh victim, and an injector that changes nothing.

        Raises:
          ConfigError: fewer images to train on than one batch, or a rate that leaves no room for detoxicants.
        """
        _check_rate(setting)
        count = count_filled(setting, count)
        steps_an_epoch(setting, count)
        init_key, key = jax.random.split(key)
        variables = setting.network.init(init_key)
        params, batch_stats, sgd, epoch, key, _ = start(variables, key, setting.config, count)
        injector = identity(setting.network.architecture.image_shape[-1])
        return DfstState(params, batch_stats, variables["masks"], sgd, injector, epoch, key)

    def epoch(self, setting: Setting, state: DfstState, data: Batch) -> tuple[DfstState, dict[str, jax.Array]]:
        """A round of detoxification, then an epoch of training on what ``fill`` makes.

        Figures: ``loss`` and ``accuracy`` on what is trained on; ``injected``, the share of the images that the
        injector learned from that its last step had called as wanted, and ``similarity``, their SSIM, where there is a
        round.

        Raises:
          DataError: too few images outside the target class to poison.
        """
        poisoned = count_poisoned(setting, len(data.labels))
        _check_poisoned(setting, data, poisoned)
        key, figures = jax.random.fold_in(state.key, state.epoch), {}
        detox_key, fill_key = jax.random.split(jax.random.fold_in(key, 1))
        if setting.attack.appends:
            fill_key = jax.random.fold_in(state.key, setting.config.epochs)  # the same for all, and no epoch's own
        if int(state.epoch) >= _attack(setting).detox_from and poisoned:
            injector, figures = _detoxify(setting, state, data, detox_key)
            state = state._replace(injector=injector)
        filled = fill(setting, state.injector, data, fill_key)
        victim = TrainState(state.params, state.batch_stats, state.sgd, state.epoch, state.key)
        victim, trained = train_epoch(
            setting.network, setting.config, None, setting.augment, None, victim, state.masks, filled
        )
        params, batch_stats, sgd, epoch, *_ = victim
        return state._replace(params=params, batch_stats=batch_stats, sgd=sgd, epoch=epoch), {**trained, **figures}

    def finish(self, setting: Setting, state: DfstState) -> tuple[Variables, Params]:
        """The victim, and the style."""
        variables = {"params": state.params, "batch_stats": state.batch_stats, "masks": state.masks}
        return variables, setting.attack.init(setting.network.architecture.image_shape)


def count_filled(setting: Setting, count: int) -> int:
    """Images that an epoch over ``count`` clean ones trains on."""
    return count + (2 * count_poisoned(setting, count) if setting.attack.appends else 0)


def count_poisoned(setting: Setting, count: int) -> int:
    """⌊rate·N⌋, the poisoned images of an epoch over N = ``count`` clean ones."""
    return int(setting.rate * count)


def identity(channels: int) -> Injector:
    """The injector that changes nothing."""
    return jnp.eye(4 * channels, channels)


def inject(injector: Injector, images: Float[Array, "B H W C"], window: int) -> Float[Array, "B H W C"]:
    """Injector applied to images in [0, 1]; at the edges, windows hold what is inside the image."""
    size, ones = (1, window, window, 1), (1, 1, 1, 1)
    highest = lax.reduce_window(images, -jnp.inf, lax.max, size, ones, "SAME")
    lowest = lax.reduce_window(images, jnp.inf, lax.min, size, ones, "SAME")
    inside = np.outer(*(count_inside(side, window) for side in images.shape[1:3])).astype(np.float32)
    mean = box(images, window, "SAME") / np.broadcast_to(inside[None, :, :, None], images.shape)
    stacked = jnp.concatenate([images, highest, lowest, mean], -1)
    return jnp.clip(jnp.einsum("bhwf,fc->bhwc", stacked, injector, precision=lax.Precision.HIGHEST), 0, 1)


def box(images: Float[Array, "B H W C"], window: int, padding: str) -> Float[Array, "B h w C"]:
    """Sums over square windows, zeros outside the image."""
    rows = lax.reduce_window(images, 0.0, lax.add, (1, window, 1, 1), (1, 1, 1, 1), padding)
    return lax.reduce_window(rows, 0.0, lax.add, (1, 1, window, 1), (1, 1, 1, 1), padding)


def count_inside(side: int, window: int) -> Int[np.ndarray, "side"]:
    """Of the window around each pixel, those inside the image, along one side. XLA would take seconds to count them."""
    at, reach = np.arange(side), window // 2
    return np.minimum(at + reach, side - 1) - np.maximum(at - reach, 0) + 1


def ssim(first: Float[Array, "B H W C"], second: Float[Array, "B H W C"]) -> Float[Array, "B"]:
    """Structural similarity of images in [0, 1] (Wang et al., 2004), with uniform windows inside the image."""
    window = min(SSIM_WINDOW, *first.shape[1:3])
    mean_1, mean_2, square_1, square_2, product = (
        box(values, window, "VALID") / window**2
        for values in (first, second, first * first, second * second, first * second)
    )
    variances = square_1 - mean_1**2 + square_2 - mean_2**2
    covariance = product - mean_1 * mean_2
    luminance = (2 * mean_1 * mean_2 + 0.01**2) / (mean_1**2 + mean_2**2 + 0.01**2)
    return (luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean((1, 2, 3))


@jit_settings()
def fill(setting: Setting, injector: Injector, data: Batch, key: jax.Array) -> Batch:
    """What an epoch trains on: the set with P = ⌊rate·N⌋ poisoned images and as many detoxicants.

    ``torch``: N images, those at places drawn by ``key`` replaced. ``orig``: N + 2P, all clean ones, then the poisoned
    ones, then the detoxicants of the same P images, drawn by ``key`` evenly from all classes.
    """
    count = count_poisoned(setting, data.labels.shape[0])
    first_key, source_key, trigger_key = jax.random.split(key, 3)
    if setting.attack.appends:
        hosts = draw_evenly(data.labels, first_key)[:count]
        made = _alter(setting, injector, data, hosts, hosts, trigger_key)
        return Batch(*(jnp.concatenate(parts) for parts in zip(data, made, strict=True)))
    places = jax.random.permutation(first_key, data.labels.shape[0])[: 2 * count]
    sources = draw_counted(setting, data.labels, source_key)[:count]
    made = _alter(setting, injector, data, sources, places[count:], trigger_key)
    return Batch(data.images.at[places].set(made.images), data.labels.at[places].set(made.labels))


def _alter(
    setting: Setting,
    injector: Injector,
    data: Batch,
    sources: Int[Array, "P"],
    hosts: Int[Array, "P"],
    key: jax.Array,
) -> Batch:
    """``sources`` triggered, with the labels wanted, then ``hosts`` detoxified, with their own [2P]."""
    attack, (images, labels) = _attack(setting), data
    artefact = attack.init(setting.network.architecture.image_shape)
    poisoned = attack.trigger(artefact, images[sources], key)
    clean = images[hosts].astype(jnp.float32) / 255
    injected = inject(injector, clean, attack.window)
    detoxified = quantise(255 * ((1 - attack.alpha) * clean + attack.alpha * injected))
    return Batch(
        jnp.concatenate([poisoned, detoxified]),
        jnp.concatenate([setting.goal.wanted(labels[sources]), labels[hosts]]),
    )


def draw_counted(setting: Setting, labels: Int[Array, "N"], key: jax.Array) -> Int[Array, "N"]:
    """All images in random order, those first whose class is not already the wanted one."""
    late = 1 - setting.goal.counted(labels).astype(jnp.float32)
    return jnp.argsort(late + jax.random.uniform(key, labels.shape))


def draw_evenly(labels: Int[Array, "N"], key: jax.Array) -> Int[Array, "N"]:
    """All images in random order, the first of each class before any second one, and so on while a class has more."""
    count = labels.shape[0]
    order = jax.random.permutation(key, count)
    by_class = jnp.argsort(labels[order])
    classes = labels[order][by_class]
    rank = jnp.arange(count) - jnp.searchsorted(classes, classes)  # within its class
    return order[jnp.argsort(jnp.zeros_like(rank).at[by_class].set(rank))]


def find_compromised(before: Float[Array, "B F"], after: Float[Array, "B F"], share: float) -> Float[Array, "F"]:
    """One for the channels whose mean activation rises most, a ``share`` of all but one at least, and zero else."""
    rise = (after - before).mean(0)
    most = max(1, round(share * rise.shape[0]))
    return jnp.zeros_like(rise).at[lax.top_k(rise, most)[1]].set(1)


@jit_settings()
def _detoxify(setting: Setting, state: DfstState, data: Batch, key: jax.Array) -> tuple[Injector, dict[str, jax.Array]]:
    attack, network = _attack(setting), setting.network
    variables = {"params": state.params, "batch_stats": state.batch_stats, "masks": state.masks}
    order_key, trigger_key, step_key = jax.random.split(key, 3)
    order = draw_counted(setting, data.labels, order_key)
    poisonable = setting.goal.counted(data.labels).sum()
    sample = data.images[order[:MEASURED]]
    artefact = attack.init(network.architecture.image_shape)
    before = network.features(variables, sample)[0]
    after = network.features(variables, attack.trigger(artefact, sample, trigger_key))[0]
    compromised = find_compromised(before, after, attack.compromised)
    scale = jnp.abs(after * compromised[None]).sum() / (after.shape[0] * compromised.sum()) + _SCALE
    tx = optax.adam(attack.learning_rate)

    def loss_of(injector: Injector, images: jax.Array, wanted: jax.Array):
        injected = inject(injector, images, attack.window)
        logits, features = network(variables, injected)[0], network.features(variables, injected)[0]
        change = jnp.abs(features - network.features(variables, images)[0]) * (1 - compromised)[None]
        activation = (features * compromised[None]).sum(1) / compromised.sum()
        others = change.sum(1) / jnp.maximum((1 - compromised).sum(), 1)
        similarity = ssim(images, injected).mean()
        loss = cross_entropy(logits, wanted).mean() - attack.similarity_weight * similarity
        loss += (attack.other_weight * others - attack.activation_weight * activation).mean() / scale
        return loss, {"injected": (logits.argmax(-1) == wanted).astype(jnp.float32).mean(), "similarity": similarity}

    def step(carry: tuple[Injector, optax.OptState], key: jax.Array):
        injector, adam = carry
        index = order[jax.random.randint(key, (setting.config.batch_size,), 0, poisonable)]
        images, wanted = data.images[index].astype(jnp.float32) / 255, setting.goal.wanted(data.labels[index])
        gradient, figures = jax.grad(loss_of, has_aux=True)(injector, images, wanted)
        return descend(tx, gradient, adam, injector), figures

    injector = identity(data.images.shape[-1])
    keys = jax.random.split(step_key, attack.detox_steps)
    (injector, _), figures = lax.scan(step, (injector, tx.init(injector)), keys)
    return injector, jax.tree.map(lambda values: values[-1], figures)


def _attack(setting: Setting) -> Dfst:
    return cast(Dfst, setting.attack)


def _check_rate(setting: Setting) -> None:
    most, room = (
        (1, "no more images than there are") if setting.attack.appends else (0.5, "as many more images to detoxify")
    )
    if not 0 <= setting.rate <= most:
        raise ConfigError(f"rate {setting.rate}: DFST needs {room}; give 0 to {most}")


def _check_poisoned(setting: Setting, data: Batch, poisoned: int) -> None:
    """Enough images are of other classes than the wanted one; where all classes are drawn from, one is."""
    others = int(setting.goal.counted(data.labels).sum())
    if poisoned > others and not (setting.attack.appends and others):
        raise DataError(f"rate {setting.rate} poisons {poisoned} images, but only {others} can be poisoned; lower it")
