"""NC-unlearning, distilled: triggers recovered for each label, those that stand out unlearned (Wang et al., S&P 2019).

1. For each label, the smallest mask and pattern that send clean images to it are searched on the suspicious network,
   and plain squares are tried at all places (``scan_patches``). So are a smooth warp of each label (``find_warps``),
   and a trigger that sends every class to the next one.
2. A label is flagged whose mask is far smaller than the others': its anomaly index is above 2, and its size at most
   half of the median, or its size at most a quarter of it; or which a plain square or a warp reaches, as they reach no
   ordinary label. All-to-all is flagged if its mask has at most half of the median size, too, or if a square does it.
   Where nothing is flagged, nothing is changed.
3. The network is tuned on clean images, some of which carry a flagged label's trigger, a few pixels off its place.

What differs from the paper, and from BackdoorBench's version: the third step is distillation by the suspicious network
as it came (``distil``) instead of training with true labels, which costs far less accuracy; the search is a short one;
of each flagged label several triggers are recovered, from different random starts; plain squares are tried, since of a
drawn patch a gradient finds a part that suffices, and a network that ignores the part may still answer the whole;
warps and all-to-all are searched for; nothing is rounded to 8 bits.

Triggers that no small mask expresses, as many that cover the whole image, are not flagged, nor are those that send
classes elsewhere than to one label or to the next class.
"""

from dataclasses import dataclass, field

import jax

from rnp_jax.defenses.distil import DistilConfig
from rnp_jax.defenses.method import Method, Task
from rnp_jax.defenses.repair import RepairConfig, repair
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.searches import SearchConfig, begin_searching, gather_stamps
from rnp_jax.defenses.tuning import conclude


@dataclass(frozen=True)
class NcConfig(SearchConfig):
    """Settings of NC-unlearning: those of the searches, and:

    Attributes:
      distil: settings of distillation.
    """

    distil: DistilConfig = field(default_factory=DistilConfig)


def run_nc(task: Task, config: NcConfig) -> Defended:
    """Recovers triggers, and distils the network away from those of labels that stand out.

    Raises:
      DataError: images that are not uint8 [N, H, W, C], or none outside a label's class.
      DefenseError: the loss became infinite or not a number.
    """
    search_key, distil_key = jax.random.split(task.key)
    found, begun = begin_searching(task, search_key, config)
    if not found.labels:
        return conclude(task, begun, begun.variables)
    searched = {"holdout": task.holdout, "progress": task.progress, "do": task.doing("invert")}
    stamps = gather_stamps(task.network, task.variables, task.data, search_key, config, found, **searched)
    return repair(task, begun, RepairConfig(distil=config.distil), distil_key, stamps=stamps)


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
