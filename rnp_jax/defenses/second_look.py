"""New searches of the labels that stood out, on a network that was defended since."""

import jax
import numpy as np

from rnp_jax.defenses.method import Task
from rnp_jax.defenses.searches import Recovered, SearchConfig, name_goal, search
from rnp_jax.inversion import PatchConfig, find_warps, scan_patches
from rnp_jax.inversion.anomaly import find_reached
from rnp_jax.types import Variables


def look_again(
    task: Task,
    after: Variables,
    found: Recovered,
    key: jax.Array,
    config: SearchConfig,
    squares: PatchConfig,
    small: float,
) -> Recovered:
    """What new searches of the labels that stood out find; its labels speak against the outcome ``after``.

    Triggers are searched from random starts. A size is held against the median before, a patch's success against that
    of the labels that did not stand out, and a warp's against the median before.

    Args:
      task: the images, and those held out.
      after: the network to search.
      found: what was found in the suspicious network.
      key: of the random starts.
      config: of the searches for masks and warps.
      squares: of the scan of plain patches.
      small: size, as a share of the median size before, below which a mask speaks against the outcome.
    """
    searched = (task.network, after, task.data)
    goals = tuple(found.masks.labels.tolist())
    do = task.doing("check")
    masks = do(search, *searched, key, config, found.labels, holdout=task.holdout, progress=task.progress)
    patches = do(scan_patches, *searched, squares, labels=goals, holdout=task.holdout)
    warps = found.warps  # of which none stood out, or of those that did
    if found.moved:
        warps = do(find_warps, *searched, key, config.warp, labels=found.moved, holdout=task.holdout)
    masked = {
        label: f"A new trigger of {size:.1f} pixels sends images to {name_goal(label)}; the median before was "
        f"{found.median:.1f}."
        for label, size, reached in zip(masks.labels.tolist(), masks.sizes, masks.reached, strict=True)
        if reached and size < small * found.median
    }
    laid = {
        goals[place]: f"A plain patch sends {patches.success[place]:.0%} of the images to {name_goal(goals[place])}."
        for place in patches.find_outliers(squares)
        if goals[place] in found.labels
    }
    ordinary = float(np.median(found.warps.success))
    moved = {
        int(warps.labels[place]): f"A smooth warp sends {warps.success[place]:.0%} of the images to "
        f"{name_goal(warps.labels[place])}."
        for place in find_reached(warps.success, ordinary, config.warp.works, config.warp.ahead)
    }
    why = " ".join((*masked.values(), *laid.values(), *moved.values()))
    return Recovered(masks, patches, warps, tuple(masked | laid), tuple(moved), found.median, why)
