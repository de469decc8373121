"""Hölder Pruning: prune the neurons whose estimated Hölder constants stand out from their layer's.

What the paper ("Hölder Pruning: Localized Pruning for Backdoor Removal in Deep Neural Networks", submitted to ICLR 2025
and withdrawn) states: neurons with a high per-neuron Hölder constant are pruned from a head on a frozen, clean feature
extractor; the fast gradient sign method finds them; α is 0.5; α = 1 amounts to channel Lipschitz pruning; the threshold
comes from the density of the constants. Its text is not public. What is decided here: the estimate itself (see
``sensitivity``), several radii, the rules for the threshold (see ``thresholds``), and that whole networks are scored
too, channel by channel. A head is an ``mlp`` on cached features.
"""

from dataclasses import dataclass, field

from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.scores import chooses_by_score, prune_by_site_scores
from rnp_jax.defenses.sensitivity import HolderConfig, holder_scores
from rnp_jax.defenses.thresholds import ThresholdConfig


@dataclass(frozen=True)
class HolderPruneConfig:
    """How neurons are scored, and which scores lead to pruning."""

    sensitivity: HolderConfig = field(default_factory=HolderConfig)
    threshold: ThresholdConfig = field(default_factory=ThresholdConfig)


def run_holder(task: Task, config: HolderPruneConfig) -> Defended:
    """Prunes by the neurons' Hölder constants on the images, clean or not, whose labels are not read.

    Raises:
      ConfigError: the threshold rule needs held-out images, or more filters than there are.
      DataError: images of another shape than the network's, or values that are not finite.
      DefenseError: the network has nothing to score, or the images do not vary.
    """
    images = task.data.images
    return prune_by_site_scores(
        task, lambda: holder_scores(task.network, task.variables, images, config.sensitivity), config.threshold
    )


holder = Method(
    name="holder",
    title="Hölder",
    summary="Hölder pruning: prune the filters that react most to small changes of the input",
    basis="The score of a filter is the largest change of its activation under small steps along its gradient, divided "
    "by the step's length to the power \N{GREEK SMALL LETTER ALPHA} (Hölder Pruning, ICLR 2025 submission).",
    run=run_holder,
    defaults=HolderPruneConfig(),
    chooses=lambda config: chooses_by_score(config.threshold),
    colour="#d55e00",
    marker="o",
)
