"""D-ST: features from trusted labels alone, then a classifier that learns the clean images and not the poisoned ones.

Chen et al., "Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples" (NeurIPS 2022). The untrusted
set is divided by FCT (see ``consistency``) into images held to be clean, images held to be poisoned, and the rest.
Then:

1. Contrastive training of all layers but the last. Positives of a view are the other view of its image and, if the
   image is held to be clean, all views of images with the same label (supervised contrastive learning, Khosla et al.
   2020).
2. A linear classifier on the frozen features of views, by CE(clean) - 0.001 · CE(poisoned).

As in the release, only the rows of untrusted anchors lose their labels: an untrusted image with the target's label
stays a positive of trusted images with that label. The loss is scaled by T / 0.07. The extractor is in evaluation mode
while the classifier is trained. The defaults are the release's constants.

What differs: the release keeps the classifier with the best accuracy on the TEST set, and here the last state is kept.
The learning rate of the contrastive training rises over the first 30 % of the steps (the release's over ten epochs from
0.01) and then falls to zero along a cosine. A batch without images of a part adds nothing for it, where the release's
mean is not a number. A new projection head has as many hidden units as there are features.
"""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from rnp_jax.defenses.consistency import ConsistencyConfig, Separation, separate
from rnp_jax.defenses.fitting import FitConfig, check_set, conclude_anew, start_weights
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.phase import Phase, run_phase
from rnp_jax.defenses.result import Defended
from rnp_jax.errors import ConfigError
from rnp_jax.models import Network
from rnp_jax.training.epoch import Augment, batch_metrics, cross_entropy
from rnp_jax.training.simclr import SimclrConfig, pretrain
from rnp_jax.training.views import Views
from rnp_jax.types import Batch, Tree, Variables


@dataclass(frozen=True)
class DstConfig:
    """Settings of D-ST; the defaults are the release's.

    Attributes:
      separation: settings of the division of the set.
      contrast: settings of the contrastive training.
      views: augmentation that makes the views of an image, in both steps.
      classifier: settings of the linear classifier's training.
      unlearn: weight of the loss of the images held to be poisoned, which the classifier maximises.
      base_temperature: temperature to which the contrastive loss is scaled.
    """

    separation: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    contrast: SimclrConfig = field(
        default_factory=lambda: SimclrConfig(
            epochs=200, batch_size=512, temperature=0.1, learning_rate=0.5, weight_decay=1e-4
        )
    )
    views: Views = field(default_factory=Views)
    classifier: FitConfig = field(
        default_factory=lambda: FitConfig(epochs=10, batch_size=512, learning_rate=5.0, weight_decay=0.0)
    )
    unlearn: float = 0.001
    base_temperature: float = 0.07

    def __post_init__(self):
        if not self.unlearn >= 0 or not self.base_temperature > 0:
            raise ConfigError(
                f"unlearn {self.unlearn}, base_temperature {self.base_temperature}: expected unlearn of 0 or more and "
                "base_temperature above 0"
            )


@dataclass(frozen=True)
class TrustedLabels:
    """The semi-supervised contrastive loss, a ``Contrast``; labels from ``num_classes`` on are those not trusted.

    Attributes:
      num_classes: K; the label y of an image that is not trusted is given as y + K.
      base: temperature to which the loss is scaled.
    """

    num_classes: int
    base: float = 0.07

    def __call__(
        self, embeddings: Float[Array, "two_B D"], labels: Int[Array, "B"], temperature: float
    ) -> tuple[Float[Array, "two_B"], Float[Array, "two_B"]]:
        """Minus the mean log-probability of each view's positives, scaled, and whether its partner is the nearest."""
        views = embeddings.shape[0]
        squares = jnp.square(embeddings).sum(-1, keepdims=True)
        unit = embeddings * jax.lax.rsqrt(jnp.maximum(squares, 1e-6))
        similarity = jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST) / temperature
        itself = jnp.eye(views, dtype=bool)
        log_probability = jax.nn.log_softmax(jnp.where(itself, -jnp.inf, similarity))
        positives = jnp.tile(self.pair(labels), (2, 2)) & ~itself
        mean = jnp.where(positives, log_probability, 0).sum(-1) / positives.sum(-1).astype(jnp.float32)
        partner = (jnp.arange(views) + views // 2) % views
        found = jnp.where(itself, -jnp.inf, similarity).argmax(-1) == partner
        return -(temperature / self.base) * mean, found.astype(jnp.float32)

    def pair(self, labels: Int[Array, "B"]) -> Bool[Array, "B B"]:
        """Whether image j is a positive of image i [i, j]: itself, and those of its label if that is trusted."""
        own = labels % self.num_classes
        same = (own[:, None] == own[None]) & (labels < self.num_classes)[:, None]
        return same | jnp.eye(labels.shape[0], dtype=bool)


def tell_apart(
    losses: Float[Array, "B"], clean: Bool[Array, "B"], poisoned: Bool[Array, "B"], unlearn: float
) -> Float[Array, ""]:
    """The mean loss of the clean images, less ``unlearn`` times that of the poisoned ones."""

    def mean(members: Bool[Array, "B"]) -> jax.Array:
        return jnp.where(members, losses, 0).sum() / jnp.maximum(members.sum(), 1).astype(jnp.float32)

    return mean(clean) - unlearn * mean(poisoned)


@dataclass(frozen=True)
class _Classifying(Phase):
    """Trains the last layer; labels from K on are of images held to be poisoned. Its fixed tree holds ``rest``."""

    network: Network
    config: FitConfig
    unlearn: float

    def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
        config = self.config
        shape = optax.cosine_decay_schedule(1.0, config.epochs * steps_per_epoch)

        def rate(step: ArrayLike) -> jax.Array:
            return config.learning_rate * jnp.asarray(shape(jnp.asarray(step, jnp.float32)))

        return optax.sgd(rate, config.momentum, config.nesterov)

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        rest = fixed["rest"]
        variables = {"params": {**rest["params"], **trained}, "batch_stats": batch_stats, "masks": rest["masks"]}
        logits, _ = self.apply(variables, batch.images)
        num_classes = logits.shape[-1]
        labels, poisoned = batch.labels % num_classes, batch.labels >= num_classes
        objective = tell_apart(cross_entropy(logits, labels), ~poisoned, poisoned, self.unlearn)
        return objective, (batch_stats, batch_metrics(logits, labels))


def start_classifying(network: Network, config: FitConfig, unlearn: float, views: Augment | None = None) -> Phase:
    """The last step's phase, for those who run its steps themselves."""
    return _Classifying("classifier", network, config.epochs, config.batch_size, True, views, network, config, unlearn)


def run_dst(task: Task, config: DstConfig) -> Defended:
    """Trains a new network: its features on all images, its classifier on those held to be clean.

    Raises:
      ConfigError: shares that leave fewer than two images clean or poisoned, or batches that do not fit the set.
      DataError: labels that do not fit the network.
      DefenseError: a loss became infinite or not a number.
    """
    network, data = task.network, Batch(*map(np.asarray, task.data))
    num_classes = network.architecture.num_classes
    check_set(data, num_classes)
    if config.contrast.batch_size > len(data.labels):
        raise ConfigError(
            f"dst.contrast.batch_size {config.contrast.batch_size} exceeds the {len(data.labels)} images: choose a "
            "smaller one"
        )
    separation_key, start_key, pretrain_key, classify_key = jax.random.split(task.key, 4)
    found = separate(task, config.separation, separation_key, "dst.separation")
    trusted = np.full(len(data.labels), num_classes, np.int32)
    trusted[found.clean] = 0
    variables, history = task.do(
        "contrast",
        pretrain,
        network,
        start_weights(task, start_key),
        data.images,
        pretrain_key,
        config.contrast,
        views=config.views,
        labels=(data.labels + trusted).astype(np.int32),
        contrast=TrustedLabels(num_classes, config.base_temperature),
        phase="contrast",
        progress=task.progress,
    )
    task.note("contrast", history)
    variables = _classify(task, variables, data, found, classify_key, config)
    rule = (
        f"A new network learned its features from all images, with the labels of the {len(found.clean)} that change "
        f"least under rotation, and its last layer from these and against the {len(found.poisoned)} that change most."
    )
    return conclude_anew(
        task, variables, rule, kept=(found.clean,), isolated=found.poisoned, suspicion=found.scores
    )  # fmt: skip


def _classify(
    task: Task, variables: Variables, data: Batch, found: Separation, key: jax.Array, config: DstConfig
) -> Variables:
    """The variables with a last layer trained on the images of both kinds."""
    network, (init_key, fit_key) = task.network, jax.random.split(key)
    head = {network.head: network.init(init_key)["params"][network.head]}
    chosen = np.concatenate([found.clean, found.poisoned])
    marks = np.repeat([0, network.architecture.num_classes], [len(found.clean), len(found.poisoned)])
    part = Batch(data.images[chosen], (data.labels[chosen] + marks).astype(np.int32))
    settings = replace(config.classifier, batch_size=min(config.classifier.batch_size, len(chosen)))
    phase = start_classifying(network, settings, config.unlearn, config.views)
    params = {name: tree for name, tree in variables["params"].items() if name != network.head}
    rest = {"params": params, "masks": variables["masks"]}
    given = (phase, head, {"rest": rest}, variables["batch_stats"], part, fit_key, task.progress)
    trained, _, history, _ = task.do("classifier", run_phase, *given)
    task.note("classifier", history)
    return {**variables, "params": {**params, **trained}}


dst = Method(
    name="dst",
    title="D-ST",
    summary="D-ST: train a new network, with the labels of the images whose features change least under rotation",
    basis="A new network learns features from all untrusted images and the labels of those whose features change least "
    "under rotation (D-ST, NeurIPS 2022).",
    run=run_dst,
    defaults=DstConfig(),
    needs="untrusted",
    changes="weights",
    colour="#bf360c",
    marker=(9, 1, 180),
)
