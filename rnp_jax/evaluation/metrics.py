"""Clean accuracy (ACC), attack success rate (ASR), robust accuracy (RA), defense effectiveness rate (DER)."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class Proportion:
    """``count`` of ``total`` images."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share, NaN of nothing."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval (J. Am. Stat. Assoc. 22, 1927)."""
        if not self.total:
            return 0.0, 1.0
        z = 1.959963984540054
        n, p = self.total, self.value
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Metrics:
    """What a model does on a test set.

    Attributes:
      acc: clean images of all classes predicted as their class.
      acc_without_target: the same over the images whose class is not the attack's target (the RNP release's figure).
      asr: triggered images whose class is not the target predicted as the attacker wants.
      ra: the same triggered images predicted as their true class.
    """

    acc: Proportion
    acc_without_target: Proportion | None = None
    asr: Proportion | None = None
    ra: Proportion | None = None


def share(hits: np.ndarray) -> Proportion:
    """Proportion of the true entries."""
    return Proportion(int(hits.sum()), hits.size)


def clean_metrics(predicted: Int[np.ndarray, "N"], labels: Int[np.ndarray, "N"], target: int | None = None) -> Metrics:
    """ACC, and ACC without the target class where there is one target."""
    correct = predicted == labels
    return Metrics(share(correct), None if target is None else share(correct[labels != target]))


def class_accuracy(predicted: Int[np.ndarray, "N"], labels: Int[np.ndarray, "N"]) -> tuple[Proportion, ...]:
    """Accuracy on the images of each class, up to the last class that has images."""
    correct = predicted == labels
    return tuple(share(correct[labels == label]) for label in range(int(labels.max(initial=-1)) + 1))


def attack_metrics(
    clean: Metrics,
    predicted: Int[np.ndarray, "N"],
    labels: Int[np.ndarray, "N"],
    wanted: Int[np.ndarray, "N"],
) -> Metrics:
    """Adds ASR and RA from the predictions on triggered images, their true labels and those the attacker wants."""
    return Metrics(clean.acc, clean.acc_without_target, share(predicted == wanted), share(predicted == labels))


def defense_effectiveness(before: Metrics, after: Metrics) -> float | None:
    """DER = (max(0, ΔASR) - max(0, ΔACC) + 1) / 2 (BackdoorBench); None where the attack is unknown."""
    if before.asr is None or after.asr is None:
        return None
    asr_drop = max(0.0, before.asr.value - after.asr.value)
    acc_drop = max(0.0, before.acc.value - after.acc.value)
    return (asr_drop - acc_drop + 1) / 2
