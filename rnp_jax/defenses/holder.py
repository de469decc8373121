"""Hölder Pruning: prune the neurons whose estimated Hölder constants stand out from their layer's.

What the paper ("Hölder Pruning: Localized Pruning for Backdoor Removal in Deep Neural Networks", submitted to ICLR 2025
and withdrawn) states: neurons with a high per-neuron Hölder constant are pruned from a head on a frozen, clean feature
extractor; the fast gradient sign method finds them; α is 0.5; α = 1 amounts to channel Lipschitz pruning; the threshold
comes from the density of the constants. Its text is not public. What is decided here: the estimate itself (see
``sensitivity``), several radii, the rules for the threshold (see ``thresholds``), and that whole networks are scored
too, channel by channel. A head is an ``mlp`` on cached features.
"""

import time
from dataclasses import dataclass, field

import jax

from rnp_jax import masks
from rnp_jax.defenses.phase import Progress
from rnp_jax.defenses.result import Pruned
from rnp_jax.defenses.scores import prune_by_score, scores_by_filter
from rnp_jax.defenses.sensitivity import HolderConfig, holder_scores
from rnp_jax.defenses.thresholds import ThresholdConfig
from rnp_jax.models import Network
from rnp_jax.training.epoch import Augment
from rnp_jax.types import Batch, Variables


@dataclass(frozen=True)
class HolderPruneConfig:
    """How neurons are scored, and which scores condemn them."""

    sensitivity: HolderConfig = field(default_factory=HolderConfig)
    threshold: ThresholdConfig = field(default_factory=ThresholdConfig)


def holder(
    network: Network,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: HolderPruneConfig,
    *,
    holdout: Batch | None = None,
    augment: Augment | None = None,
    progress: Progress | None = None,
) -> Pruned:
    """Defends a network by its neurons' Hölder constants on images, whose labels are not read.

    Args:
      network: the function of the variables.
      variables: the suspicious weights.
      data: images to score on [N, H, W, C]; clean or not, labelled or not.
      key: unused.
      config: how to score, and what to prune.
      holdout: clean images, not in ``data``, for the threshold rule that needs them.
      augment: unused.
      progress: unused.

    Raises:
      ConfigError: the threshold rule needs held-out images, or more filters than there are.
      DataError: images of another shape than the network's, or values that are not finite.
      DefenseError: the network has nothing to score, or the images do not vary.
    """
    del key, augment, progress  # scores are a function of weights and images, found in one pass
    variables = masks.bake(variables, network.placement)
    started = time.perf_counter()
    found = holder_scores(network, variables, data.images, config.sensitivity)
    scores = scores_by_filter(network, variables, found)
    timing = {"score": time.perf_counter() - started}
    return prune_by_score(network, variables, scores, config.threshold, holdout=holdout, timing=timing)
