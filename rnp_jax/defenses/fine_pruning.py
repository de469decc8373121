"""Fine-Pruning: the channels of the last layer that clean images leave dormant go, then the network is tuned.

Liu et al., RAID 2018: a backdoor hides where clean images cause no activation. Channels of the last convolution are
pruned in the order of their mean activation on clean images, least first, until the accuracy on other clean images has
fallen by a tenth; fine-tuning follows.

What differs from the paper: "last" is the last batch norm that nothing but a ReLU reads, or the last hidden layer of a
head. The output of a ResNet's very last batch norm is added to the residual stream, so that its mean says nothing about
the activation behind the sum. And the accuracy is measured on images that play no other part.
"""

from dataclasses import dataclass, field

import numpy as np

from rnp_jax import masks
from rnp_jax.defenses.activations import mean_activations
from rnp_jax.defenses.finetune import FinetuneConfig, finetune
from rnp_jax.defenses.method import Chooses, Method, Task
from rnp_jax.defenses.result import Candidates, Choice, Defended, choose_within, prune
from rnp_jax.defenses.scores import scores_by_filter
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.evaluation.metrics import known_share
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Network
from rnp_jax.models.chain import Site
from rnp_jax.types import Batch, Variables


@dataclass(frozen=True)
class FinePruningConfig:
    """Settings of Fine-Pruning.

    Attributes:
      accuracy_drop: share of the network's accuracy on the held-out images that pruning may cost.
      fine_tune: fine-tune the pruned network.
      finetune: settings of fine-tuning.
    """

    accuracy_drop: float = 0.1
    fine_tune: bool = True
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)

    def __post_init__(self):
        if not 0 <= self.accuracy_drop <= 1:
            raise ConfigError(f"accuracy_drop {self.accuracy_drop}: expected a share in [0, 1]")


def run_fine_pruning(task: Task, config: FinePruningConfig) -> Defended:
    """Prunes the dormant channels of the last layer, and fine-tunes on the clean images.

    The values are dormancies, 1 for a silent channel and 0 for the layer's most active one; 0 in all other layers, of
    which nothing is a candidate. The layer's most active channel always stays.

    Raises:
      ConfigError: nothing is held out.
      DataError: no images.
      DefenseError: the network has nothing to score, or fine-tuning diverged.
    """
    network, variables = task.network, task.variables
    with task.stage("score"):
        site = last_site(network)
        dormancies = scores_by_filter(
            network, variables, {site.layer: dormancy(network, variables, task.data.images, site)}
        )
    with task.stage("choose"):
        candidates = _rank(site, dormancies)
        choice = _choose(network, variables, candidates, task.holdout, config.accuracy_drop)
        pruned = prune(variables, candidates, choice.pruned)
    if choice.pruned == 0:
        task.warn("No channel was pruned: pruning the first one costs more accuracy than allowed.")
    if config.fine_tune:
        given = (network, pruned, task.data, task.key, config.finetune)
        pruned, history = task.do("finetune", finetune, *given, augment=task.augment, progress=task.progress)
        task.note("finetune", history)
    return Defended(pruned, dormancies, "score", candidates, choice)


def last_site(network: Network) -> Site:
    """The last site that nothing but an activation function reads.

    Raises:
      DefenseError: there is none.
    """
    activated = [site for site in network.sites if site.activation is not None]
    if not activated:
        raise DefenseError("the network has no hidden layer with an activation: Fine-Pruning needs one to measure")
    return activated[-1]


def dormancy(network: Network, variables: Variables, images: np.ndarray, site: Site) -> np.ndarray:
    """1 − a_k / max a of the mean activations a of a site's F channels on clean images [N, H, W, C]."""
    mean = mean_activations(network, variables, images, (site,))[site.layer]
    return 1 - mean / mean.max() if mean.max() > 0 else np.ones_like(mean)


def _rank(site: Site, dormancies: masks.Filters) -> Candidates:
    """The channels whose masks lie at the site or at what produces it, but for the most active one."""
    here = np.array([name == site.layer or name in site.producers for name, _ in masks.index(dormancies)])
    values = masks.flatten(dormancies).astype(np.float64)
    order = np.argsort(-values, kind="stable")
    order = order[here[order]][:-1]
    return Candidates(order, values[order], np.full(len(order), np.nan))


def _choose(
    network: Network, variables: Variables, candidates: Candidates, holdout: Batch | None, accuracy_drop: float
) -> Choice:
    if holdout is None or len(holdout.labels) == 0:
        raise ConfigError("Fine-Pruning needs held-out clean images to see accuracy fall: hold some out")
    accuracy = known_share(predict(network, variables, holdout).labels[0] == np.asarray(holdout.labels)).value
    choice = choose_within(
        network, variables, candidates, holdout, accuracy_drop * accuracy, "least active of the last layer first"
    )
    rule = (
        f"as many filters as possible, least active of the last layer first, at a cost of at most {accuracy_drop:.1%} "
        f"of the accuracy on {len(holdout.labels)} held-out clean images; it fell by {choice.holdout_acc_lost}"
    )
    return choice.model_copy(update={"rule": rule})


fine_pruning = Method(
    name="fp",
    title="FP",
    summary="Fine-Pruning: prune the channels that clean images activate least, then fine-tune",
    basis="The score of a filter rises as its mean activation on clean images falls; filters that clean images leave "
    "idle are suspected (Fine-Pruning, RAID 2018).",
    run=run_fine_pruning,
    defaults=FinePruningConfig(),
    changes="both",
    augments=True,
    chooses=lambda _: Chooses(True, True),
    colour="#a8487f",
    marker="v",
)
