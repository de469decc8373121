"""The searches of a suspicious network for triggers, and the labels that stand out by them.

Two methods unlearn what is found here (``nc``, ``pam``), and automatic removal begins with it.
"""

from dataclasses import dataclass, field, replace
from functools import reduce
from typing import NamedTuple

import jax
import numpy as np

from rnp_jax.checks import check_number
from rnp_jax.defenses.method import Do, Task, just_do
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig
from rnp_jax.defenses.tuning import begin
from rnp_jax.errors import ConfigError
from rnp_jax.inversion import (
    NEXT,
    InversionConfig,
    Inverted,
    PatchConfig,
    Patches,
    Stamps,
    WarpConfig,
    Warps,
    anomaly_index,
    find_outliers,
    find_warps,
    invert,
    scan_patches,
)
from rnp_jax.inversion.checks import count_classes, find_places
from rnp_jax.types import Apply, Batch, Progress, Variables


@dataclass(frozen=True)
class SearchConfig:
    """Settings of the searches, and of what makes a label stand out.

    Attributes:
      inversion: settings of trigger recovery.
      suspicious: anomaly index above which a label is flagged.
      margin: largest size of a flagged label's trigger, as a share of the median size, in (0, 1].
      clear: the same share at or below which a label is flagged whatever its index, in [0, 1]. Where one is that clear,
        labels whose masks are larger than that are not flagged.
      starts: triggers recovered for each flagged label, including the one from the search over all labels.
      patches: settings of the scan of plain squares.
      warp: settings of the search for a smooth warp of each label.
      all_to_all: share of images on which the trigger must work that sends every class to the next one, beyond the two
        of K classes that a trigger of two labels moves, and at most ``inversion.success`` in all. Clean networks need a
        larger mask for it than for a label. 0 does not search for one; nor is one searched for among two classes.
    """

    inversion: InversionConfig = field(default_factory=InversionConfig)
    suspicious: float = 2.0
    margin: float = 0.5
    clear: float = 0.25
    starts: int = 2
    patches: PatchConfig = field(default_factory=PatchConfig)
    warp: WarpConfig = field(default_factory=lambda: WarpConfig(steps=40, batch_size=20))
    all_to_all: float = 0.1

    def __post_init__(self):
        if not self.suspicious > 0 or not 0 < self.margin <= 1 or not 0 <= self.clear <= 1 or self.starts < 1:
            raise ConfigError(f"{self}: expected suspicious > 0, margin in (0, 1], clear in [0, 1] and starts >= 1")
        check_number("all_to_all", self.all_to_all, 0, 1)


class Recovered(NamedTuple):
    """What the searches of a suspicious network found.

    Attributes:
      masks: the smallest mask and pattern of every label, and of ``NEXT`` where that was searched for.
      patches: the best plain patch of the same.
      warps: a smooth warp of every label.
      stamped: labels that stand out by a mask or a patch, the clearest first; ``NEXT`` for every class to the next one.
      moved: labels that stand out by a warp.
      median: size of a mask over labels, in pixels, without ``NEXT``.
      rule: which labels stand out and why, or that none does, in a sentence.
    """

    masks: Inverted
    patches: Patches
    warps: Warps
    stamped: tuple[int, ...]
    moved: tuple[int, ...]
    median: float
    rule: str

    @property
    def single(self) -> Inverted:
        """The masks of the labels, without that of all-to-all."""
        own = self.masks.labels != NEXT
        stamps = Stamps(np.asarray(self.masks.stamps.masks)[own], np.asarray(self.masks.stamps.patterns)[own])
        figures = (each[own] for each in (self.masks.sizes, self.masks.reached, self.masks.success))
        return Inverted(self.masks.labels[own], stamps, *figures)

    @property
    def labels(self) -> tuple[int, ...]:
        """Those that stand out by any of these."""
        return (*self.stamped, *(label for label in self.moved if label not in self.stamped))


def begin_searching(task: Task, key: jax.Array, config: SearchConfig) -> tuple[Recovered, Defended]:
    """What the searches find, and the network as it came, which stays so, with a warning, where no label stands out.

    Raises:
      DataError: images that are not uint8 [N, H, W, C], or none outside a label's class.
    """
    searched = {"holdout": task.holdout, "progress": task.progress, "do": task.doing("invert")}
    found = recover_triggers(task.network, task.variables, task.data, key, config, **searched)
    rule = found.rule if found.labels else f"{found.rule} The network is unchanged."
    if not found.labels:
        task.warn(rule)
    begun = begin("original", task, RnpConfig())
    choice = begun.choice.model_copy(update={"rule": rule})
    return found, replace(begun, choice=choice, unchanged=not found.labels)


def recover_triggers(
    network: Apply,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: SearchConfig,
    *,
    holdout: Batch | None = None,
    progress: Progress | None = None,
    do: Do = just_do,
) -> Recovered:
    """Searches all labels, and all-to-all; ``do`` calls each search.

    Raises:
      DataError: images that are not uint8 [N, H, W, C], or none outside a label's class.
    """
    searched = (network, variables, data)
    own = jax.random.fold_in(key, 0)
    found = do(invert, *searched, own, config.inversion, holdout=holdout, progress=progress)
    small = find_outliers(found.sizes, found.reached, config.suspicious, config.margin, config.clear)
    median = float(np.median(found.sizes))
    small = [place for place in small if found.sizes[place] <= config.clear * median] or small  # others are noise
    goals = tuple(found.labels.tolist())
    if config.all_to_all and len(goals) > 2:
        goals = (*goals, NEXT)
        found = found.join(do(search, *searched, own, config, (NEXT,), holdout=holdout, progress=progress))
        small += [len(goals) - 1] * bool(found.reached[-1] and found.sizes[-1] <= config.margin * median)
    patches = do(scan_patches, *searched, config.patches, labels=goals, holdout=holdout)
    laid = [place for place in patches.find_outliers(config.patches) if place not in small]
    warps = do(find_warps, *searched, own, config.warp, holdout=holdout)
    moved = warps.find_outliers(config.warp)
    index = _index(found)
    why = [
        *(f"{name_goal(goals[i])} ({found.sizes[i]:.1f} pixels{index[i]})" for i in small),
        *(
            f"{name_goal(goals[i])} (a plain {patches.sides[i]}×{patches.sides[i]} patch sends "
            f"{patches.success[i]:.0%} of the images there)"
            for i in laid
        ),
        *(f"{name_goal(goals[i])} (a smooth warp sends {warps.success[i]:.0%} of the images there)" for i in moved),
    ]
    rule = (
        f"Flagged by the size of the recovered trigger, by plain patches or by warps: {', '.join(why)}; the median "
        f"size over labels is {median:.1f}."
    )
    stamped, warped = (tuple(goals[place] for place in each) for each in ((*small, *laid), moved))
    said = rule if why else _explain_none(found, patches, warps, median, config)
    return Recovered(found, patches, warps, stamped, warped, median, said)


def search(
    network: Apply,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: SearchConfig,
    labels: tuple[int, ...],
    *,
    times: float = 1.0,
    holdout: Batch | None = None,
    progress: Progress | None = None,
) -> Inverted:
    """The smallest masks of some labels, and of ``NEXT`` the one that works as often as ``config.all_to_all`` asks.

    The latter takes twice as many steps: at first, no direction leads to it. ``times`` multiplies how often it works.
    """
    share = times * (2 / count_classes(network, variables, data) + config.all_to_all)
    share = min(share, config.inversion.success)
    kinds = [
        (tuple(label for label in labels if label != NEXT), config.inversion),
        (
            tuple(label for label in labels if label == NEXT),
            replace(config.inversion, success=share, steps=2 * config.inversion.steps),
        ),
    ]
    found = [
        invert(network, variables, data, key, how, labels=each, holdout=holdout, progress=progress)
        for each, how in kinds
        if each
    ]
    return reduce(Inverted.join, found)


def gather_stamps(
    network: Apply,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: SearchConfig,
    found: Recovered,
    *,
    holdout: Batch | None = None,
    progress: Progress | None = None,
    do: Do = just_do,
) -> Stamps:
    """The triggers of the labels that stand out; ``do`` calls each search.

    Of those that stand out by a mask or a patch, ``config.starts`` masks, and the patch if it works; of those that a
    warp reaches, as many warps. The first ones are those that were found; the others are searched from further random
    starts, with the same key. All-to-all must then work twice as often, and its first mask is left out: one that just
    works is a part of a trigger.
    """
    keys = [jax.random.fold_in(key, start) for start in range(1, config.starts)]
    whole = tuple(label for label in found.stamped if label != NEXT or not keys)
    every = [found.masks.select(whole)]
    for own in keys if found.stamped else ():
        searched = {"times": 2.0, "holdout": holdout, "progress": progress}
        again = do(search, network, variables, data, own, config, found.stamped, **searched)
        every.append(again.select(found.stamped))
    places = find_places(found.patches.labels, found.stamped)
    works = [place for place in places if found.patches.success[place] >= config.patches.works]
    every.append(Stamps(found.patches.stamps.masks[works], found.patches.stamps.patterns[works]))
    stamps = every[0].join(*every[1:])
    if not found.moved:
        return stamps
    again = [do(find_warps, network, variables, data, own, config.warp, labels=found.moved).fields for own in keys]
    fields = np.concatenate([found.warps.select(found.moved), *again])
    masks, patterns = (np.zeros((len(fields), *part.shape[1:]), np.float32) for part in stamps[:2])
    return stamps.join(Stamps(masks, patterns, fields))


def _explain_none(found: Inverted, patches: Patches, warps: Warps, median: float, config: SearchConfig) -> str:
    sizes = np.where(found.reached & (found.labels != NEXT), found.sizes, np.inf)
    i, j, k = int(sizes.argmin()), int(patches.success.argmax()), int(warps.success.argmax())
    return (
        f"No label stands out by its recovered trigger. The smallest is that of label {found.labels[i]}: "
        f"{found.sizes[i]:.1f} pixels{_index(found)[i]}; the median over labels is {median:.1f}. A label is flagged if "
        f"its index is above {config.suspicious:g} and its trigger has at most {config.margin:.0%} of the median size, "
        f"or at most {config.clear:.0%} of it; or if a plain patch or a smooth warp sends "
        f"{config.patches.works:.0%} of the images there. The best patch sends {patches.success[j]:.0%} to "
        f"{name_goal(patches.labels[j])}, and the best warp {warps.success[k]:.0%} to label {warps.labels[k]}."
    )


def _index(found: Inverted) -> list[str]:
    """The anomaly index of every label in words; nothing for all-to-all, which no label compares with."""
    index = anomaly_index(found.sizes[found.labels != NEXT])
    return [*(f", anomaly index {each:.1f}" for each in index), ""]


def name_goal(label: int) -> str:
    """Where images are sent, in words."""
    return "the class after their own (all-to-all)" if label == NEXT else f"label {label}"
