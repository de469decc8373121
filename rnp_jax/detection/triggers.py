"""Trigger recovery: the smallest mask and pattern that send images to each label (Neural Cleanse, Wang et al., 2019).

For a label k, the search minimises CE(f(x'), k) + λ·‖m‖₁ (S&P 2019, eq. 3), where x' = (1 − m) ∘ x + m ∘ p with m
[H, W] and p [H, W, C] in [0, 1] (both parametrised by tanh). λ rises while the label is reached on the wanted share of
images and falls otherwise; the smallest mask that reached the label is kept. A label is suspected if its mask is far
smaller than those of the other labels: its norm is more than 2 consistent median absolute deviations below the median
(section IV.A) and at most half of the median. The second condition is a rule of this project (``margin``): if norms
hardly differ, as in some clean models, the index finds outliers a few percent below the rest. A suspected label is not
a verdict on the model.

As in the release, λ is 0 until the label was reached a few times; images of all classes, including the label's own, are
driven to the label; the run ends when the norm no longer falls. Here stamped images stay real numbers (no rounding to 8
bits), batch norm is in evaluation mode, and masks are as large as the image instead of upsampled.

RNP (Li et al., ICML 2023) applies the search to an unlearned model, which makes errors on purpose. "Reached" then still
means predicted as the label, whatever the prediction was before, so ``baseline`` gives the share of images that need no
trigger at all.
"""

import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from rnp_jax.inversion.anomaly import anomaly_index, find_outliers
from rnp_jax.inversion.checks import check_images, choose_labels
from rnp_jax.inversion.mask_search import TriggerConfig, bound, search
from rnp_jax.inversion.stamps import measure_stamps, measure_unstamped
from rnp_jax.types import Apply, Batch, Progress, Variables

QUICK = TriggerConfig(steps=60, batches=4, batch_size=16, patience=3, stop_patience=15)
"""A coarse search with about 1/260 of the published one's work: tens of seconds for ten labels on two cores."""


@dataclass(frozen=True, eq=False)
class RecoveredTriggers:
    """The recovered trigger of each of K labels, in the order requested.

    Attributes:
      labels: the labels [K].
      masks: their masks [K, H, W] in [0, 1].
      patterns: their patterns [K, H, W, C] in [0, 1].
      norms: sums of the masks [K], in pixels.
      success: share of the images of other classes that the returned mask and pattern send to the label [K].
      baseline: the same share without any trigger [K].
      reached: whether the run reached the wanted success [K]; if not, the mask is the last one of the run.
      index: anomaly index [K], positive below the median, in consistent median absolute deviations.
      suspected: labels that were reached and whose index and margin are beyond the limits, the highest index first.
      steps: number of times that each run checked the schedule [K].
      history: ``success``, ``norm`` and ``weight`` (λ) [steps, K]; NaN after a run's end.
      timing: seconds by stage, including compilation.
      warnings: reasons for caution, one sentence each.
    """

    labels: Int[np.ndarray, "K"]
    masks: Float[np.ndarray, "K H W"]
    patterns: Float[np.ndarray, "K H W C"]
    norms: Float[np.ndarray, "K"]
    success: Float[np.ndarray, "K"]
    baseline: Float[np.ndarray, "K"]
    reached: Bool[np.ndarray, "K"]
    index: Float[np.ndarray, "K"]
    suspected: tuple[int, ...]
    steps: Int[np.ndarray, "K"]
    history: dict[str, np.ndarray]
    timing: dict[str, float]
    warnings: tuple[str, ...]

    @property
    def label(self) -> int:
        """The label with the smallest mask among the labels that were reached, or among all if none was."""
        norms = np.where(self.reached | ~self.reached.any(), self.norms, np.inf)
        return int(self.labels[norms.argmin()])

    @property
    def score(self) -> float:
        """How much smaller the mask of ``label`` is than the median, from 0 to 1."""
        norm, median = self.norms[list(self.labels).index(self.label)], np.median(self.norms)
        return float(np.clip(1 - norm / median, 0, 1)) if median > 0 else 0.0


def recover_triggers(
    network: Apply,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: TriggerConfig,
    *,
    labels: tuple[int, ...] | None = None,
    progress: Progress | None = None,
) -> RecoveredTriggers:
    """Recovers a trigger for every label, each independently of the others.

    Args:
      network: the network, a function of its variables.
      variables: variables of the suspicious model, or of an unlearned one.
      data: clean images, uint8 [N, H, W, C], and their labels, int32 [N].
      key: random key for the initial masks and patterns, and for the order of the images, which all labels share.
      config: settings.
      labels: the labels to try; by default all. The index compares them with each other.
      progress: called about 20 times with the mean loss λ·‖m‖₁ and success of all labels.

    Raises:
      DataError: there are no images, they are not uint8 [N, H, W, C], or all of them belong to one of the labels.
      ConfigError: the network does not have a label, or a label is given twice.
    """
    check_images(data)
    chosen = choose_labels(network, variables, data, labels)
    started = time.perf_counter()
    data = Batch(*map(jnp.asarray, data))
    run = search(network, variables, data, key, config, chosen, progress)
    timing = {"optimise": time.perf_counter() - started}

    started = time.perf_counter()
    masks, patterns = (np.asarray(bound(free)) for free in run.best)
    success = measure_stamps(network, variables, data, masks, patterns, chosen)
    baseline = measure_unstamped(network, variables, data, chosen)
    timing["measure"] = time.perf_counter() - started
    reached = np.isfinite(np.asarray(run.schedule.least))
    norms = masks.sum((1, 2), dtype=np.float64)
    index = anomaly_index(norms)
    suspected = find_outliers(norms, reached, config.suspicious, config.margin)
    return RecoveredTriggers(
        chosen, masks, patterns, norms, success, baseline, reached, index,
        tuple(int(chosen[i]) for i in suspected), np.asarray(run.step),
        {name: np.asarray(rows).T[: int(run.step.max())] for name, rows in run.history.items()},
        timing, _warn(chosen, reached, baseline, config),
    )  # fmt: skip


def _warn(labels: np.ndarray, reached: np.ndarray, baseline: np.ndarray, config: TriggerConfig) -> tuple[str, ...]:
    warnings = []
    if not reached.all():
        missed = ", ".join(str(label) for label in labels[~reached])
        warnings.append(
            f"No mask sent {config.success:.0%} of the images to label {missed}. These masks are the last ones tried, "
            "and their norms only serve as a comparison for the other labels. Raise steps or batches."
        )
    if (baseline > 0.5).any():
        idle = ", ".join(f"{label} ({share:.0%})" for label, share in zip(labels, baseline, strict=True) if share > 0.5)
        warnings.append(
            f"The model predicts most images of other classes as label {idle} without any trigger: a small mask of "
            "that label only shows that the model collapsed onto it, not what its trigger looks like."
        )
    if len(labels) < 5:
        warnings.append(f"An anomaly index over {len(labels)} labels says little; it compares labels with each other.")
    return tuple(warnings)
