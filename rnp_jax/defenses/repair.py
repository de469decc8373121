"""Repair after pruning: more filters go than accuracy alone allows, stay at zero, and distillation wins accuracy back.

The operating point that clean accuracy allows leaves part of a backdoor: its filters serve the clean task a little too.
Twice as many filters leave none of it, at a cost that the suspicious network itself makes good, as a teacher on clean
images (``distil``). What is pruned stays pruned; a filter that may grow back brings the backdoor back. Not in a paper;
``docs/removal.md`` has the figures.
"""

from dataclasses import dataclass, field, replace

import jax

from rnp_jax.checks import check_number
from rnp_jax.defenses.distil import DistilConfig, hold_fixed, start_distilling
from rnp_jax.defenses.method import Task
from rnp_jax.defenses.result import Defended, prune
from rnp_jax.defenses.tuning import conclude, tune
from rnp_jax.inversion import Stamps


@dataclass(frozen=True)
class RepairConfig:
    """Settings of repair.

    Attributes:
      past: filters to prune, as a multiple of the number that was chosen, 1 or more.
      distil: settings of distillation.
    """

    past: float = 2.0
    distil: DistilConfig = field(default_factory=DistilConfig)

    def __post_init__(self):
        check_number("past", self.past, 1)


def repair(
    task: Task, begun: Defended, config: RepairConfig, key: jax.Array, *, stamps: Stamps | None = None
) -> Defended:
    """Prunes past the number that was chosen, and distils what is left from the suspicious network.

    Args:
      task: the suspicious network and the clean images.
      begun: what a method that chooses filters made of it; one that chose none is distilled as it is.
      config: settings.
      key: of everything random.
      stamps: triggers that the student learns to ignore at the same time.

    Raises:
      DefenseError: the loss became infinite or not a number.
    """
    choice, variables = begun.choice, begun.variables
    if begun.prunes:
        pruned = min(round(config.past * choice.pruned), len(begun.candidates.order))
        variables = prune(task.variables, begun.candidates, pruned)
        rule = (
            f"{choice.rule}: {choice.pruned} filters. Then {pruned} in all, in the same order, held at zero while the "
            "network was distilled from the suspicious one"
        )
        choice = choice.model_copy(update={"rule": rule, "pruned": pruned})
    phase = start_distilling(task.network, config.distil, task.augment)
    fixed = hold_fixed(task.network, variables, task.variables, task.data, key, config.distil, stamps)
    tuned = tune(task, phase, variables, fixed, key)
    return conclude(task, replace(begun, variables=tuned, choice=choice), tuned)
