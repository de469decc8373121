"""What the defenses share that tune all weights: where they start from, and what they return."""

from dataclasses import replace
from typing import Literal

import jax
import numpy as np

from rnp_jax.defenses.method import Chooses, Task
from rnp_jax.defenses.phase import Phase, run_phase
from rnp_jax.defenses.prune import chooses_by_masks
from rnp_jax.defenses.result import NO_CANDIDATES, Choice, Defended, measure_cost
from rnp_jax.defenses.rnp import RnpConfig, run_rnp, run_unlearning
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import predict
from rnp_jax.types import Batch, Tree, Variables

Start = Literal["original", "rnp", "unlearned"]
"""The network that is tuned: as it came, as RNP pruned it, or as RNP's first step left it, without the clean task."""

COSTLY = 0.05
"""Share of the held-out clean images whose loss becomes a warning."""


def check_rnp(used: bool, config: RnpConfig) -> None:
    """Settings of RNP are read, or left alone.

    Raises:
      ConfigError: they are neither.
    """
    if not used and config != RnpConfig():
        raise ConfigError("settings of RNP are given, but nothing starts from it: set start to rnp, or remove them")


def chooses_before(pruned: bool, config: RnpConfig) -> Chooses:
    """What RNP decides about filters before the weights are tuned, where it prunes first."""
    return chooses_by_masks(config.prune)._replace(option="rnp.prune.number") if pruned else Chooses()


def begin(start: Start, task: Task, config: RnpConfig) -> Defended:
    """The network to tune; see ``run_rnp`` for what it raises."""
    if start == "rnp":
        return run_rnp(task, config)
    variables = task.variables
    if start == "unlearned":
        variables = run_unlearning(task, task.key, config.unlearn).variables
    choice = Choice(rule="No filter is pruned: all weights are tuned, with settings fixed beforehand.", pruned=0)
    return Defended(variables, {}, "weights", NO_CANDIDATES, choice)


def tune(
    task: Task, phase: Phase, start: Variables, fixed: Tree, key: jax.Array, data: Batch | None = None
) -> Variables:
    """Runs a phase that trains all weights of ``start``, timed and noted under the phase's name.

    It is given the task's images, or ``data``.

    Raises:
      DefenseError: its loss became infinite or not a number.
    """
    data = task.data if data is None else data
    params, batch_stats, history, _ = task.do(
        phase.name, run_phase, phase, start["params"], fixed, start["batch_stats"], data, key, task.progress
    )
    task.note(phase.name, history)
    return {**start, "params": params, "batch_stats": batch_stats}


def conclude(task: Task, begun: Defended, tuned: Variables) -> Defended:
    """The tuned network, with the held-out accuracy before and after; what it cost too much becomes a warning."""
    held = task.holdout
    if held is None or len(held.labels) == 0:
        return replace(begun, variables=tuned)
    before, after = (
        predict(task.network, each, held).labels[0] == np.asarray(held.labels) for each in (task.variables, tuned)
    )
    if before.sum() - after.sum() > COSTLY * len(before):
        task.warn(f"Accuracy on held-out clean images fell from {before.mean():.1%} to {after.mean():.1%}.")
    return replace(begun, variables=tuned, choice=begun.choice.model_copy(update=measure_cost(before, after)))
