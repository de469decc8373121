"""The machine-readable result of a run: one versioned, frozen document, written as ``result.json``.

``docs/result.md`` documents every field. Shares of images are always a `Proportion`, so that no figure travels without
its count.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rnp_jax.defenses.result import Choice, Kind
from rnp_jax.document import (
    SCHEMA_VERSION,
    Count,
    Known,
    Moment,
    Part,
    Seconds,
    Settings,
    Sha256,
    Share,
    Text,
    read_document,
    to_json,
    write_text,
)
from rnp_jax.evaluation.metrics import Metrics, Proportion


class ClassAccuracy(Part):
    """Accuracy on the test images of one class, before and after; None where it has none."""

    label: Count
    name: Text
    before: Proportion | None
    after: Proportion | None


class SearchedLabel(Part):
    """What searches for triggers found for one label.

    Sizes are pixels of the smallest mask, None where no mask reached the wanted success: on the network before, and on
    that after from a random start and from the mask found before. The others are shares of images sent to the label by
    the mask found before, by a universal perturbation, by the best plain square and by a universal warp; and of right
    answers that this mask makes wrong ones, whichever, None where they were not counted. Shifts are shares of the
    median label's feature shift, None where no shift leads to the label.
    """

    label: Count
    name: Text
    suspected: bool
    size_before: Known
    size_after_cold: Known
    size_after_warm: Known
    old_trigger_before: Share
    old_trigger_after: Share
    misled_before: Share | None = None
    misled_after: Share | None = None
    perturbation_before: Share
    perturbation_after: Share
    patch_before: Share
    patch_after: Share
    warp_before: Share
    warp_after: Share
    shift_before: Known
    shift_after: Known


Level = Literal["still there", "traces", "none found"]


class Evidence(Part):
    """Evidence without the trigger: what new searches found in the network before and after.

    ``visible``: whether a label stood out before. ``ordinary_…``: pixels that an ordinary label takes.
    """

    level: Level
    visible: bool
    labels: tuple[SearchedLabel, ...]
    ordinary_before: Known
    ordinary_after: Known
    reasons: tuple[Text, ...]

    @property
    def smallest_after(self) -> float | None:
        """Pixels of the smallest mask that reaches a suspected label after the defense; None where none does."""
        sizes = [
            size for each in self.labels if each.suspected for size in (each.size_after_cold, each.size_after_warm)
        ]
        return min((size for size in sizes if size is not None), default=None)


class Versions(Part):
    """Software that computed the result."""

    rnp_jax: Text
    python: Text
    jax: Text
    jaxlib: Text
    flax: Text
    numpy: Text


Written = Literal["replaced", "kept", "dropped"]


class CopyInfo(Part):
    """The network once more in the file, its weights in no state dict (``scattered``), or most names (``unlike``).

    ``written`` is what the file that was written has in its place: the new network, what was there, or nothing.
    """

    key: Text
    prefix: Text
    weights: Literal["equal", "different", "scattered", "unlike"]
    written: Written


class CheckpointInfo(Part):
    """The file that was defended."""

    path: Text
    sha256: Sha256
    container: Text
    state_dict_key: Text | None
    architecture: Text
    width: Count | None
    num_classes: Annotated[int, Field(ge=1)]
    parameters: Count
    filters: Count
    anomalies: tuple[Text, ...] = ()
    prefix: Text = ""  # before the names of the network's tensors
    copies: tuple[CopyInfo, ...] = ()


class FeatureInfo(Part):
    """The frozen extractor whose features a head was trained on, and how far it can be trusted."""

    extractor: Text
    dim: Annotated[int, Field(ge=1)]
    sha256: Sha256 | None
    provenance: Text
    caution: Text


class DataInfo(Part):
    """The images that were used, and the network's normalisation of them."""

    name: Text
    defense_images: Count
    holdout_images: Count
    test_images: Count
    mean: tuple[float, ...]
    std: tuple[float, ...]


class AttackInfo(Part):
    """The trigger that was tested, where it is known."""

    name: Text
    target: Count | None  # None for all-to-all
    mapping: Text
    triggered_images: Count
    constants: Settings = Field(default_factory=dict)


class Oracle(Part):
    """The operating point best by ASR, which a defender cannot see; ``budget`` is the share of ACC that it may cost."""

    ranking: Text
    threshold: Known
    pruned: Count
    metrics: Metrics
    budget: Known = None


class SweepPoint(Part):
    """The network with its first ``pruned`` filters of a ranking pruned."""

    threshold: Known
    pruned: Count
    holdout_acc: Proportion | None = None
    holdout_loss: Known = None
    acc: Proportion | None = None
    acc_without_target: Proportion | None = None
    asr: Proportion | None = None
    ra: Proportion | None = None


class Sweep(Part):
    """One ranking of the filters, pruned further and further."""

    ranking: Text
    points: tuple[SweepPoint, ...]


class Phase(Part):
    """One optimisation and its history, one value an epoch."""

    name: Text
    series: dict[Text, tuple[Known, ...]]
    stopped: Text


class PrunedFilter(Part):
    """A filter set to zero in the checkpoint that was written."""

    layer: Text
    index: Count
    mask: Known = None
    score: Known = None
    damage: Known = None


class Stage(Part):
    """Wall-clock time of one stage."""

    stage: Text
    seconds: Seconds


class Verdict(Part):
    """What a reader should take away.

    ``supported``: whether the evidence supports that the backdoor is gone; never of a detection, which removes none.
    """

    headline: Text
    detail: Text
    level: Literal["ok", "warning", "bad", "unknown"]
    supported: bool = False


class Run(Part):
    """One checkpoint, one command: what every such document says."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: Moment
    versions: Versions
    device: Text
    precision: Text
    seed: int
    command: Text | None = None
    checkpoint: CheckpointInfo
    data: DataInfo
    attack: AttackInfo | None = None
    features: FeatureInfo | None = None
    config: Settings
    timing: tuple[Stage, ...] = ()
    warnings: tuple[Text, ...] = ()
    verdict: Verdict


class Result(Run):
    """A defense of one checkpoint."""

    method: Text
    kind: Kind = "mask"
    before: Metrics
    after: Metrics
    choice: Choice | None = None
    oracle: Oracle | None = None
    sweeps: tuple[Sweep, ...] = ()
    phases: tuple[Phase, ...] = ()
    pruned_filters: tuple[PrunedFilter, ...] = ()
    classes: tuple[ClassAccuracy, ...] = ()
    evidence: Evidence | None = None
    covariates: dict[Text, Known] = Field(default_factory=dict)


def write_result(path: str | Path, result: Result) -> Path:
    """Write ``result.json`` whole or not at all.

    Raises:
      ResultError: the file cannot be written.
    """
    return write_text(path, to_json(result))


def read_result(path: str | Path) -> Result:
    """Read a ``result.json`` of this schema version.

    Raises:
      ResultError: not readable, not JSON, of another schema version, or a field is missing, unknown or out of range.
    """
    return read_document(path, Result)
