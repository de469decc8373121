"""Entropy-based Pruning (EP): neurons whose activations on the untrusted set fall into two groups.

Zheng et al., NeurIPS 2022. A neuron that reacts to the trigger answers poisoned images in one way and clean ones in
another, so that its activations have two narrow modes and a low differential entropy. For each channel: the largest
value over positions of what its batch norm reads, for every image; standardised over the images; the entropy of its
histogram, in bins of 0.01 that begin at the layer's lowest value. Channels whose entropy lies more than u standard
deviations below their layer's mean are pruned. The labels are not read, and the network's other weights stay as they
are.

What differs: the release's bins leave out values that lie on an edge, the layer's lowest among them, and here every
value is counted. It logs ASR for several u on the TEST set; u is fixed here. A unit of an ``mlp`` is judged by its
output.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.scores import chooses_by_score, prune_by_site_scores
from rnp_jax.defenses.thresholds import ThresholdConfig
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.evaluation.predict import fit_batch_size, pad_rows
from rnp_jax.fetching import fetch_late
from rnp_jax.models import Network
from rnp_jax.traced import jit_settings
from rnp_jax.types import Variables


@dataclass(frozen=True)
class EpConfig:
    """Settings of EP.

    Attributes:
      bin_width: width of the histogram's bins, in standard deviations of a neuron's activation.
      threshold: which neurons are pruned; the score of a neuron is how far its entropy lies below its layer's highest.
    """

    bin_width: float = 0.01
    threshold: ThresholdConfig = field(default_factory=lambda: ThresholdConfig("std", u=3.0))

    def __post_init__(self):
        if not self.bin_width > 0:
            raise ConfigError(f"bin_width {self.bin_width}: expected a number above 0, such as 0.01")
        if self.threshold.rule == "budget":
            raise ConfigError("threshold.rule budget needs clean held-out images, and ep has none: choose std")


def read_peaks(
    network: Network, variables: Variables, images: np.ndarray, batch_size: int | None = None
) -> dict[str, Float[np.ndarray, "N F"]]:
    """By site, the largest pre-activation of each channel over positions, of each image [N, H, W, C]."""
    size, variables = fit_batch_size(len(images), batch_size), jax.device_put(variables)
    chunks = [images[begin : begin + size] for begin in range(0, len(images), size)]
    rows = list(fetch_late(_peaks(network, variables, jax.device_put(pad_rows(chunk, size))) for chunk in chunks))
    return {layer: np.concatenate([row[layer] for row in rows])[: len(images)] for layer in rows[0]}


@jit_settings()
def _peaks(network: Network, variables: Variables, images: jax.Array) -> dict[str, jax.Array]:
    given, answered = network.inputs(variables, images), network.activations(variables, images)
    found = {}
    for site in network.sites:
        values = answered[site.layer] if site.layer in site.producers else given[site.layer]
        values = values.astype(jnp.float32)
        found[site.layer] = values.max(tuple(range(1, values.ndim - 1))) if values.ndim > 2 else values
    return found


def measure_entropy(peaks: Float[np.ndarray, "N F"], bin_width: float) -> Float[np.ndarray, "F"]:
    """The entropy (in nats) of each column's histogram; that of a column that does not vary is 0."""
    spread = peaks.std(0, ddof=1)
    standard = np.where(spread > 0, (peaks - peaks.mean(0)) / np.where(spread > 0, spread, 1), 0)
    bins = np.floor((standard - standard.min()) / bin_width).astype(np.int64)
    entropy = np.empty(peaks.shape[1])
    for column in range(peaks.shape[1]):
        counts = np.unique(bins[:, column], return_counts=True)[1] / len(bins)
        entropy[column] = -(counts * np.log(counts)).sum()
    return entropy


def ep_scores(
    network: Network, variables: Variables, images: np.ndarray, bin_width: float = 0.01
) -> dict[str, Float[np.ndarray, "F"]]:
    """By site, how far each neuron's entropy lies below the layer's highest [F]: high where it is suspected.

    Raises:
      DefenseError: fewer than two images, over which nothing can be standardised.
    """
    if len(images) < 2:
        raise DefenseError(f"{len(images)} images: EP needs two or more to see how activations are spread")
    rows = read_peaks(network, variables, images)
    entropies = {layer: measure_entropy(peaks, bin_width) for layer, peaks in rows.items()}
    return {layer: row.max() - row for layer, row in entropies.items()}


def run_ep(task: Task, config: EpConfig) -> Defended:
    """Prunes the suspicious network by what its neurons do on the untrusted images, whose labels are not read.

    Raises:
      ConfigError: more filters than a layer has.
      DefenseError: fewer than two images, or a network with nothing to mask.
    """
    images = np.asarray(task.data.images)
    return prune_by_site_scores(
        task, lambda: ep_scores(task.network, task.variables, images, config.bin_width), config.threshold
    )


ep = Method(
    name="ep",
    title="EP",
    summary="Entropy-based Pruning: prune the filters whose activations on the untrusted set have the lowest entropy",
    basis="The score of a filter is how far the entropy of its activations on the untrusted images lies below its "
    "layer's highest (Entropy-based Pruning, NeurIPS 2022).",
    run=run_ep,
    defaults=EpConfig(),
    needs="untrusted",
    keeps_network=True,
    chooses=lambda config: chooses_by_score(config.threshold),
    colour="#33691e",
    marker=(12, 1, 0),
)
