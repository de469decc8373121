"""Trigger recovery: the smallest mask and pattern that send images to each label (Neural Cleanse, Wang et al., 2019).

For a label k, x' = (1 − m) ∘ x + m ∘ p, with m [H, W] and p [H, W, C] in [0, 1] (both parametrised by tanh), minimises
CE(f(x'), k) + λ·‖m‖₁ (S&P 2019, eq. 3). λ is raised as long as the label is reached on the wanted share of images and
lowered when it is not; the smallest mask that reached it is kept. A label that a far smaller mask than the others'
reaches is suspected: its norm lies more than 2 consistent median absolute deviations below the median (section IV.A)
and, a rule of this project (``margin``), is at most half of it: among norms that hardly differ, as a clean model's may,
the index finds outliers a few percent below the rest. Suspecting a label is no verdict on a model.

As released: λ is 0 until the label was reached a few times; images of all classes, the label's own among them, are
driven to it; the run ends when the norm no longer falls. Here stamped images stay real numbers (no rounding to 8 bits),
batch norm is in evaluation mode, and masks are as large as the image instead of upsampled.

RNP's use of it (Li et al., ICML 2023) passes an unlearned model, which errs on purpose: there "reached" still means
predicted as the label, whatever was predicted before, so ``baseline`` says how many images need no trigger at all.
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
"""A coarse search, about 1/260 of the published one's work: tens of seconds for ten labels on two cores."""


@dataclass(frozen=True, eq=False)
class RecoveredTriggers:
    """What reaches each label. K labels, in the order asked for.

    Attributes:
      labels: [K].
      masks: [K, H, W] in [0, 1].
      patterns: [K, H, W, C] in [0, 1].
      norms: sums of the masks [K], in pixels.
      success: share of the images of other classes that mask and pattern, as returned, send to the label [K].
      baseline: the same share without any trigger [K].
      reached: whether the wanted success was reached in the run [K]; where not, the mask is the run's last.
      index: anomaly index [K], positive below the median, in consistent median absolute deviations.
      suspected: labels that were reached, with an index and a margin beyond the limits, the highest index first.
      steps: looks of the schedule that each run took [K].
      history: ``success``, ``norm`` and ``weight`` (λ) [steps, K]; NaN after a run's end.
      timing: seconds by stage, compilation included.
      warnings: what to know before believing it, one sentence each.
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
        """The label with the smallest mask, of those that were reached if any was."""
        norms = np.where(self.reached | ~self.reached.any(), self.norms, np.inf)
        return int(self.labels[norms.argmin()])

    @property
    def score(self) -> float:
        """How much smaller that mask is than the median, from 0 to 1."""
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
    """Recovers a trigger for every label, each independent of the others.

    Args:
      network: the function of the variables.
      variables: the suspicious model's, or an unlearned one's.
      data: clean images, uint8 [N, H, W, C] and int32 [N].
      key: initial masks and patterns, and the order of the images, which all labels share.
      config: settings.
      labels: the labels to try; by default all. The index compares them with each other.
      progress: called some 20 times with the mean loss λ·‖m‖₁ and success of all labels.

    Raises:
      DataError: no images, images that are not uint8 [N, H, W, C], or no image outside a label's class.
      ConfigError: a label that the network does not have, or one named twice.
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
            f"No mask sent {config.success:.0%} of the images to label {missed}; such masks are the last ones "
            "tried, and their norms count only against the others'. Raise steps or batches."
        )
    if (baseline > 0.5).any():
        idle = ", ".join(f"{label} ({share:.0%})" for label, share in zip(labels, baseline, strict=True) if share > 0.5)
        warnings.append(
            f"The model predicts most images of other classes as label {idle} without any trigger: a small mask of "
            "that label shows that the model collapsed onto it, not what its trigger looks like."
        )
    if len(labels) < 5:
        warnings.append(f"An anomaly index over {len(labels)} labels says little; it compares labels with each other.")
    return tuple(warnings)
