"""NC-unlearning, distilled: triggers recovered for each label, those that stand out unlearned (Wang et al., S&P 2019).

1. For each label, the smallest mask and pattern that send clean images to it are searched on the suspicious network.
2. A label is flagged whose mask is far smaller than the others': its anomaly index is above 2, and its size at most
   half of the median. Where none is, nothing is changed.
3. The network is tuned on clean images, some of which carry a flagged label's trigger, a few pixels off its place.

What differs from the paper, and from BackdoorBench's version: the third step is distillation by the suspicious network
as it came (``distil``) instead of training with true labels, which costs far less accuracy; the search is a short one;
of each flagged label several triggers are recovered, from different random starts; nothing is rounded to 8 bits.

Triggers that no small mask expresses, as many that cover the whole image, are not flagged.
"""

from dataclasses import dataclass, field, replace

import jax
import numpy as np

from rnp_jax.defenses.distil import DistilConfig, start_distilling
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig
from rnp_jax.defenses.tuning import begin, conclude, tune
from rnp_jax.errors import ConfigError
from rnp_jax.inversion import InversionConfig, Inverted, Stamps, anomaly_index, find_outliers, invert
from rnp_jax.models import Network
from rnp_jax.types import Batch, Progress, Variables


@dataclass(frozen=True)
class NcConfig:
    """Settings of NC-unlearning.

    Attributes:
      inversion: settings of trigger recovery.
      suspicious: anomaly index above which a label is flagged.
      margin: largest size of a flagged label's trigger, as a share of the median size, in (0, 1].
      starts: triggers recovered for each flagged label, including the one from the search over all labels.
      distil: settings of distillation.
    """

    inversion: InversionConfig = field(default_factory=InversionConfig)
    suspicious: float = 2.0
    margin: float = 0.5
    starts: int = 2
    distil: DistilConfig = field(default_factory=DistilConfig)

    def __post_init__(self):
        if not self.suspicious > 0 or not 0 < self.margin <= 1 or self.starts < 1:
            raise ConfigError(f"{self}: expected suspicious > 0, margin in (0, 1] and starts >= 1")


def run_nc(task: Task, config: NcConfig) -> Defended:
    """Recovers triggers, and distils the network away from those of labels that stand out.

    Raises:
      DataError: images that are not uint8 [N, H, W, C], or none outside a label's class.
      DefenseError: the loss became infinite or not a number.
    """
    begun = begin("original", task, RnpConfig())
    search_key, distil_key = jax.random.split(task.key)
    with task.stage("invert"):
        stamps, rule = recover_stamps(
            task.network,
            task.variables,
            task.data,
            search_key,
            config,
            holdout=task.holdout,
            progress=task.progress,
        )
    begun = replace(begun, choice=begun.choice.model_copy(update={"rule": rule}))
    if stamps is None:
        task.warn(rule)
        return conclude(task, begun, begun.variables)
    phase = start_distilling(task.network, config.distil, task.augment)
    fixed = {"masks": task.variables["masks"], "teacher": task.variables, "stamps": stamps}
    return conclude(task, begun, tune(task, phase, task.variables, fixed, distil_key))


def recover_stamps(
    network: Network,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: NcConfig,
    *,
    holdout: Batch | None = None,
    progress: Progress | None = None,
) -> tuple[Stamps | None, str]:
    """The triggers of the labels that stand out, or None, and in a sentence which labels do and why, or that none does.

    See ``run_nc`` for what it raises.
    """

    def search(start: int, labels: tuple[int, ...] | None) -> Inverted:
        return invert(
            network, variables, data, jax.random.fold_in(key, start), config.inversion,
            labels=labels, holdout=holdout, progress=progress,
        )  # fmt: skip

    found = search(0, None)
    places = find_outliers(found.sizes, found.reached, config.suspicious, config.margin)
    if not places:
        return None, _explain_none(found, config)
    labels = tuple(int(found.labels[place]) for place in places)
    every = [found.select(labels), *(search(start, labels).stamps for start in range(1, config.starts))]
    return Stamps(*(np.concatenate(parts) for parts in zip(*every, strict=True))), _explain(found, places)


def _explain(found: Inverted, places: list[int]) -> str:
    index, median = anomaly_index(found.sizes), np.median(found.sizes)
    each = [f"label {found.labels[i]} ({found.sizes[i]:.1f} pixels, anomaly index {index[i]:.1f})" for i in places]
    return f"Flagged by the size of the recovered trigger: {', '.join(each)}; the median over labels is {median:.1f}."


def _explain_none(found: Inverted, config: NcConfig) -> str:
    index = anomaly_index(found.sizes)
    sizes = np.where(found.reached, found.sizes, np.inf)
    i = int(sizes.argmin())
    return (
        "No label stands out by the size of its recovered trigger, so the network is unchanged. The smallest trigger "
        f"is that of label {found.labels[i]}: {found.sizes[i]:.1f} pixels, anomaly index {index[i]:.1f}; the median "
        f"over labels is {np.median(found.sizes):.1f}. A label is flagged if its index is above {config.suspicious:g} "
        f"and its trigger has at most {config.margin:.0%} of the median size."
    )


nc = Method(
    name="nc",
    title="NC-unlearning",
    summary="recover triggers, and teach the network to ignore those of labels that stand out",
    basis="If a label's recovered trigger is far smaller than the others', the network is taught to answer stamped "
    "images as it answers them without the stamp (in distilled form, after Neural Cleanse, S&P 2019).",
    run=run_nc,
    defaults=NcConfig(),
    changes="weights",
    augments=True,
    inverts=True,
    colour="#d81b60",
    marker="H",
)
