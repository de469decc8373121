"""NC-unlearning, distilled: triggers recovered for each label, those that stand out unlearned (Wang et al., S&P 2019).

1. For each label, the smallest mask and pattern that send clean images to it are searched on the suspicious network,
   and plain squares are tried at all places (``scan_patches``).
2. A label is flagged whose mask is far smaller than the others': its anomaly index is above 2, and its size at most
   half of the median, or its size at most a quarter of it; or which a plain square reaches, as it reaches no ordinary
   label. Where none is, nothing is changed.
3. The network is tuned on clean images, some of which carry a flagged label's trigger, a few pixels off its place.

What differs from the paper, and from BackdoorBench's version: the third step is distillation by the suspicious network
as it came (``distil``) instead of training with true labels, which costs far less accuracy; the search is a short one;
of each flagged label several triggers are recovered, from different random starts; plain squares are tried, since of a
drawn patch a gradient finds a part that suffices, and a network that ignores the part may still answer the whole;
nothing is rounded to 8 bits.

Triggers that no small mask expresses, as many that cover the whole image, are not flagged.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import numpy as np

from rnp_jax.defenses.distil import DistilConfig
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.repair import RepairConfig, repair
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig
from rnp_jax.defenses.tuning import begin, conclude
from rnp_jax.errors import ConfigError
from rnp_jax.inversion import (
    InversionConfig,
    Inverted,
    PatchConfig,
    Patches,
    Stamps,
    anomaly_index,
    find_outliers,
    invert,
    scan_patches,
)
from rnp_jax.models import Network
from rnp_jax.types import Batch, Progress, Variables


@dataclass(frozen=True)
class NcConfig:
    """Settings of NC-unlearning.

    Attributes:
      inversion: settings of trigger recovery.
      suspicious: anomaly index above which a label is flagged.
      margin: largest size of a flagged label's trigger, as a share of the median size, in (0, 1].
      clear: the same share at or below which a label is flagged whatever its index, in [0, 1]. Where one is that clear,
        labels whose masks are larger than that are not flagged.
      starts: triggers recovered for each flagged label, including the one from the search over all labels.
      patches: settings of the scan of plain squares.
      distil: settings of distillation.
    """

    inversion: InversionConfig = field(default_factory=InversionConfig)
    suspicious: float = 2.0
    margin: float = 0.5
    clear: float = 0.25
    starts: int = 2
    patches: PatchConfig = field(default_factory=PatchConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)

    def __post_init__(self):
        if not self.suspicious > 0 or not 0 < self.margin <= 1 or not 0 <= self.clear <= 1 or self.starts < 1:
            raise ConfigError(f"{self}: expected suspicious > 0, margin in (0, 1], clear in [0, 1] and starts >= 1")


def run_nc(task: Task, config: NcConfig) -> Defended:
    """Recovers triggers, and distils the network away from those of labels that stand out.

    Raises:
      DataError: images that are not uint8 [N, H, W, C], or none outside a label's class.
      DefenseError: the loss became infinite or not a number.
    """
    begun = begin("original", task, RnpConfig())
    search_key, distil_key = jax.random.split(task.key)
    searched = {"holdout": task.holdout, "progress": task.progress}
    with task.stage("invert"):
        found = recover_triggers(task.network, task.variables, task.data, search_key, config, **searched)
        rule = found.rule if found.labels else f"{found.rule} The network is unchanged."
        begun = replace(begun, choice=begun.choice.model_copy(update={"rule": rule}))
        if not found.labels:
            task.warn(rule)
            return conclude(task, replace(begun, unchanged=True), begun.variables)
        stamps = gather_stamps(task.network, task.variables, task.data, search_key, config, found, **searched)
    return repair(task, begun, RepairConfig(distil=config.distil), distil_key, stamps=stamps)


class Recovered(NamedTuple):
    """What the searches of a suspicious network found.

    Attributes:
      masks: the smallest mask and pattern of every label.
      patches: the best plain patch of every label.
      labels: those that stand out by either, the clearest first.
      rule: which labels stand out and why, or that none does, in a sentence.
    """

    masks: Inverted
    patches: Patches
    labels: tuple[int, ...]
    rule: str


def recover_triggers(
    network: Network,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: NcConfig,
    *,
    holdout: Batch | None = None,
    progress: Progress | None = None,
) -> Recovered:
    """Searches all labels; see ``run_nc`` for what it raises."""
    found = invert(
        network, variables, data, jax.random.fold_in(key, 0), config.inversion, holdout=holdout, progress=progress
    )
    patches = scan_patches(network, variables, data, config.patches, holdout=holdout)
    small = find_outliers(found.sizes, found.reached, config.suspicious, config.margin, config.clear)
    limit = config.clear * np.median(found.sizes)
    small = [place for place in small if found.sizes[place] <= limit] or small  # beside a clear one, others are noise
    laid = [place for place in patches.find_outliers(config.patches) if place not in small]
    labels = tuple(int(found.labels[place]) for place in (*small, *laid))
    return Recovered(found, patches, labels, _explain(found, patches, small, laid, config))


def gather_stamps(
    network: Network,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: NcConfig,
    found: Recovered,
    *,
    holdout: Batch | None = None,
    progress: Progress | None = None,
) -> Stamps:
    """The triggers of the labels that stand out, ``config.starts`` masks of each label and its patch if that works.

    The first mask is the one that was found; the others are searched from further random starts, with the same key.
    """
    every = [found.masks.select(found.labels)]
    for start in range(1, config.starts):
        own = jax.random.fold_in(key, start)
        again = invert(
            network, variables, data, own, config.inversion, labels=found.labels, holdout=holdout, progress=progress
        )
        every.append(again.stamps)
    works = [label for label in found.labels if found.patches.success[label] >= config.patches.works]
    if works:
        every.append(Stamps(found.patches.stamps.masks[works], found.patches.stamps.patterns[works]))
    return Stamps(*(np.concatenate(parts) for parts in zip(*every, strict=True)))


def _explain(found: Inverted, patches: Patches, small: list[int], laid: list[int], config: NcConfig) -> str:
    index, median = anomaly_index(found.sizes), np.median(found.sizes)
    if not small and not laid:
        return _explain_none(found, patches, config)
    sized = [f"label {found.labels[i]} ({found.sizes[i]:.1f} pixels, anomaly index {index[i]:.1f})" for i in small]
    plain = [
        f"label {found.labels[i]} (a plain {patches.sides[i]}×{patches.sides[i]} patch sends {patches.success[i]:.0%} "
        "of the images there)"
        for i in laid
    ]
    return (
        f"Flagged by the size of the recovered trigger or by plain patches: {', '.join([*sized, *plain])}; the median "
        f"size over labels is {median:.1f}."
    )


def _explain_none(found: Inverted, patches: Patches, config: NcConfig) -> str:
    index = anomaly_index(found.sizes)
    sizes = np.where(found.reached, found.sizes, np.inf)
    i, j = int(sizes.argmin()), int(patches.success.argmax())
    return (
        "No label stands out by its recovered trigger. The smallest is that of label "
        f"{found.labels[i]}: {found.sizes[i]:.1f} pixels, anomaly index {index[i]:.1f}; the median over labels is "
        f"{np.median(found.sizes):.1f}. A label is flagged if its index is above {config.suspicious:g} and its trigger "
        f"has at most {config.margin:.0%} of the median size, or at most {config.clear:.0%} of it; or "
        f"if a plain patch sends {config.patches.works:.0%} of the images there. The best sends "
        f"{patches.success[j]:.0%} to label {patches.labels[j]}."
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
