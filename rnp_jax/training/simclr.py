"""SimCLR: a feature extractor from images alone, whatever their labels say (Chen et al., ICML 2020).

Labels play no part, so poisoned labels cannot tie a trigger to a class. One compiled program an epoch, data on the
device throughout.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8

from rnp_jax.descent import descend
from rnp_jax.errors import ConfigError
from rnp_jax.models import Network, Precision
from rnp_jax.models.layers import multiply
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import Augment, check_batch, run_epoch
from rnp_jax.training.extended import feature_width
from rnp_jax.training.loop import run_epochs
from rnp_jax.training.supervised import make_sgd
from rnp_jax.training.views import Views
from rnp_jax.types import Batch, Progress, Tree, Variables


@dataclass(frozen=True)
class SimclrConfig:
    """Settings of SimCLR, trained with momentum SGD; batches of thousands would need LARS.

    Attributes:
      epochs: number of passes over the images.
      batch_size: images per step; each gives two views. Images that do not fill a last batch wait for the next epoch.
      temperature: temperature T of the NT-Xent loss.
      learning_rate: peak learning rate of SGD.
      momentum: momentum of SGD.
      weight_decay: weight decay, added to the gradient as in torch's SGD.
      schedule: schedule of the learning rate: ``cosine`` to zero, or ``one_cycle``, a linear rise over the first 30 %
        and then a cosine to zero.
      projection: outputs of the projection head; its hidden layer has as many units as there are features.
    """

    epochs: int = 100
    batch_size: int = 256
    temperature: float = 0.5
    learning_rate: float = 0.4
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "one_cycle"] = "one_cycle"
    projection: int = 128

    def __post_init__(self):
        if self.epochs < 1 or self.batch_size < 2 or self.learning_rate <= 0:
            raise ConfigError(f"{self}: expected epochs >= 1, batch_size >= 2 and learning_rate > 0")
        if self.temperature <= 0 or self.projection < 1:
            raise ConfigError(f"{self}: expected temperature > 0 and projection >= 1")

    def make_optimizer(self, steps: int) -> optax.GradientTransformation:
        """The optimiser over ``steps`` steps of an epoch."""
        return make_sgd(
            self.learning_rate, self.momentum, self.weight_decay, self.epochs * steps, schedule=self.schedule
        )


class SimclrState(NamedTuple):
    """What an epoch changes."""

    params: Tree  # ``trunk``, all layers but the last, and ``projection``
    batch_stats: Tree
    opt_state: optax.OptState
    epoch: jax.Array  # int32 []
    key: jax.Array


def nt_xent(
    embeddings: Float[Array, "two_B D"], temperature: float
) -> tuple[Float[Array, "two_B"], Float[Array, "two_B"]]:
    """Normalised temperature-scaled cross-entropy of each view (eq. 1), rows i and i + B being views of one image.

    Also whether each view's partner is its most similar other view (0 or 1).
    """
    views = embeddings.shape[0]
    squares = jnp.square(embeddings).sum(-1, keepdims=True)
    unit = embeddings * jax.lax.rsqrt(jnp.maximum(squares, 1e-6))  # a finite gradient at zero, where all units are dead
    similarity = jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST) / temperature
    similarity = jnp.where(jnp.eye(views, dtype=bool), -jnp.inf, similarity)
    partner = (jnp.arange(views) + views // 2) % views
    loss = optax.softmax_cross_entropy_with_integer_labels(similarity, partner)
    return loss, (similarity.argmax(-1) == partner).astype(jnp.float32)


class Contrast(Protocol):
    """A contrastive loss; pure and hashable."""

    def __call__(
        self, embeddings: Float[Array, "two_B D"], labels: Int[Array, "B"], temperature: float
    ) -> tuple[Float[Array, "two_B"], Float[Array, "two_B"]]:
        """The loss of each view, rows i and i + B being views of one image, and whether its partner is the nearest."""
        ...

    def __hash__(self) -> int: ...


def contrast_views(
    embeddings: Float[Array, "two_B D"], labels: Int[Array, "B"], temperature: float
) -> tuple[Float[Array, "two_B"], Float[Array, "two_B"]]:
    """SimCLR's own ``Contrast``: NT-Xent, which reads no labels."""
    del labels
    return nt_xent(embeddings, temperature)


def pretrain(
    network: Network,
    variables: Variables,
    images: UInt8[np.ndarray, "N H W C"],
    key: jax.Array,
    config: SimclrConfig,
    *,
    views: Augment = Views(),  # noqa: B008 (frozen)
    labels: Int[np.ndarray, "N"] | None = None,
    contrast: Contrast = contrast_views,
    phase: str = "simclr",
    progress: Progress | None = None,
    state: SimclrState | None = None,
    save: Callable[[SimclrState], None] | None = None,
) -> tuple[Variables, dict[str, np.ndarray]]:
    """Trains all layers of ``network`` but the last, so that two views of an image get similar features.

    ``views`` draws one view of each image it is given. ``contrast`` is the loss, which may read ``labels``; SimCLR's
    does not. ``state`` continues an earlier run of the same settings, ``save`` receives the state after each epoch, and
    ``progress`` is told of each as one of ``phase``.

    Returns:
      The trained variables, their last layer as it was, and loss and contrastive accuracy [E] in training mode of the
      epochs run here. Batch statistics are those of views, not of whole images.

    Raises:
      ConfigError: fewer images than one batch.
    """
    count = len(images)
    check_batch(count, config.batch_size)
    data = Batch(*jax.device_put((images, np.zeros(count, np.int32) if labels is None else labels)))
    reached, history = run_epochs(
        phase,
        config.epochs,
        lambda: start(network, variables, key, config, count),
        lambda state: _pretrain_epoch(network, config, views, contrast, state, variables["masks"], data),
        progress=progress,
        state=state,
        save=save,
        figures=("loss", "accuracy"),
    )
    params = {**variables["params"], **reached.params["trunk"]}
    return {**variables, "params": params, "batch_stats": reached.batch_stats}, history


def start(network: Network, variables: Variables, key: jax.Array, config: SimclrConfig, count: int) -> SimclrState:
    """The state before the first epoch over ``count`` images."""
    return _start(network, config, count // config.batch_size, variables, key)


@jit_settings(2, static=1)
def _start(network: Network, config: SimclrConfig, steps: int, variables: Variables, key: jax.Array) -> SimclrState:
    projection_key, train_key = jax.random.split(key)
    last = network.segments[-1].layers
    trunk = {name: tree for name, tree in variables["params"].items() if name not in last}
    projection = _init_projection(projection_key, feature_width(network), config.projection)
    params = {"trunk": trunk, "projection": projection}
    opt_state = config.make_optimizer(steps).init(params)
    return SimclrState(params, variables["batch_stats"], opt_state, jnp.int32(0), train_key)


def _init_projection(key: jax.Array, features: int, outputs: int) -> Tree:
    draw = jax.nn.initializers.he_normal()
    return {
        name: {"kernel": draw(key, (features, units)), "bias": jnp.zeros((units,))}
        for name, key, units in zip(("hidden", "out"), jax.random.split(key), (features, outputs), strict=True)
    }


def _project(params: Tree, features: Float[Array, "B D"], precision: Precision) -> Float[Array, "B P"]:
    def apply(layer: Tree, x: jax.Array) -> jax.Array:
        return multiply(x, layer["kernel"], precision).astype(jnp.float32) + layer["bias"][None]

    return apply(params["out"], jax.nn.relu(apply(params["hidden"], features)))


@jit_settings(4)
def _pretrain_epoch(
    network: Network,
    config: SimclrConfig,
    views: Augment,
    contrast: Contrast,
    state: SimclrState,
    masks: Tree,
    data: Batch,
) -> tuple[SimclrState, dict[str, jax.Array]]:
    tx = config.make_optimizer(data.labels.shape[0] // config.batch_size)

    def loss_of(params: Tree, batch_stats: Tree, images: jax.Array, labels: jax.Array):
        variables = {"params": params["trunk"], "batch_stats": batch_stats, "masks": masks}
        features, moved = network.features(variables, images, train=True)
        loss, found = contrast(_project(params["projection"], features, network.precision), labels, config.temperature)
        return loss.mean(), (moved, {"loss": loss.sum() / 2, "accuracy": found.sum() / 2})

    def step(carry, batch: Batch, key: jax.Array):
        params, batch_stats, opt_state = carry
        pairs = views(key, jnp.concatenate([batch.images, batch.images]))
        gradient, (batch_stats, metrics) = jax.grad(loss_of, has_aux=True)(params, batch_stats, pairs, batch.labels)
        params, opt_state = descend(tx, gradient, opt_state, params)
        return (params, batch_stats, opt_state), metrics

    carry = (state.params, state.batch_stats, state.opt_state)
    key = jax.random.fold_in(state.key, state.epoch)
    carry, metrics = run_epoch(step, carry, data, key, batch_size=config.batch_size, remainder=False)
    return SimclrState(*carry, state.epoch + 1, state.key), metrics
