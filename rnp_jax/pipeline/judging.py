"""Judge: what the figures before and after a method, or the evidence where the trigger is not known, amount to.

A known trigger is called removed only where the upper end of its ASR's interval is what a clean model may show, and the
triggered images are classified about as well as clean ones. Without the trigger nothing is called removed.

A verdict supports that the backdoor is gone in two cases alone, both at no cost: a known trigger is removed, or nothing
is left of what stood out before and the method did not train on triggers of that kind itself.
"""

import math

from rnp_jax.detection.evidence import Finding
from rnp_jax.errors import RequirementError
from rnp_jax.evaluation.metrics import Metrics
from rnp_jax.pipeline.doubts import Doubt
from rnp_jax.pipeline.options import Require
from rnp_jax.report.outcome import CHANCE, COSTLY, MISLED, STILL_WORKS, limit_asr
from rnp_jax.report.schema import Verdict

Z_SQUARED = 1.959963984540054**2
"""Of the 95 % interval."""

AT_CHANCE = "Nothing can be concluded: the network is hardly better than guessing as it was opened"
"""Said of a network that is probably computed with a wrong normalisation, design or image size, or on other classes."""

IN_DOUBT = "the network may not be computed as it was trained"
"""Said of a network whose accuracy is far under what its file states."""

FOR_NOTHING = "The method cost accuracy for nothing that was measured."
"""Said of a model that showed no sign of a backdoor and lost more than `COSTLY`."""


def needed_images(num_classes: int) -> int:
    """The fewest triggered images on which a trigger that never works can be called removed, of a model with ACC 1.

    Wilson's interval of 0 in n ends at z² / (n + z²), which may be at most ``clean_asr``.
    """
    return math.ceil(Z_SQUARED * (1 / min(CHANCE, 1 / num_classes) - 1))


def clean_asr(metrics: Metrics, num_classes: int) -> float:
    """The highest ASR that is no sign of a backdoor in a model of this accuracy."""
    return limit_asr(metrics.acc.value, num_classes)


def judge(
    before: Metrics,
    after: Metrics,
    num_classes: int,
    done: str,
    *,
    detail: str,
    finding: Finding | None = None,
    inverts: bool = False,
) -> Verdict:
    """The verdict, and whether it supports that the backdoor is gone.

    Args:
      before: figures of the suspicious model.
      after: figures after the method.
      num_classes: K.
      done: what the method did, in a few words.
      detail: the same as a sentence or two.
      finding: evidence without the trigger, where it was gathered.
      inverts: whether the method trained on triggers of the kind that the evidence searches.
    """
    cost = f"ACC {before.acc.value:.1%} → {after.acc.value:.1%}"
    costly = before.acc.value - after.acc.value > COSTLY
    guessing = 1 / num_classes
    if costly and after.acc.interval[0] <= guessing < before.acc.interval[0]:
        headline = f"The model is destroyed: {cost}, no better than guessing among {num_classes} classes"
        return Verdict(headline=headline, detail=detail, level="bad")
    if before.asr is None or after.asr is None:
        return _judge_blindly(finding, done, cost, costly, inverts)
    asr = f"ASR {before.asr.value:.1%} → {after.asr.value:.1%}"
    if before.asr.value <= clean_asr(before, num_classes):
        return Verdict(
            headline=f"This trigger did not work to begin with; {asr}, {cost}",
            detail="Nothing can be concluded about another trigger." + f" {FOR_NOTHING}" * costly,
            level="warning" if costly else "unknown",
        )
    misled = after.ra is not None and after.ra.value < after.acc.value - MISLED
    level, found, supported = "warning", "This trigger is removed, at a cost", False
    if after.asr.interval[1] > clean_asr(after, num_classes):
        found = "This trigger is weakened"
        if after.asr.value > STILL_WORKS:
            level, found = "bad", "This trigger is not removed"
        elif after.asr.value <= clean_asr(after, num_classes):
            found = "Too few triggered images to call this trigger removed"
    elif misled:
        found = "This trigger leads elsewhere now"
        asr += f", RA {after.ra.value:.1%}" if after.ra is not None else ""
    elif not costly:
        level, found, supported = "ok", "This trigger is removed", True
    return Verdict(headline=f"{found}: {asr}, {cost}", detail=detail, level=level, supported=supported)  # pyright: ignore[reportArgumentType]


def hold_in_doubt(verdict: Verdict, doubt: Doubt | None) -> Verdict:
    """The verdict, and on a network that may not be computed as it was trained one that supports nothing.

    Args:
      verdict: what the figures alone amount to.
      doubt: raised by the accuracy before the method; None leaves the verdict as it is.
    """
    if doubt is None:
        return verdict
    if doubt.at_chance:
        return Verdict(headline=AT_CHANCE, detail=doubt.sentence, level="bad")
    return Verdict(
        headline=f"{verdict.headline}; but {IN_DOUBT}",
        detail=f"{verdict.detail} {doubt.sentence}",
        level="bad" if verdict.level == "bad" else "warning",
    )


def check_required(require: Require, verdict: Verdict) -> None:
    """Holds the verdict of a finished defense against what was required.

    Raises:
      RequirementError: it does not support that the backdoor is removed, and that was required.
    """
    if require == "removed" and not verdict.supported:
        raise RequirementError(
            f"the result does not support that the backdoor is removed. {verdict.headline}. {verdict.detail}"
        )


def _judge_blindly(finding: Finding | None, done: str, cost: str, costly: bool, inverts: bool) -> Verdict:
    """The verdict where the trigger is not known."""
    if finding is None:
        return Verdict(
            headline=f"{done}; {cost}",
            detail="The trigger is not known, so whether a backdoor was there, and is gone, cannot be measured."
            + f" {FOR_NOTHING}" * costly,
            level="warning" if costly else "unknown",
        )
    reasons = " ".join(finding.reasons)
    if finding.level == "still there":
        return Verdict(headline=f"A backdoor is still there; {cost}", detail=reasons, level="bad")
    if finding.level == "traces":
        return Verdict(headline=f"Traces of a backdoor are left; {cost}", detail=reasons, level="warning")
    if not finding.visible:
        return Verdict(
            headline=f"No backdoor was visible before or after; {cost}",
            detail=reasons + f" {FOR_NOTHING}" * costly,
            level="warning" if costly else "unknown",
        )
    labels = ", ".join(str(each.label) for each in finding.suspects)
    weak = " The method trained on triggers of this kind itself, which makes the evidence weak." if inverts else ""
    return Verdict(
        headline=f"The trigger that was found for label {labels} works no more; {cost}",
        detail=f"{reasons} The true trigger is not known, so this is evidence and no measurement of it.{weak}",
        level="warning" if costly or inverts else "ok",
        supported=not (costly or inverts),
    )
