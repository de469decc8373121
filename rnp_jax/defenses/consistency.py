"""Feature consistency towards transformations (FCT): which images of an untrusted set to trust.

Chen et al., "Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples" (NeurIPS 2022):

    FCT(x) = mean over d of (φ_d(x) - φ_d(τ(x)))²

φ are the features that the last layer reads, τ turns the image by up to ±180° and shifts it by up to a fifth. A trigger
ties the features to itself, and they change much when it is turned away, so that poisoned images have a large FCT.

The features are those of a network of its own, as in the release: two epochs of ordinary training, then ten in which
the centres of the classes in a batch are pushed apart (the release calls this an intra-class loss; it lowers the cosine
similarity of different classes' centres), both without augmentation.

What differs: τ is drawn once for each image, so that the shares of images that count as clean and as poisoned are those
asked for (the release draws again between finding its thresholds and applying them); batch norm moves once a step (the
release runs a second forward pass for its figures); the learning rate is constant (the release's cosine over 100 epochs
falls by 4 % in these 12).
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rnp_jax.defenses.fitting import FitConfig, Fitting, check_batches, fit, start_fitting
from rnp_jax.defenses.method import Task
from rnp_jax.errors import ConfigError
from rnp_jax.models import Network
from rnp_jax.models.layers import multiply
from rnp_jax.traced import jit_settings
from rnp_jax.training.epoch import Augment, batch_metrics
from rnp_jax.training.extended import extract
from rnp_jax.training.turns import Turns
from rnp_jax.types import Batch, Tree, Variables

_CHUNK = 1024  # images that are turned together


def few_epochs(epochs: int) -> FitConfig:
    """The release's settings of both steps."""
    return FitConfig(epochs, learning_rate=0.01)


@dataclass(frozen=True)
class ConsistencyConfig:
    """Settings of the separation by FCT; the defaults are the release's.

    Attributes:
      clean: share of the images that is held to be clean, those of the lowest FCT.
      poisoned: share of the images that is held to be poisoned, those of the highest FCT.
      fit: ordinary training of the network whose features are read.
      spread: its training that pushes the classes' centres apart.
      turns: settings of the transformation τ.
    """

    clean: float = 0.2
    poisoned: float = 0.05
    fit: FitConfig = field(default_factory=lambda: few_epochs(2))
    spread: FitConfig = field(default_factory=lambda: few_epochs(10))
    turns: Turns = field(default_factory=Turns)

    def __post_init__(self):
        if not (self.clean > 0 and self.poisoned > 0 and self.clean + self.poisoned <= 1):
            raise ConfigError(
                f"clean {self.clean}, poisoned {self.poisoned}: expected shares above 0 whose sum is 1 or less"
            )


@dataclass(frozen=True)
class Separation:
    """What FCT says of an untrusted set.

    Attributes:
      scores: FCT of every image [N], high where it is suspected.
      clean: positions of the images held to be clean, ascending.
      poisoned: positions of those held to be poisoned, ascending.
    """

    scores: Float[np.ndarray, "N"]
    clean: Int[np.ndarray, "n"]
    poisoned: Int[np.ndarray, "m"]


def centre_similarity(features: Float[Array, "B D"], labels: Int[Array, "B"], num_classes: int) -> Float[Array, ""]:
    """The mean over all C × C pairs of the cosine similarity of two different classes' centres, 0 on the diagonal.

    C is the number of classes in the batch.
    """
    members = jax.nn.one_hot(labels, num_classes)
    counts = members.sum(0)
    centres = multiply(members.T, features, "float32") / jnp.maximum(counts, 1)[:, None]
    norms = jnp.sqrt(jnp.maximum(jnp.square(centres).sum(-1, keepdims=True), 1e-24))
    similarity = multiply(centres / norms, (centres / norms).T, "float32")
    present = counts > 0
    pairs = present[:, None] & present[None] & ~jnp.eye(num_classes, dtype=bool)
    return jnp.where(pairs, similarity, 0).sum() / jnp.square(present.astype(jnp.float32).sum())


@dataclass(frozen=True)
class _Spreading(Fitting):
    network: Network

    def loss(self, trained: Tree, fixed: Tree, batch_stats: Tree, batch: Batch) -> tuple[jax.Array, tuple]:
        variables = {"params": trained, "batch_stats": batch_stats, "masks": fixed["masks"]}
        features, moved = self.network.features(variables, batch.images, train=True)
        head = jax.lax.stop_gradient(trained[self.network.head])
        logits = multiply(jax.lax.stop_gradient(features), head["kernel"], "float32")
        logits = logits + head["bias"][None] if "bias" in head else logits
        similarity = centre_similarity(features, batch.labels, self.network.architecture.num_classes)
        return similarity, (moved, batch_metrics(logits, batch.labels))


def start_spreading(network: Network, config: FitConfig) -> Fitting:
    """The second step's phase, for those who run its steps themselves."""
    return _Spreading("spread", network, config.epochs, config.batch_size, True, None, config, network)


def score_consistency(
    network: Network,
    variables: Variables,
    images: np.ndarray,
    key: jax.Array,
    turns: Augment = Turns(),  # noqa: B008
) -> Float[np.ndarray, "N"]:
    """FCT of each image (uint8, or float in [0, 1], [N, H, W, C]), high where it is suspected.

    Raises:
      DataError: no images, or images of another size than the network's.
    """
    before = extract(network, variables, images)
    chunks = [
        np.asarray(_turn(turns, jax.random.fold_in(key, begin), jax.device_put(images[begin : begin + _CHUNK])))
        for begin in range(0, len(images), _CHUNK)
    ]
    return np.square(before - extract(network, variables, np.concatenate(chunks))).mean(-1)


@jit_settings()
def _turn(turns: Augment, key: jax.Array, images: jax.Array) -> jax.Array:
    return turns(key, images)


def divide(scores: Float[np.ndarray, "N"], clean: float, poisoned: float) -> Separation:
    """The ⌊clean·N⌋ images of the lowest and the ⌊poisoned·N⌋ of the highest scores."""
    order, count = np.argsort(scores, kind="stable"), len(scores)
    lowest, highest = order[: int(clean * count)], order[count - int(poisoned * count) :]
    return Separation(scores, np.sort(lowest), np.sort(highest))


def separate(task: Task, config: ConsistencyConfig, key: jax.Array, option: str) -> Separation:
    """Trains the network whose features are read, and divides the task's images by their FCT.

    Args:
      task: the network and the untrusted set; its own weights are not used.
      config: settings.
      key: of the network's weights, its training and the transformation.
      option: name of the settings' option, for errors.

    Raises:
      ConfigError: shares that leave fewer than two images clean or poisoned, or batches of one image.
      DefenseError: a loss became infinite or not a number.
    """
    count = len(task.data.labels)
    for name, share in (("clean", config.clean), ("poisoned", config.poisoned)):
        if int(share * count) < 2:
            raise ConfigError(
                f"{option}.{name} {share} is {int(share * count)} of {count} images: raise it to {2 / count:.2g} or "
                "more"
            )
    check_batches(count, "images", {f"{option}.fit": config.fit, f"{option}.spread": config.spread})
    init_key, fit_key, spread_key, turn_key = jax.random.split(key, 4)
    network = task.network
    variables = fit(task, start_fitting("fit", network, config.fit), network.init(init_key), fit_key)
    variables = fit(task, start_spreading(network, config.spread), variables, spread_key)
    with task.stage("select"):
        scores = score_consistency(network, variables, np.asarray(task.data.images), turn_key, config.turns)
    return divide(scores, config.clean, config.poisoned)
