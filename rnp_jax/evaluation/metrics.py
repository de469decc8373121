"""Clean accuracy (ACC), attack success rate (ASR), robust accuracy (RA), defense effectiveness rate (DER)."""

import math
from typing import Annotated, Self

import numpy as np
from jaxtyping import Bool, Int
from pydantic import Field

from rnp_jax.document import Count, Known, Part, Share

Z = 1.959963984540054
"""Standard deviations to either side of the mean that hold 95 % of a normal distribution."""


class Proportion(Part):
    """``count`` of ``total`` images, and Wilson's 95 % interval (J. Am. Stat. Assoc. 22, 1927)."""

    value: Share
    low: Share
    high: Share
    count: Count
    total: Annotated[int, Field(ge=1)]

    @classmethod
    def of(cls, count: int, total: int) -> Self:
        """The share of ``count`` in ``total``, which is 1 or more."""
        z, n, p = Z, total, count / total
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return cls(value=p, low=max(0.0, centre - half), high=min(1.0, centre + half), count=count, total=total)

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the interval."""
        return self.low, self.high


class Difference(Part):
    """A share of images lost, below 0 where it was won, and its 95 % interval."""

    value: Annotated[float, Field(ge=-1, le=1)]
    low: Annotated[float, Field(ge=-1, le=1)]
    high: Annotated[float, Field(ge=-1, le=1)]

    def __str__(self) -> str:
        points = (100 * each for each in (self.value, self.low, self.high))
        return "{:.1f} points (95 % interval {:.1f} to {:.1f})".format(*points)


class Metrics(Part):
    """What a model does on a test set; None where it was not or cannot be measured.

    Attributes:
      acc: clean images of all classes predicted as their class.
      acc_without_target: the same over the images whose class is not the attack's target (the RNP release's figure).
      asr: triggered images whose class is not the target predicted as the attacker wants.
      ra: the same triggered images predicted as their true class.
      der: defense effectiveness rate; None of a model that was not defended.
    """

    acc: Proportion
    acc_without_target: Proportion | None = None
    asr: Proportion | None = None
    ra: Proportion | None = None
    der: Known = None

    @property
    def shares(self) -> dict[str, Proportion | None]:
        """The shares of images by name, without DER."""
        return {"acc": self.acc, "acc_without_target": self.acc_without_target, "asr": self.asr, "ra": self.ra}


def share(hits: np.ndarray) -> Proportion | None:
    """Proportion of the true entries; None where there are no entries."""
    return known_share(hits) if hits.size else None


def known_share(hits: np.ndarray) -> Proportion:
    """Proportion of the true entries, of which the caller knows that there is at least one."""
    return Proportion.of(int(hits.sum()), hits.size)


def accuracy_lost(before: Bool[np.ndarray, "N"], after: Bool[np.ndarray, "N"]) -> Difference:
    """The accuracy lost between two networks on the same images, one or more.

    Only images count of which one network is right and the other is not. The interval is that of Agresti and Min (Stat.
    Med. 24, 2005): Wald's, with half an image more of each of the four kinds.

    Args:
      before: whether the one network is right about each image.
      after: the same of the other.
    """
    lost, won, total = int((before & ~after).sum()), int((~before & after).sum()), len(before)
    centre = (lost - won) / (total + 2)
    half = Z * math.sqrt(lost + won + 1 - (lost - won) ** 2 / (total + 2)) / (total + 2)
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return Difference(value=(lost - won) / total, low=low, high=high)


def clean_metrics(predicted: Int[np.ndarray, "N"], labels: Int[np.ndarray, "N"], target: int | None = None) -> Metrics:
    """ACC of one or more images, and ACC without the target class where there is one target."""
    correct = predicted == labels
    others = None if target is None else share(correct[labels != target])
    return Metrics(acc=known_share(correct), acc_without_target=others)


def class_accuracy(predicted: Int[np.ndarray, "N"], labels: Int[np.ndarray, "N"]) -> tuple[Proportion | None, ...]:
    """Accuracy on the images of each class, up to the last class that has images; None for a class without images."""
    correct = predicted == labels
    return tuple(share(correct[labels == label]) for label in range(int(labels.max(initial=-1)) + 1))


def attack_metrics(
    clean: Metrics,
    predicted: Int[np.ndarray, "N"],
    labels: Int[np.ndarray, "N"],
    wanted: Int[np.ndarray, "N"],
) -> Metrics:
    """Adds ASR and RA from the predictions on triggered images, their true labels and those the attacker wants."""
    return clean.model_copy(update={"asr": share(predicted == wanted), "ra": share(predicted == labels)})


def with_effectiveness(before: Metrics, after: Metrics) -> Metrics:
    """``after`` with DER = (max(0, ΔASR) - max(0, ΔACC) + 1) / 2 (BackdoorBench), where the attack is known."""
    if before.asr is None or after.asr is None:
        return after
    asr_drop = max(0.0, before.asr.value - after.asr.value)
    acc_drop = max(0.0, before.acc.value - after.acc.value)
    return after.model_copy(update={"der": (asr_drop - acc_drop + 1) / 2})
