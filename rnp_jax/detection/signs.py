"""Signs of a backdoor that need no calibration, in a network's own labels and filters.

They are those that automatic removal goes by (``defenses.auto``), found with its settings:

- **search**: labels that stand out in searches for a small mask, a plain patch or a smooth warp. A strong sign.
- **shift**: labels that a far smaller shift of the features reaches than the others. A weak sign.

A label is compared with the same network's other labels, never with a constant of other networks. Automatic removal
also counts the filters that clean images can spare. That is no sign here: clean networks spare as many as backdoored
ones.
``benchmarks/results/cpu_detection_verdicts.md`` says how often clean and backdoored networks show each sign.
"""

from dataclasses import dataclass, fields
from typing import Literal, TypeAlias, get_args

import jax
import numpy as np

from rnp_jax.checks import check_number
from rnp_jax.defenses.auto import AutoConfig
from rnp_jax.defenses.method import Do, just_do
from rnp_jax.defenses.searches import Recovered, SearchConfig, name_goal
from rnp_jax.defenses.searches import recover_triggers as search_triggers
from rnp_jax.detection.triggers import RecoveredTriggers
from rnp_jax.detection.verdict import Sign
from rnp_jax.errors import ConfigError
from rnp_jax.inversion import NEXT, ShiftConfig, anomaly_index, find_shifts
from rnp_jax.inversion.checks import find_places
from rnp_jax.inversion.stamps import measure_unstamped
from rnp_jax.models import Network
from rnp_jax.types import Batch, Progress, Variables

OwnLook: TypeAlias = Literal["search", "shift"]


@dataclass(frozen=True)
class SignConfig:
    """Which signs are looked for that need no calibration.

    Attributes:
      looks: what is looked at: search (triggers of all labels) and shift (of the features).
      holdout: share of the clean images that the searches measure on, and do not search on, if these are 20 or more.
    """

    looks: tuple[OwnLook, ...] = ("search", "shift")
    holdout: float = 0.2

    def __post_init__(self):
        unknown = [name for name in self.looks if name not in get_args(OwnLook)]
        if unknown:
            raise ConfigError(f"signs.looks {unknown}: choose among {', '.join(get_args(OwnLook))}")
        check_number("signs.holdout", self.holdout, 0.05, 0.5)


def auto_search() -> SearchConfig:
    """The settings of automatic removal's first search."""
    auto = AutoConfig()
    plain = {each.name: getattr(auto.nc, each.name) for each in fields(SearchConfig)}
    return SearchConfig(**{**plain, "inversion": auto.scan})


def look_for_triggers(
    network: Network,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: SearchConfig | None = None,
    *,
    holdout: Batch | None = None,
    progress: Progress | None = None,
    do: Do = just_do,
) -> Recovered:
    """Searches for the triggers of all labels; ``judge_triggers`` says what sign the outcome is.

    Args:
      network: the function of the variables.
      variables: of the suspicious model.
      data: clean images to search on, uint8 [N, H, W, C] and int32 [N].
      key: of the random starts and the order of the images.
      config: settings; by default those of automatic removal.
      holdout: clean images that success is measured on; by default ``data``.
      progress: called after every group of labels.
      do: calls each search.

    Raises:
      DataError: images that are not uint8 [N, H, W, C], or none outside a label's class.
    """
    config = config or auto_search()
    return search_triggers(network, variables, data, key, config, holdout=holdout, progress=progress, do=do)


def judge_triggers(found: Recovered, config: SearchConfig | None = None) -> Sign:
    """The sign that the searches are: a strong one if a label stands out. ``config`` is what they were made with."""
    if not found.labels:
        return Sign("search", "none", (), "no label stands out by a trigger", found.rule)
    return Sign("search", "strong", found.labels, _tell_trigger(found, config or auto_search()), found.rule)


def _tell_trigger(found: Recovered, config: SearchConfig) -> str:
    """What leads to the clearest label, in a few words."""
    label = found.labels[0]
    if label not in found.stamped:
        (place,) = find_places(found.warps.labels, (label,))
        return f"a smooth warp sends {found.warps.success[place]:.0%} of the images there"
    (place,) = find_places(found.masks.labels, (label,))
    size = found.masks.sizes[place]
    if found.masks.reached[place] and size <= config.margin * found.median:
        return f"a trigger of {size:.1f} pixels leads there"
    side, success = found.patches.sides[place], found.patches.success[place]
    return f"a plain {side}×{side} patch sends {success:.0%} of the images there"


def look_at_shift(network: Network, variables: Variables, data: Batch, config: ShiftConfig | None = None) -> Sign:
    """The smallest shift of the features to every label; one that stands out is a weak sign.

    Args:
      network: its last layer is linear.
      variables: of the suspicious model, masks baked in.
      data: clean images, uint8 [N, H, W, C] and int32 [N].
      config: settings; by default those of automatic removal.

    Raises:
      DataError: no images, or images that are not uint8 [N, H, W, C].
    """
    config = config or AutoConfig().shift
    shifts = find_shifts(network, variables, data, config)
    labels, least = tuple(shifts.find_outliers(config)), int(shifts.shares.argmin())
    rule = (
        f"A label stands out if its shift's anomaly index is above {config.suspicious:g} and its size at most "
        f"{config.margin:.0%} of the median label's."
    )
    size = f"{shifts.shares[labels[0] if labels else least]:.0%} of the median label's"
    if not labels:
        said = f"No label stands out by the feature shift that leads to it; the smallest, of label {least}, is {size}."
        return Sign("shift", "none", (), "no label stands out by its feature shift", f"{said} {rule}")
    said = f"The feature shift that leads to {' and '.join(map(name_goal, labels))} stands out; the first is {size}."
    return Sign("shift", "weak", labels, "a small shift of the features leads there", f"{said} {rule}")


def as_recovered(
    network: Network, variables: Variables, data: Batch, found: Recovered, seconds: float
) -> RecoveredTriggers:
    """The masks of the searches as trigger recovery gives its own, without the all-to-all one."""
    single = found.single
    labels, sizes, reached = single.labels, single.sizes, single.reached
    missed = ", ".join(str(label) for label in labels[~reached])
    return RecoveredTriggers(
        labels=labels,
        masks=np.asarray(single.stamps.masks),
        patterns=np.asarray(single.stamps.patterns),
        norms=sizes,
        success=single.success,
        baseline=measure_unstamped(network, variables, data, labels),
        reached=reached,
        index=anomaly_index(sizes),
        suspected=tuple(label for label in found.labels if label != NEXT),
        steps=np.zeros(len(labels), np.int64),
        history={},
        timing={"optimise": seconds},
        warnings=(f"No mask of the wanted success was found for label {missed}.",) if missed else (),
    )
