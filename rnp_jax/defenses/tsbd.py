"""TSBD: what clean unlearning changes most is set to zero, then all weights are tuned (Lin et al., NeurIPS 2024).

1. RNP's first step makes the network unlearn the clean images (``unlearn``). The change of a filter k of layer l is
   NWC = Σ_j |θᵘ_lkj − θ_lkj| over its weights. Filters of all layers form one ranking; shortcuts and linear layers are
   left out.
2. In the original network, the share n of filters with the largest change is taken, the changes of their weights are
   pooled, and the share m of these weights that changed most is set to zero.
3. All weights are tuned so that the loss and the norm of its gradient fall (``activeness``).

As the release does: unlearning is without weight decay; m is 0.7; what is set to zero is not masked, so it may grow
again.

What differs from the release:

- It sweeps n and leaves the reader to choose by test images. Here n is the largest share of the release's whose
  accuracy on held-out clean images, before tuning, is within a budget. The budget is Fine-Pruning's, which also tunes
  afterwards. ``share`` fixes n.
- Unlearning is RNP's in all else: SGD at 0.01, in shuffled batches of 100, down to a running accuracy of 0.2. The
  release unlearns 2,500 images at 1e-4, down to 0.1 within 1,000 epochs; of a few hundred images that are fitted well,
  it would need thousands of steps.
- Changes are not rounded to four decimals, so they have no ties at small values.
- In a network without convolutions, the units of hidden layers count as filters.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rnp_jax.defenses.activeness import ActiveTuneConfig, tune_actively
from rnp_jax.defenses.kernels import filter_kernels, is_shortcut, with_leaves
from rnp_jax.defenses.method import Chooses, Method, Task
from rnp_jax.defenses.result import Choice, Defended
from rnp_jax.defenses.rnp import RnpConfig, run_unlearning
from rnp_jax.defenses.site_maps import find
from rnp_jax.defenses.tuning import begin, conclude
from rnp_jax.defenses.unlearn import UnlearnConfig
from rnp_jax.defenses.variants import choose_furthest
from rnp_jax.errors import ConfigError
from rnp_jax.types import Variables

SHARES = (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 0.9)
"""The release's shares n of filters."""


def unlearning_settings() -> UnlearnConfig:
    """RNP's, without the weight decay that would move every weight."""
    return UnlearnConfig(batch_size=100, weight_decay=0.0)


@dataclass(frozen=True)
class TsbdConfig:
    """Settings of TSBD; the defaults are the release's, except for unlearning and the choice of the share.

    Attributes:
      unlearn: settings of unlearning.
      share: share n of the filters in which weights are set to zero; by default held-out clean images choose it.
      accuracy_budget: share of the held-out images by which accuracy may fall before tuning, where they choose.
      zeroed: share m of the weights of these filters that is set to zero.
      finetune: settings of the tuning that follows.
    """

    unlearn: UnlearnConfig = field(default_factory=unlearning_settings)
    share: float | None = None
    accuracy_budget: float = 0.1
    zeroed: float = 0.7
    finetune: ActiveTuneConfig = field(default_factory=ActiveTuneConfig)

    def __post_init__(self):
        if not min(self.share or 0, self.accuracy_budget, self.zeroed) >= 0:
            raise ConfigError(f"{self}: expected share, accuracy_budget and zeroed >= 0")
        if not max(self.share or 0, self.accuracy_budget, self.zeroed) <= 1:
            raise ConfigError(f"{self}: expected share, accuracy_budget and zeroed <= 1")


def run_tsbd(task: Task, config: TsbdConfig) -> Defended:
    """Unlearns, sets to zero what changed most in the original network, and tunes all weights.

    Raises:
      ConfigError: nothing is held out to choose the share by.
      DefenseError: the network has no filters, or the loss became infinite or not a number.
    """
    kernels = filter_kernels(task.network, task.variables)
    begun = begin("original", task, RnpConfig())
    unlearn_key, tune_key = jax.random.split(task.key)
    unlearned = run_unlearning(task, unlearn_key, config.unlearn)
    with task.stage("choose"):
        counted = [name for name in kernels if not is_shortcut(name)]
        after = {name: find(unlearned.variables["params"], name)["kernel"] for name in counted}
        ranking = rank_changes({name: kernels[name] for name in counted}, after)
        share, choice = _choose(task, ranking, begun.choice, config)
        start = zero_changed(task.variables, ranking, share, config.zeroed)
    given = (task.network, start, task.data, tune_key, config.finetune)
    tuned, history = task.do("tsbd", tune_actively, *given, augment=task.augment, progress=task.progress)
    task.note("tsbd", history)
    return conclude(task, replace(begun, choice=choice), tuned)


class Ranking(NamedTuple):
    """What unlearning changed most: filters and weights of all layers, numbered in the order of ``kernels``.

    Attributes:
      kernels: the original kernels [..., F] by layer.
      changes: the change NWC of each filter [F of all layers].
      filters: filters, the most changed one first.
      weights: weights [W], the most changed one first.
      owners: the filter to which each weight belongs [W].
    """

    kernels: Mapping[str, np.ndarray]
    changes: Float[np.ndarray, "F"]
    filters: Int[np.ndarray, "F"]
    weights: Int[np.ndarray, "W"]
    owners: Int[np.ndarray, "W"]


def rank_changes(
    before: Mapping[str, Float[Array | np.ndarray, "... F"]], after: Mapping[str, Float[Array | np.ndarray, "... F"]]
) -> Ranking:
    """Ranks the filters and weights of the layers by how far unlearning moved them."""
    kernels = {name: np.asarray(kernel) for name, kernel in before.items()}
    moves = {name: np.abs(np.asarray(after[name]) - kernel) for name, kernel in kernels.items()}
    changes = np.concatenate([move.reshape(-1, move.shape[-1]).sum(0) for move in moves.values()])
    first = np.cumsum([0, *(move.shape[-1] for move in moves.values())])
    owners = [
        np.broadcast_to(np.arange(begin, begin + move.shape[-1], dtype=np.int32), move.shape).ravel()
        for begin, move in zip(first[:-1], moves.values(), strict=True)
    ]
    flat = np.concatenate([move.ravel() for move in moves.values()])
    filters, weights = (np.argsort(-values, kind="stable") for values in (changes, flat))
    return Ranking(kernels, changes, filters, weights, np.concatenate(owners))


def zero_changed(variables: Variables, ranking: Ranking, share: float, zeroed: float) -> Variables:
    """The network with zeros in the place of the ``zeroed`` most changed weights of the ``share`` most changed filters.

    Both shares are in [0, 1] and count filters of all layers, and weights of all these filters, together.
    """
    chosen = np.zeros(len(ranking.filters), bool)
    chosen[ranking.filters[: _part(share, len(ranking.filters))]] = True
    pooled = ranking.weights[chosen[ranking.owners[ranking.weights]]]
    kept = np.ones(len(ranking.weights), bool)
    kept[pooled[: _part(zeroed, len(pooled))]] = False
    ends = np.cumsum([kernel.size for kernel in ranking.kernels.values()])
    parts = zip(ranking.kernels.items(), np.split(kept, ends[:-1]), strict=True)
    leaves = {
        name: {"kernel": jnp.asarray(np.where(part.reshape(kernel.shape), kernel, np.float32(0)))}
        for (name, kernel), part in parts
    }
    return {**variables, "params": with_leaves(variables["params"], leaves)}


def _part(share: float, total: int) -> int:
    return math.floor(share * total + 1e-9)  # 0.7 of 10 are 7


def _choose(task: Task, ranking: Ranking, choice: Choice, config: TsbdConfig) -> tuple[float, Choice]:
    """The share of filters, and why it is so."""

    def describe(share: float) -> str:
        return (
            f"In the {share:.1%} of filters that unlearning changed most, {config.zeroed:.0%} of the weights are set "
            "to zero, and then all weights are tuned."
        )

    if config.share is not None:
        return config.share, choice.model_copy(update={"rule": f"{describe(config.share)} The share was requested."})
    variants = [partial(zero_changed, task.variables, ranking, share, config.zeroed) for share in SHARES]
    found = choose_furthest(
        task.network, task.variables, variants, task.holdout, config.accuracy_budget, "the share of filters"
    )
    if found is None:
        task.warn("No weight was set to zero: every share of filters costs more than the budget.")
    share = 0.0 if found is None else SHARES[found]
    rule = (
        f"{describe(share)} The share is the largest that lowers accuracy on held-out clean images by at most "
        f"{config.accuracy_budget:.1%} before tuning."
    )
    return share, choice.model_copy(update={"rule": rule, "budget": config.accuracy_budget})


tsbd = Method(
    name="tsbd",
    title="TSBD",
    summary="set to zero what unlearning changes most, then tune where neurons are less active",
    basis="The weights that change most while the network unlearns the clean images are set to zero, and all weights "
    "are then trained so that the loss stays low nearby (Two-Stage Backdoor Defense, NeurIPS 2024).",
    run=run_tsbd,
    defaults=TsbdConfig(),
    changes="weights",
    augments=True,
    chooses=lambda config: Chooses(by_holdout=config.share is None),
    colour="#0d47a1",
    marker=(3, 1, 0),
)
