"""A feature extractor with a head of its own: cached features to train the head on, and both as one network."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from rnp_jax.errors import ConfigError, DataError
from rnp_jax.models import Network, mlp_head
from rnp_jax.traced import jit_settings
from rnp_jax.training.supervised import TrainConfig, train
from rnp_jax.types import Batch, Tree, Variables

PARTS = ("extractor", "head")
_BATCH = 256


@dataclass(frozen=True)
class Extended:
    """The head on the extractor's features, as one ``Apply``.

    Its variables are those of ``join``: every collection holds the trees ``extractor`` and ``head``. The extractor's
    own last layer is not used.

    Attributes:
      extractor: gives the features [B, D].
      head: takes them as images [B, 1, 1, D].

    Raises:
      ConfigError: a head that does not take vectors.
    """

    extractor: Network
    head: Network

    def __post_init__(self):
        if self.head.architecture.image_shape[:2] != (1, 1):
            raise ConfigError(
                f"the head takes images of {self.head.architecture.image_shape}, expected (1, 1, D); "
                "make it with head_on(extractor, num_classes)"
            )

    def __call__(self, variables: Variables, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, Tree]:
        """Logits [B, K] float32 and batch statistics (moved by one step where ``train``)."""
        extractor, head = split(variables)
        features, extractor_stats = self.extractor.features(extractor, images, train=train)
        logits, head_stats = self.head(head, features[:, None, None], train=train)
        return logits, {"extractor": extractor_stats, "head": head_stats}


def join(extractor: Variables, head: Variables) -> Variables:
    """Variables of an ``Extended`` from those of its parts."""
    return {name: {"extractor": extractor[name], "head": head[name]} for name in ("params", "batch_stats", "masks")}


def split(variables: Variables) -> tuple[Variables, Variables]:
    """The parts' variables: the inverse of ``join``."""
    extractor, head = ({name: tree[part] for name, tree in variables.items()} for part in PARTS)
    return extractor, head


def head_on(extractor: Network, num_classes: int, hidden: tuple[int, ...] = (256, 256)) -> Network:
    """A multi-layer perceptron for the extractor's features, whose hidden units defenses can prune."""
    return mlp_head(feature_width(extractor), hidden, num_classes, extractor.precision)


def feature_width(network: Network) -> int:
    """D, the number of features of an image."""

    def features(key: jax.Array) -> jax.Array:
        image = jnp.zeros((1, *network.architecture.image_shape), jnp.uint8)
        return network.features(network.init(key), image)[0]

    return jax.eval_shape(features, jax.random.key(0)).shape[-1]


def extract(
    network: Network, variables: Variables, images: Shaped[np.ndarray, "N H W C"], batch_size: int = _BATCH
) -> Float[np.ndarray, "N D"]:
    """What the network's last layer reads of each image, in evaluation mode, ``batch_size`` images at a time.

    Raises:
      DataError: no images, or images of another size than the network's.
    """
    expected = network.architecture.image_shape
    if images.shape[1:] != expected or len(images) == 0:
        raise DataError(f"images have shape {images.shape}, expected [N, {', '.join(map(str, expected))}] with N >= 1")
    variables = jax.device_put(variables)
    size = min(batch_size, len(images))
    rows = []
    for begin in range(0, len(images), size):
        chunk = np.asarray(images[begin : begin + size])
        whole = chunk if len(chunk) == size else np.resize(chunk, (size, *expected))  # one shape, one compilation
        rows.append(_features(network, variables, jnp.asarray(whole))[: len(chunk)])
    return np.concatenate(jax.device_get(rows))


def fit_probe(
    network: Network, variables: Variables, data: Batch, key: jax.Array, config: TrainConfig
) -> tuple[Variables, dict[str, np.ndarray]]:
    """Trains the last layer alone, from scratch, on the frozen features of ``data`` (uint8 [N, H, W, C], int32 [N]).

    Returns:
      The network with that linear probe as its last layer, and loss and accuracy [E].

    Raises:
      ConfigError: fewer images than one batch.
      DataError: images that do not fit the network.
    """
    init_key, fit_key = jax.random.split(key)
    probe = head_on(network, network.architecture.num_classes, hidden=())
    features = extract(network, variables, np.asarray(data.images))[:, None, None]
    fitted, history = train(probe, probe.init(init_key), Batch(features, np.asarray(data.labels)), fit_key, config)
    (layer,) = fitted["params"].values()
    (last,) = network.segments[-1].layers
    return {**variables, "params": {**variables["params"], last: layer}}, history


@jit_settings()
def _features(network: Network, variables: Variables, images: jax.Array) -> jax.Array:
    return network.features(variables, images)[0]
