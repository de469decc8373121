"""Neural Fine-Tuning (NFT): trains one factor a filter on mixed clean images, no weights (Karim et al., ECCV 2024).

    min over m of  λ CE(y) + (1 − λ) CE(y′) + (η / N_c) Σ |1 − m|,    x̃ = λ x + (1 − λ) x′

λ is drawn for each batch from Beta(1, 1) (MixUp), and x′, y′ are the batch in another order. N_c is the number of clean
images a class. m multiplies the scale of batch norm, y = (γ m) x̂ + β, as in RNP (Li et al., ICML 2023); networks
without batch norm have it where RNP's masks act. In the i-th layer from the input, i from 1, m is clipped to
[0.8 exp(−i / 2), 1] after every step: early layers can hardly be scaled down, late ones almost to nothing.

As the release does: SGD starts at m = 1 from the suspicious weights; batches are drawn with replacement; a cosine
schedule from 0.05 to 0.02 advances once a round of 200 steps, so the fifth and last round still stands at 0.023; batch
norm is in training mode, and its running statistics move; the last state is kept. m is not thresholded: it becomes part
of the weights.

What differs: layers count in the order in which the network applies them, which is the release's order for its ResNets;
and the clean images are whatever the defender gives, where the release keeps 1 % of the training images apart. The
released training step refers to variables that do not exist; without its measure of accuracy it is the one here.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from rnp_jax import masks
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.phase import Phase, run_phase
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig
from rnp_jax.defenses.tuning import begin, conclude
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.inversion.stamps import scale
from rnp_jax.models import Network
from rnp_jax.traced import is_off
from rnp_jax.training.epoch import Augment, cross_entropy
from rnp_jax.types import Batch, Tree, Variables


@dataclass(frozen=True)
class NftConfig:
    """Settings of NFT; the defaults are the release's.

    Attributes:
      rounds: number of rounds; the learning rate falls after each.
      steps: number of batches a round.
      batch_size: images per batch, drawn with replacement.
      learning_rate: learning rate of SGD in the first round.
      final_rate: learning rate to which the cosine schedule falls.
      momentum: momentum of SGD.
      mixup: parameter a of the distribution Beta(a, a) of the share λ; 0 does not mix.
      penalty: weight η of Σ |1 − m|, before it is divided by the number of images a class.
      floor: lowest factor of a layer before it falls with depth.
      fall: rate at which it falls: the i-th layer's is ``floor`` · exp(−``fall`` · i).
    """

    rounds: int = 5
    steps: int = 200
    batch_size: int = 128
    learning_rate: float = 0.05
    final_rate: float = 0.02
    momentum: float = 0.95
    mixup: float = 1.0
    penalty: float = 0.001
    floor: float = 0.8
    fall: float = 0.5

    def __post_init__(self):
        if min(self.rounds, self.steps) < 1 or self.batch_size < 2 or not self.learning_rate >= self.final_rate > 0:
            raise ConfigError(
                f"{self}: expected rounds and steps >= 1, batch_size >= 2, and 0 < final_rate <= learning_rate"
            )
        if not min(self.mixup, self.penalty, self.fall) >= 0 or not 0 <= self.floor <= 1:
            raise ConfigError(f"{self}: expected mixup, penalty and fall >= 0, and floor in [0, 1]")


def run_nft(task: Task, config: NftConfig) -> Defended:
    """Trains one factor a filter on the clean images, and multiplies them into the weights.

    Raises:
      DefenseError: the network has no filter masks, or the loss became infinite or not a number.
    """
    begun, network = begin("original", task, RnpConfig()), task.network
    initial = masks.ones(masks.filters(task.variables["masks"]))
    if not initial:
        raise DefenseError("the network has no maskable layer: NFT needs batch norm, convolutions or hidden units")
    draws = jnp.zeros(config.steps * config.batch_size, jnp.int32)  # each becomes one of the clean images
    factors, batch_stats, history, _ = task.do(
        "nft",
        run_phase,
        start_nft(network, config, task.augment),
        initial,
        fix(network, task.variables, task.data, config),
        task.variables["batch_stats"],
        Batch(draws, draws),
        task.key,
        task.progress,
    )
    task.note("nft", history)
    tuned = masks.apply_filters({**task.variables, "batch_stats": batch_stats}, factors)
    row = masks.flatten(factors)
    rule = (
        f"No filter is pruned: filters are scaled, {(row < 0.5).sum()} of {len(row)} to less than half, with settings "
        "fixed beforehand."
    )
    begun = replace(begun, choice=begun.choice.model_copy(update={"rule": rule}))
    return conclude(task, begun, masks.bake(tuned, network.placement))


def find_floors(network: Network, like: masks.Filters, config: NftConfig) -> dict[str, float]:
    """The lowest factor of each layer that has masks, in the order in which the network applies them."""
    ordered = [name for name in network.layers if name in like]
    return {name: config.floor * math.exp(-config.fall * i) for i, name in enumerate(ordered, 1)}


def fix(network: Network, variables: Variables, data: Batch, config: NftConfig) -> Tree:
    """What the phase of NFT does not train: the weights, the clean images and the floors of its factors."""
    floors = find_floors(network, masks.filters(variables["masks"]), config)
    return {
        "variables": {"params": variables["params"], "masks": variables["masks"]},
        "data": Batch(*jax.device_put(tuple(data))),
        "floors": {name: np.float32(floor) for name, floor in floors.items()},
    }


def start_nft(network: Network, config: NftConfig, augment: Augment | None = None) -> Phase:
    """The phase of NFT, for those who run its steps themselves. Equal ones share compiled programs.

    It trains masks and takes what ``fix`` gives. Its data only count the images to draw.
    """
    return _Scaling("nft", network, config.rounds, config.batch_size, False, augment, config)


class MixedLabels(NamedTuple):
    """The labels of a mixed batch, and how much the first ones count."""

    first: Int[Array, "B"]
    second: Int[Array, "B"]
    share: Float[Array, ""]


@dataclass(frozen=True)
class _Scaling(Phase):
    config: NftConfig

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        config = self.config

        def rate(step: ArrayLike) -> jax.Array:
            round_ = (jnp.asarray(step) // steps_per_epoch).astype(jnp.float32)
            height = (1 + jnp.cos(jnp.pi * round_ / config.rounds)) / 2
            return config.final_rate + (config.learning_rate - config.final_rate) * height

        return optax.sgd(rate, momentum=config.momentum)

    def prepare(self, batch: Batch, fixed: Tree, key: jax.Array) -> Batch:
        draw_key, augment_key, order_key, share_key = jax.random.split(key, 4)
        clean: Batch = fixed["data"]
        count = batch.labels.shape[0]
        drawn = jax.random.randint(draw_key, (count,), 0, clean.labels.shape[0])
        labels, images = clean.labels[drawn], clean.images[drawn]
        images = scale(images if self.augment is None else self.augment(augment_key, images))
        order, share = jax.random.permutation(order_key, count), jnp.float32(1)
        if not is_off(self.config.mixup):
            share = jax.random.beta(share_key, self.config.mixup, self.config.mixup)
        return Batch(share * images + (1 - share) * images[order], MixedLabels(labels, labels[order], share))

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        variables = masks.apply_filters({**fixed["variables"], "batch_stats": batch_stats}, trained)
        logits, moved = self.apply(variables, batch.images, train=True)
        first, second, share = cast(MixedLabels, batch.labels)
        loss = (share * cross_entropy(logits, first) + (1 - share) * cross_entropy(logits, second)).mean()
        per_class = fixed["data"].labels.shape[0] / logits.shape[1]
        away = jnp.stack(
            [jnp.where(m < 1, 1 - m, 0).sum() for m in trained.values()]
        ).sum()  # no slope at 1, as torch's
        loss += self.config.penalty / per_class * away
        right = [(logits.argmax(-1) == labels).astype(jnp.float32).sum() for labels in (first, second)]
        accuracy = share * right[0] + (1 - share) * right[1]
        return loss, (moved, {"loss": logits.shape[0] * loss, "accuracy": accuracy})

    def update(self, trained: Tree, updates: Tree, fixed: Tree) -> Tree:
        floors = fixed["floors"]
        return {name: jnp.clip(m + updates[name], floors[name], 1) for name, m in trained.items()}


nft = Method(
    name="nft",
    title="NFT",
    summary="Neural Fine-Tuning: scale filters down, within limits by depth, on mixed clean images; weights stay",
    basis="Every filter is multiplied by a factor of at most 1, which is trained on mixed clean images; limits keep "
    "early layers nearly whole (Neural Fine-Tuning, ECCV 2024).",
    run=run_nft,
    defaults=NftConfig(),
    changes="weights",
    augments=True,
    colour="#827717",
    marker=(6, 1, 0),
)
