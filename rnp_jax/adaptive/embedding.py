"""Adaptive embedding: features in which a discriminator cannot tell poisoned images from clean ones (Tan and Shokri,
EuroS&P 2020), against defenses that separate features.

    min over θ of CE − ratio · L,    min over D of L = BCE(D(φ_θ(x)), poisoned)

φ_θ(x) are the features that the last layer reads. D has 256, 128 and 1 units on top, with batch norm, LeakyReLU (0.2)
and a sigmoid. SGD trains it in the same step. Its batch norm uses the statistics of the batch: it is needed in training
alone. The ratio is not published with a default; the one here is this project's.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from rnp_jax.checks import check_number
from rnp_jax.descent import descend
from rnp_jax.errors import ConfigError
from rnp_jax.models import Network
from rnp_jax.models.layers import multiply
from rnp_jax.traced import is_off
from rnp_jax.training.adaptation import Adaptation, Course, check_marks
from rnp_jax.training.epoch import batch_metrics, cross_entropy
from rnp_jax.training.extended import feature_width
from rnp_jax.training.supervised import Moment, TrainConfig, TrainState, Twist
from rnp_jax.types import Tree, Variables

_UNITS = (256, 128, 1)
_SLOPE = 0.2  # of LeakyReLU below 0
_EPS = 1e-5  # of batch norm
_KEY = 0x656D  # folded into the key of the training


@dataclass(frozen=True)
class Embedding(Adaptation):
    """Settings of the adaptive embedding.

    Attributes:
      ratio: weight of the discriminator's loss, which the victim raises; 0 trains plainly (the control).
      learning_rate: learning rate of the discriminator's SGD.
      momentum: momentum of the discriminator's SGD.
    """

    ratio: float = 0.5
    learning_rate: float = 0.001
    momentum: float = 0.9

    def __post_init__(self):
        check_number("ratio", self.ratio, 0)
        check_number("momentum", self.momentum, 0, 1)
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate {self.learning_rate}: expected a number above 0")

    def start(
        self, network: Network, variables: Variables, key: jax.Array, config: TrainConfig, count: int
    ) -> TrainState:
        """As plain training, with a fresh discriminator."""
        state = super().start(network, variables, key, config, count)
        if is_off(self.ratio):
            return state
        discriminator = draw_discriminator(jax.random.fold_in(key, _KEY), feature_width(network))
        return state._replace(memory=(discriminator, _sgd(self).init(discriminator)))

    def epoch(self, course: Course, state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
        """One epoch of both; the figure ``discriminator`` is L.

        Raises:
          ConfigError: no image is poisoned before training.
        """
        if not is_off(self.ratio):
            check_marks(course)
        return super().epoch(course, state)

    def twist(self, network: Network) -> Twist | None:
        """The victim's gradient, and the discriminator's step."""
        return None if is_off(self.ratio) else _Hiding(network, self)


@dataclass(frozen=True)
class _Hiding:
    network: Network
    config: Embedding

    def gradient(self, moment: Moment) -> tuple[Tree, tuple[Tree, dict[str, jax.Array]], Any]:
        discriminator, moments = moment.memory
        batch = moment.batch

        def objective(params: Tree, discriminator: Tree):
            variables = {"params": params, "batch_stats": moment.batch_stats, "masks": moment.masks}
            features, moved = self.network.features(variables, batch.images, train=True)
            head = params[self.network.head]
            logits = multiply(features, head["kernel"], self.network.precision).astype(jnp.float32)
            logits = logits + head["bias"][None] if "bias" in head else logits
            told = discriminate(discriminator, features, batch.marks)
            metrics = {**batch_metrics(logits, batch.labels), "discriminator": told * batch.labels.shape[0]}
            loss = cross_entropy(logits, batch.labels, moment.smoothing).mean()
            return loss - self.config.ratio * told, (moved, metrics)

        (gradient, slope), rest = jax.grad(objective, (0, 1), has_aux=True)(moment.params, discriminator)
        slope = jax.tree.map(lambda value: value / -self.config.ratio, slope)  # of L itself
        memory = descend(_sgd(self.config), slope, moments, discriminator)
        return gradient, rest, memory


def _sgd(config: Embedding) -> optax.GradientTransformation:
    return optax.sgd(config.learning_rate, config.momentum)


def draw_discriminator(key: jax.Array, width: int) -> Tree:
    """New weights for features of this width: He-normal kernels, batch norm as it begins."""
    layers = {}
    for number, (inputs, units) in enumerate(zip((width, *_UNITS), _UNITS, strict=False)):
        kernel = jax.random.normal(jax.random.fold_in(key, number), (inputs, units)) * jnp.sqrt(2 / inputs)
        layers[f"{number}"] = {"kernel": kernel, "bias": jnp.zeros(units)}
        if units != _UNITS[-1]:
            layers[f"{number}"]["scale"] = jnp.ones(units)
    return layers


def discriminate(discriminator: Tree, features: Float[Array, "B D"], marks: Bool[Array, "B"]) -> Float[Array, ""]:
    """L: the mean binary cross-entropy of the discriminator, whose last layer has a bias and no batch norm."""
    *hidden, last = (discriminator[name] for name in sorted(discriminator))
    x = features
    for layer in hidden:
        x = multiply(x, layer["kernel"], "float32")
        x = (x - x.mean(0, keepdims=True)) / jnp.sqrt(x.var(0, keepdims=True) + _EPS)
        x = x * layer["scale"][None] + layer["bias"][None]
        x = jnp.where(x > 0, x, _SLOPE * x)
    logits = (multiply(x, last["kernel"], "float32") + last["bias"][None])[:, 0]
    return optax.sigmoid_binary_cross_entropy(logits, marks.astype(jnp.float32)).mean()
