"""Automatic removal with clean images alone: two families of defenses, and searches of its own that tell them apart.

Trigger recovery finds triggers that small masks, plain patches or warps express. Pruning sees backdoors that live in
filters of their own. Each is blind where the other sees.

1. Triggers are searched for all labels (``nc``). If labels stand out, the network is distilled away from their
   triggers, and then under random corruptions of the images as well, since a trigger that is found may be a part of the
   attacker's. Searches with new random starts, and of patches of other sizes, then look at these labels again. If they
   still reach one more easily than an ordinary label, the outcome is dropped, and what they found is unlearned as well,
   in another round. The last round's outcome is dropped for good.
2. If no label stands out, the network is distilled under random corruptions alone, which take out what answers to
   patterns over the whole image. Nothing is pruned. This outcome is kept if something speaks for a backdoor: the
   smallest shift of the features to a label, which does not depend on a trigger's form, or the number of filters that
   RNP exposes and clean images can spare. It is also kept, as a precaution, if it costs next to no accuracy on the
   held-out images. Otherwise the network is left alone.
3. If the outcomes of step 1 were dropped, RNP exposes filters, they are pruned past the budget, and the network is
   repaired (``repair``), under the triggers.

After distillation from triggers the weights take a step back to the suspicious ones, which wins back accuracy (Wortsman
et al., CVPR 2022). Where the new searches speak against the outcome, the next round takes none. Where no trigger is
known that would tell, there is no step back.

No accuracy under a trigger is looked at, and no setting depends on the checkpoint. The order is that of the cost in
accuracy, so that the first outcome which nothing speaks against is the most accurate one. Not in a paper;
``docs/removal.md`` says how the settings were chosen and what they lead to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import jax
import numpy as np
from jax.typing import ArrayLike

from rnp_jax.checks import check_number
from rnp_jax.defenses.distil import DistilConfig, hold_fixed, start_distilling
from rnp_jax.defenses.method import Chooses, Method, Task
from rnp_jax.defenses.nc import NcConfig
from rnp_jax.defenses.repair import RepairConfig, repair
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig, rnp, run_rnp
from rnp_jax.defenses.searches import Recovered, gather_stamps, name_goal, recover_triggers
from rnp_jax.defenses.second_look import look_again
from rnp_jax.defenses.tuning import begin, conclude, tune
from rnp_jax.inversion import InversionConfig, PatchConfig, ShiftConfig, Stamps, find_shifts
from rnp_jax.types import Variables


@dataclass(frozen=True)
class AutoConfig:
    """Settings of automatic removal.

    Attributes:
      scan: of the first search, of all labels: shorter than the others.
      nc: of what makes a label stand out, of the searches for its triggers, and of distillation from them.
      rnp: of the exposure of filters; a class may lose more than the budget, since repair wins it back.
      repair: of pruning past the budget, and of distillation after it.
      blind: of distillation under random corruptions: alone where no label stood out, and after that from triggers.
      interpolate: share of the way back to the suspicious weights that the first outcome of distillation from triggers
        takes.
      shift: of the feature shift, and when one stands out: a label that it reaches speaks for a backdoor of which the
        searches found no trigger.
      spare: share of all filters that clean images must be able to spare for a network to be changed of which no label
        stood out, by its feature shift either.
      precaution: accuracy on held-out images that a distillation under corruptions may cost where nothing speaks for a
        backdoor.
      rounds: how often, at most, the network is distilled away from triggers: from those found first, and then from
        those that the last round left as well.
      again: of the second scan of patches, with other sizes and places than the first one's.
      small: size of a trigger afterwards, as a share of the median size before, below which an outcome is dropped.
    """

    scan: InversionConfig = field(default_factory=lambda: InversionConfig(steps=100, batch_size=32, success=0.98))
    nc: NcConfig = field(default_factory=lambda: NcConfig(starts=3))
    rnp: RnpConfig = field(
        default_factory=lambda: replace(rnp.defaults, prune=replace(rnp.defaults.prune, spare_classes=False))
    )
    repair: RepairConfig = field(default_factory=RepairConfig)
    blind: DistilConfig = field(default_factory=lambda: DistilConfig(corrupted=0.5))
    interpolate: float = 0.25
    shift: ShiftConfig = field(default_factory=ShiftConfig)
    spare: float = 0.01
    precaution: float = 0.01
    rounds: int = 2
    again: PatchConfig = field(default_factory=lambda: PatchConfig(side=0.16, step=0.6))
    small: float = 0.5

    def __post_init__(self):
        check_number("spare", self.spare, 0, 1)
        check_number("interpolate", self.interpolate, 0, 1)
        check_number("small", self.small, 0, 1)
        check_number("precaution", self.precaution, 0, 1)
        check_number("rounds", self.rounds, 1, integer=True)


def run_auto(task: Task, config: AutoConfig) -> Defended:
    """Searches, removes, searches again, and goes on without triggers where that is not enough or nothing was found.

    Features carry no trigger to search for: a head on them is pruned and repaired.

    Raises:
      ConfigError: nothing is held out to choose filters by.
      DataError: no images, or none outside a label's class.
      DefenseError: a loss became infinite or not a number, or the network has nothing to mask.
    """
    _, distil_key, rnp_key, repair_key, check_key = jax.random.split(task.key, 5)
    found, stamps = _search(task, config)
    seen = "Features carry no trigger to search for." if found is None else found.rule
    whole = begin("original", task, RnpConfig())
    if found is not None and stamps is not None:
        done, stamps = _distil_away(task, whole, found, stamps, config, distil_key, check_key)
        if done is not None:
            how = (
                "The network was distilled away from these triggers, and then under random corruptions. New searches "
                "then found no plain patch or warp that reaches these labels, and no trigger of less than "
                f"{config.small:.0%} of the median size before."
            )
            return _explain(done, f"{seen} {how}")
    elif found is not None:
        return _distil_blind(task, whole, seen, config, rnp_key, repair_key)
    exposed, spared, speaks = _expose(task, config, rnp_key)
    if found is None and not speaks:
        return _leave(task, whole, f"{seen} {spared}")
    done = repair(task, exposed, config.repair, repair_key, stamps=stamps)
    if found is not None:
        again = _look_again(task, done, found, config, check_key)
        if again.labels:
            task.warn(f"Pruning and repair did not remove what was found: {again.rule}")
    return _explain(done, f"{seen} {done.choice.rule[:1].upper()}{done.choice.rule[1:]}.")


def _expose(task: Task, config: AutoConfig, key: jax.Array) -> tuple[Defended, str, bool]:
    """What RNP exposes, how many filters clean images can spare, and whether their number speaks for a backdoor."""
    exposed = run_rnp(replace(task, key=key), config.rnp)
    enough = config.spare * sum(len(each) for each in exposed.values.values())
    speaks = exposed.choice.pruned >= enough
    than = f"{enough:.0f} or more" if speaks else f"fewer than {enough:.0f}"
    return exposed, f"Of the filters that RNP exposed, clean images can spare {exposed.choice.pruned}, {than}.", speaks


def _leave(task: Task, whole: Defended, seen: str) -> Defended:
    why = f"{seen} Nothing speaks for a backdoor, and the network is unchanged."
    task.warn("Nothing was found, so nothing was removed. That is no proof that the network is clean.")
    return _explain(conclude(task, replace(whole, unchanged=True), task.variables), why)


def _distil_blind(
    task: Task, whole: Defended, seen: str, config: AutoConfig, rnp_key: jax.Array, key: jax.Array
) -> Defended:
    """Distils under corruptions; the outcome is kept if something speaks for a backdoor or it costs next to nothing."""
    apart = replace(task, history={}, warnings=[])
    done = _distil(apart, whole, {"corrupt": (config.blind, key)})
    how = "The network was distilled under random corruptions of the images, and no filter was pruned."
    lost = done.choice.holdout_acc_lost
    if shifted := _find_shifted(task, config):
        why = shifted
    elif lost is not None and lost.value <= config.precaution:
        cost = "no accuracy" if lost.value <= 0 else f"{lost.value:.1%} of the accuracy"
        why = f"Nothing speaks for a backdoor. What follows is a precaution that costs {cost} on held-out images."
    else:
        _, why, speaks = _expose(task, config, rnp_key)
        if not speaks:
            return _leave(task, whole, f"{seen} {why}")
    task.history.update(apart.history)
    task.warnings.extend(apart.warnings)
    return _explain(done, f"{seen} {why} {how}")


def _find_shifted(task: Task, config: AutoConfig) -> str:
    """The labels whose feature shift stands out, in a sentence; nothing without such labels."""
    shifts = task.do("shift", find_shifts, task.network, task.variables, task.data, config.shift)
    out = [f"{name_goal(label)} ({shifts.shares[label]:.2f})" for label in shifts.find_outliers(config.shift)]
    where = "The feature shift that leads to a label stands out, as a share of the median label's, for"
    return f"{where} {', '.join(out)}." if out else ""


def plan_search(config: AutoConfig, key: jax.Array) -> tuple[jax.Array, NcConfig]:
    """The key and the settings of the search that automatic removal begins with, of all labels, given its own key."""
    return jax.random.split(key, 5)[0], replace(config.nc, inversion=config.scan)


def _search(task: Task, config: AutoConfig) -> tuple[Recovered | None, Stamps | None]:
    """What the searches found, and the triggers of the labels that stand out; None without images or such labels."""
    if np.asarray(task.data.images).dtype != np.uint8:
        return None, None
    key, first = plan_search(config, task.key)
    searched = {"holdout": task.holdout, "progress": task.progress, "do": task.doing("invert")}
    found = recover_triggers(task.network, task.variables, task.data, key, first, **searched)
    if not found.labels:
        return found, None
    return found, gather_stamps(task.network, task.variables, task.data, key, config.nc, found, **searched)


def _distil_away(
    task: Task,
    whole: Defended,
    found: Recovered,
    stamps: Stamps,
    config: AutoConfig,
    distil_key: jax.Array,
    check_key: jax.Array,
) -> tuple[Defended | None, Stamps]:
    """Distils away from the triggers, and from those that new searches find then, for at most ``config.rounds`` rounds.

    Each round begins with the suspicious network, and only the first one's outcome steps back to it.

    Returns:
      The outcome that nothing speaks against, or None; and the triggers of all rounds.
    """
    against = ""
    for number in range(config.rounds):
        round_key, search_key = (jax.random.fold_in(key, number) for key in (distil_key, check_key))
        first_key, second_key = (jax.random.fold_in(round_key, stage) for stage in (0, 1))
        stages = {"distil": (config.nc.distil, first_key), "corrupt": (config.blind, second_key)}
        done = _distil(task, whole, stages, stamps=stamps, back=config.interpolate if number == 0 else 0.0)
        again = _look_again(task, done, found, config, search_key)
        if not again.labels:
            return done, stamps
        do = task.doing("check")
        more = gather_stamps(task.network, done.variables, task.data, search_key, config.nc, again, do=do)
        stamps, against = stamps.join(more), again.rule
    task.warn(f"Distillation from the recovered triggers was dropped: {against}")
    return None, stamps


def _distil(
    task: Task,
    whole: Defended,
    stages: Mapping[str, tuple[DistilConfig, jax.Array]],
    *,
    stamps: Stamps | None = None,
    back: float = 0.0,
) -> Defended:
    """Distils the network in stages, each with settings and a key.

    The network that a stage begins with is its teacher: it answers clean images without what the stage before removed.
    The outcome lies a share ``back`` of the way back to the suspicious weights.
    """
    variables = task.variables
    for name, (config, key) in stages.items():
        phase = start_distilling(task.network, config, task.augment, name)
        fixed = hold_fixed(task.network, variables, variables, task.data, key, config, stamps)
        variables = tune(task, phase, variables, fixed, key)
    if back > 0:
        variables = _interpolate(variables, task.variables, back)
    return conclude(task, replace(whole, variables=variables), variables)


@jax.jit
def _interpolate(tuned: Variables, start: Variables, share: ArrayLike) -> Variables:
    return jax.tree.map(lambda end, first: end + share * (first - end), tuned, start)


def _look_again(task: Task, done: Defended, found: Recovered, config: AutoConfig, key: jax.Array) -> Recovered:
    first = replace(config.nc, inversion=config.scan)
    return look_again(task, done.variables, found, key, first, config.again, config.small)


def _explain(done: Defended, why: str) -> Defended:
    return replace(done, choice=done.choice.model_copy(update={"rule": why}))


auto = Method(
    name="auto",
    title="Auto",
    summary="search for triggers, distil the network away from them and from corruptions, prune where that fails",
    basis="Labels that a small trigger, a plain patch or a warp reaches are unlearned by distillation, which goes on "
    "under random corruptions; where none stands out, the network is distilled under corruptions alone, if something "
    "else speaks for a backdoor or if that costs next to nothing.",
    run=run_auto,
    defaults=AutoConfig(),
    changes="both",
    augments=True,
    chooses=lambda _: Chooses(True, True),
    inverts=True,
    colour="#1b1b3a",
    marker=(5, 1, 180),
)
