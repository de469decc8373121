"""What detection found in a checkpoint: a versioned document.

Nothing in it rests on a known trigger or on known poisoned samples; where they are known, what they say stands beside.
"""

from typing import Annotated, Literal

from pydantic import Field

from rnp_jax.document import Count, Known, Part, Share, Text
from rnp_jax.report.schema import Run


class LabelShare(Part):
    """A label, and its share of the predictions while the model unlearned: the mean over epochs."""

    label: Count
    name: Text
    share: Share


class StatisticPart(Part):
    """A score compared with those of models labelled clean or backdoored."""

    statistic: Literal["labels", "triggers"]
    outcome: Literal["backdoored", "clean", "undecided"]
    score: float
    threshold: Known
    label: Count
    calibration: Text


class SignPart(Part):
    """What one look at the model says, and the attacks that this look misses."""

    look: Literal["search", "triggers", "labels", "shift"]
    title: Text
    strength: Literal["strong", "weak", "none", "clears"]
    labels: tuple[Count, ...]
    all_to_all: bool = False
    own: bool = False  # took part in the calibration
    sentence: Text
    blind: Text


class RecoveredLabel(Part):
    """The smallest trigger found for a label; shares are of the clean images of other classes."""

    label: Count
    name: Text
    norm: Annotated[float, Field(ge=0)]
    index: Known
    reached: bool
    success: Share  # on the model that it was recovered from
    success_on_original: Share
    overlap: Known = None  # with the known trigger


class TriggerPart(Part):
    """Trigger recovery on one model."""

    model: Literal["original", "unlearned"]
    labels: tuple[RecoveredLabel, ...]
    suspected: tuple[Count, ...]


class SampleTruth(Part):
    """What a score is worth, where the poisoned samples are known."""

    auroc: Share
    low: Share
    high: Share
    tpr: Share
    poisoned: Count
    clean: Count


class SamplePart(Part):
    """One score of the samples of an untrusted training set."""

    score: Text
    title: Text
    data: Text
    samples: Count
    rule: Text
    threshold: float
    suspicious: tuple[Count, ...]
    truth: SampleTruth | None = None


class Detection(Run):
    """One checkpoint, looked at."""

    outcome: Literal["likely backdoored", "suspicious", "no evidence", "likely clean"]
    label: Count | None  # None where no sign names one, or where every class leads to the next one
    signs: tuple[SignPart, ...]
    statistics: tuple[StatisticPart, ...]
    shares: tuple[LabelShare, ...]
    triggers: tuple[TriggerPart, ...] = ()
    samples: tuple[SamplePart, ...] = ()
