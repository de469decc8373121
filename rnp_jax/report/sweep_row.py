"""What is known of one checkpoint under one method: one row, whatever became of it."""

from typing import Literal

from pydantic import Field

from rnp_jax.document import Count, Known, Part, Sha256, Share, Text
from rnp_jax.report.schema import Level, Proportion, Stage

Status = Literal["ok", "rejected", "failed", "skipped"]

STATUSES: tuple[Status, ...] = ("ok", "rejected", "failed", "skipped")


class SweepRow(Part):
    """One item of a sweep; ``docs/result.md`` documents every field.

    ``checkpoint`` is the path as the sweep was given it; figures are those after the method, ``acc_before``,
    ``asr_before`` and ``ra_before`` those of the checkpoint itself.

    ``evidence`` is the level of what new searches for triggers found, None where they were not made; the three fields
    after it are ``visible``, ``smallest_after`` and ``ordinary_after`` of `Evidence`.

    ``reactivation`` is the attempt to bring the backdoor back that was asked for, by its name in `REACTIVATIONS`; the
    two fields after it are ASR after it and after its control, None where it was not made.

    ``doubt``: why the network may not be computed as it was trained, if its accuracy is hardly better than guessing, or
    far under what its file states; ``note`` says more.

    ``status``: ok; rejected, the file cannot be used (``reason`` says why); failed, the method or the machine could not
    finish; skipped, never tried. ``attack`` is ``none`` where no trigger is known, and ``unknown`` where the file was
    not read that far.
    """

    key: Sha256
    checkpoint: Text
    sha256: Sha256 | None = None
    method: Text
    status: Status
    reason: Text = ""
    architecture: Text | None = None
    classes: Count | None = None
    attack: Text = "unknown"
    poison_rate: Share | None = None
    seed: int = 0
    mode: Literal["network", "head"] = "network"
    acc: Proportion | None = None
    acc_without_target: Proportion | None = None
    asr: Proportion | None = None
    ra: Proportion | None = None
    acc_before: Proportion | None = None
    asr_before: Proportion | None = None
    ra_before: Proportion | None = None
    der: Known = None
    pruned: Count | None = None
    units: Count | None = None
    evidence: Level | None = None
    visible_before: bool | None = None
    smallest_after: Known = None
    ordinary_after: Known = None
    reactivation: Text | None = None
    asr_reactivated: Proportion | None = None
    asr_reactivated_control: Proportion | None = None
    doubt: Literal["at chance", "under the stated accuracy"] | None = None
    precision: Text | None = None
    batch_size: Count | None = None
    timing: tuple[Stage, ...] = ()
    covariates: dict[Text, Known] = Field(default_factory=dict)
    note: Text = ""
    attempt: Count = 1
    device: Text | None = None
    report: Text | None = None

    @property
    def seconds(self) -> float | None:
        """Of all stages together; None where none was timed."""
        return sum(stage.seconds for stage in self.timing) if self.timing else None


RUN_FIELDS = ("timing", "attempt", "device")
"""What may differ between two runs of the same item; everything else is equal."""
