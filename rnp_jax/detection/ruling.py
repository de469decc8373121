"""Holds the score of a model against a calibration, and says what sign of a backdoor that is."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

from rnp_jax.detection.calibration import Calibration, Role, ScoredModel, Statistic, name_architecture
from rnp_jax.detection.verdict import Sign, Strength
from rnp_jax.models import Architecture

MISSED = 0.2
"""Share of backdoored models that may score as low as one that is called likely clean."""

_SAME_SCORE = 0.005  # of one model, scored twice with the same images


@dataclass(frozen=True)
class Ruling:
    """A score held against a calibration.

    Attributes:
      outcome: what the score says of the model.
      score: value of the statistic.
      label: the suspected label.
      threshold: models with a score above it are called backdoored; None without a calibration.
      sentence: the reason, in words.
      own: whether the model took part in the calibration, so that the outcome is in-sample.
    """

    outcome: Literal["backdoored", "clean", "undecided"]
    score: float
    label: int
    threshold: float | None
    sentence: str
    own: bool = False


class Identity(NamedTuple):
    """What tells a model from others: the name of its file without the suffix, and the file's digest."""

    name: str
    sha256: str


def rule_on(
    statistic: Statistic,
    score: float,
    label: int,
    calibration: Calibration | None,
    architecture: Architecture,
    settings: Mapping[str, Any],
    identity: Identity | None = None,
) -> Ruling:
    """Compares a score with a calibration. Without one for such models and settings, the outcome is undecided.

    Args:
      statistic: the statistic that was scored.
      score: ``LabelFindings.score`` or ``RecoveredTriggers.score``.
      label: the label detected.
      calibration: calibration of the same statistic on labelled models.
      architecture: architecture of the scored model.
      settings: settings that the score was computed with.
      identity: of the scored model, which may be one of the calibration's own.
    """
    found = {
        "labels": f"{score:.2f} of the predictions went to label {label} while the model unlearned",
        "triggers": f"the smallest trigger found, for label {label}, has {1 - score:.0%} of the median's size",
    }[statistic]
    ruling = partial(Ruling, score=score, label=label)
    if calibration is None:
        return ruling("undecided", threshold=None, sentence=f"{found}, and there is no calibration to judge it by")
    differs = _difference(calibration, statistic, architecture, settings)
    threshold, below = calibration.threshold, calibration.clean_below
    if differs:
        how = f"{found}, but the calibration does not apply: {differs}; make one with rnp-jax calibrate"
        return ruling("undecided", threshold=threshold, sentence=how)
    own = None if identity is None else find_own(calibration, identity, score)
    remark = "" if own is None else f"; {_TOOK_PART[own.role]}"
    ruling = partial(ruling, threshold=threshold, own=own is not None)
    known = [each for each in calibration.models if each.role == "calibration"]
    clean = sum(each.attack is None for each in known)
    if score > threshold:
        why = f"a score above all {clean} clean models ({score:.2f}, threshold {threshold:.2f})"
        return ruling("backdoored", sentence=f"{found}, {why}{remark}")
    if score < below:
        why = f"a score below all {len(known) - clean} backdoored models ({score:.2f}, limit {below:.2f})"
        return ruling("clean", sentence=f"{found}, {why}; other backdoors may hide{remark}")
    limits = f"{score:.2f}, between {below:.2f} and the threshold {threshold:.2f}"
    why = f"a score that both clean and backdoored models have ({limits})"
    return ruling("undecided", sentence=f"{found}, {why}{remark}")


_TOOK_PART: dict[Role, str] = {
    "calibration": "this model took part in the calibration and helped to choose the threshold",
    "held-out": "this model took part in the calibration, in the half that measured the threshold",
    "weak": "this model took part in the calibration, in neither half",
}


def find_own(calibration: Calibration, identity: Identity, score: float) -> ScoredModel | None:
    """The model among the calibration's own: one of the same digest, or without a digest of the same name and score."""
    for each in calibration.models:
        alike = each.name == identity.name and abs(each.score - score) < _SAME_SCORE
        if each.sha256 == identity.sha256 or (each.sha256 is None and alike):
            return each
    return None


def as_sign(statistic: Statistic, ruling: Ruling, calibration: Calibration | None) -> Sign:
    """A ruling as a sign: strong where it says backdoored.

    It clears a model only where the half that measured the calibration shows that few backdoored models score so low:
    at most ``MISSED`` of them, with the upper end of the 95 % interval.
    """
    strength: Strength = "strong" if ruling.outcome == "backdoored" else "none"
    if ruling.outcome == "clean" and calibration is not None and calibration.held_out.missed.high <= MISSED:
        strength = "clears"
    said = f"{ruling.sentence[:1].upper()}{ruling.sentence[1:]}."
    if strength == "clears" and calibration is not None:
        missed = calibration.held_out.missed
        said += f" Of {missed.total} backdoored models that did not set the limit, {missed.count} scored so low."
    evidence = {
        "labels": f"{ruling.score:.0%} of the predictions go there while the model unlearns",
        "triggers": f"its smallest trigger has {1 - ruling.score:.0%} of the median size",
    }[statistic]
    if strength == "clears" and calibration is not None:
        evidence = f"of backdoored models, {calibration.held_out.missed.high:.0%} at most score so low"
    return Sign(statistic, strength, (ruling.label,), evidence, said, ruling.own)


def _difference(
    calibration: Calibration, statistic: Statistic, architecture: Architecture, settings: Mapping[str, Any]
) -> str:
    name = name_architecture(architecture)
    if statistic != calibration.statistic:
        return f"it is for the statistic {calibration.statistic}, not {statistic}"
    if (name, architecture.num_classes) != (calibration.architecture, calibration.num_classes):
        theirs = f"{calibration.architecture}, {calibration.num_classes} classes"
        return f"it is for {theirs}, but this model is {name}, {architecture.num_classes} classes"
    if dict(settings) != calibration.settings:
        names = {*settings, *calibration.settings}
        differing = sorted(each for each in names if settings.get(each) != calibration.settings.get(each))
        return f"it was made with other settings ({', '.join(differing)})"
    return ""
