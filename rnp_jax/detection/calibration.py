"""From a label detection's score to a verdict: a threshold from models whose truth is known.

Half of the known models choose the threshold, the other half measure it. It lies above every clean model of the first
half with a margin; below it a model is only called clean where no backdoored model of that half scored as low.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pydantic
from jaxtyping import Float
from scipy import stats

from rnp_jax.atomic import write_atomic
from rnp_jax.errors import DataError
from rnp_jax.evaluation.metrics import Proportion, share
from rnp_jax.models import Architecture

Role: TypeAlias = Literal["calibration", "held-out", "weak"]
Statistic: TypeAlias = Literal["labels", "triggers"]
"""What is scored: ``LabelFindings``, or the ``RecoveredTriggers`` of the original model."""

_HALVES: tuple[Role, Role] = ("calibration", "held-out")
_BOOTSTRAPS = 2000
_FALSE_ALARMS = 0.001
_LEAST = 4  # known models of a kind: two choose, two measure


@dataclass(frozen=True)
class ScoredModel:
    """A model whose truth is known.

    Attributes:
      name: of its file.
      attack: what it was backdoored with; None for a clean model.
      target: the backdoor's label; None where there is none, or not one.
      score: of the statistic, high where a backdoor is suspected.
      label: the label detected.
      role: which half it is in; ``weak`` where its backdoor hardly works, so that it is in neither.
    """

    name: str
    attack: str | None
    target: int | None
    score: float
    label: int
    role: Role = "calibration"


@dataclass(frozen=True)
class HeldOut:
    """What the threshold does on models that did not choose it.

    Attributes:
      auroc: chance that a backdoored model scores above a clean one.
      auroc_interval: its 95 % interval, by bootstrap over models.
      detected: backdoored models called backdoored.
      false_alarms: clean models called backdoored.
      missed: backdoored models called clean.
      cleared: clean models called clean.
      labels_right: backdoored models of one target whose detected label it is.
    """

    auroc: float
    auroc_interval: tuple[float, float]
    detected: Proportion
    false_alarms: Proportion
    missed: Proportion
    cleared: Proportion
    labels_right: Proportion


@dataclass(frozen=True)
class Calibration:
    """A threshold and where it is from.

    Attributes:
      architecture: name and width of the models.
      num_classes: K of the models.
      data: the set that the clean images were drawn from.
      images: how many clean images detection was given.
      settings: of the detection, as plain values; a score made with others is not to be held against the threshold.
      threshold: scores above it are called backdoored.
      clean_below: scores below it are called clean.
      models: all that were scored.
      held_out: what came of it.
      statistic: what was scored.
    """

    architecture: str
    num_classes: int
    data: str
    images: int
    settings: dict[str, Any]
    threshold: float
    clean_below: float
    models: tuple[ScoredModel, ...]
    held_out: HeldOut
    statistic: Statistic = "labels"

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")  # of the file


@dataclass(frozen=True)
class Verdict:
    """What a score means.

    Attributes:
      verdict: what is to be believed.
      score: of the statistic.
      label: the label suspected.
      threshold: scores above it are called backdoored; None without a calibration.
      sentence: why.
    """

    verdict: Literal["backdoored", "clean", "undecided"]
    score: float
    label: int
    threshold: float | None
    sentence: str


def name_architecture(architecture: Architecture) -> str:
    """An architecture as a calibration names it."""
    return f"{architecture.name}, width {architecture.width}" if architecture.width else architecture.name


def calibrate(
    models: Sequence[ScoredModel],
    *,
    architecture: Architecture,
    data: str,
    images: int,
    settings: Mapping[str, Any],
    seed: int = 0,
    statistic: Statistic = "labels",
) -> Calibration:
    """Chooses the threshold on half of the models, measures it on the other half.

    Clean models and those of each attack alternate between the halves, by name.

    Args:
      models: with ``role`` ``weak`` where they are to be left out; other roles are replaced.
      architecture: of all of them.
      data: the set that the clean images were drawn from.
      images: how many clean images detection was given.
      settings: of the detection, as plain values.
      seed: of the bootstrap.
      statistic: what was scored.

    Raises:
      DataError: fewer than four clean or four backdoored models.
    """
    models = _split(models)
    clean = [[each.score for each in models if each.attack is None and each.role == role] for role in _HALVES]
    backdoored = [[each.score for each in models if each.attack and each.role == role] for role in _HALVES]
    threshold, clean_below = choose_thresholds(np.asarray(clean[0]), np.asarray(backdoored[0]))
    low, high, known = np.asarray(clean[1]), np.asarray(backdoored[1]), [m for m in models if m.role == "held-out"]
    held_out = HeldOut(
        auroc(low, high),
        bootstrap_auroc(low, high, seed),
        share(high > threshold),
        share(low > threshold),
        share(high < clean_below),
        share(low < clean_below),
        share(np.asarray([m.label == m.target for m in known if m.target is not None], bool)),
    )
    return Calibration(
        name_architecture(architecture), architecture.num_classes, data, images, dict(settings), threshold, clean_below,
        models, held_out, statistic,
    )  # fmt: skip


def _split(models: Sequence[ScoredModel]) -> tuple[ScoredModel, ...]:
    ordered = sorted(models, key=lambda each: (each.attack or "", each.name))
    found, places = [], {"clean": 0, "backdoored": 0}
    for each in ordered:
        kind = "backdoored" if each.attack else "clean"
        if each.role != "weak":
            each, places[kind] = replace(each, role=_HALVES[places[kind] % 2]), places[kind] + 1
        found.append(each)
    if min(places.values()) < _LEAST:
        raise DataError(
            f"{places['clean']} clean and {places['backdoored']} backdoored models: expected at least {_LEAST} of each "
            "to choose a threshold and to measure it; train more with rnp-jax attack"
        )
    return tuple(found)


def choose_thresholds(clean: Float[np.ndarray, "n"], backdoored: Float[np.ndarray, "m"]) -> tuple[float, float]:
    """The score above which a model is backdoored, and that below which it is clean.

    The first is the limit that one more clean model exceeds with a chance of 0.1 %, were such scores normal (the
    one-sided prediction limit, wide where known models are few), and no lower than the highest of them; the second the
    lower of the lowest backdoored and the highest clean score.
    """
    count = len(clean)
    wide = stats.t.ppf(1 - _FALSE_ALARMS, count - 1) * np.sqrt(1 + 1 / count)
    threshold = max(float(clean.max()), float(clean.mean() + wide * clean.std(ddof=1)))
    return threshold, float(min(backdoored.min(), clean.max()))


def auroc(low: Float[np.ndarray, "n"], high: Float[np.ndarray, "m"]) -> float:
    """Chance that one of ``high`` exceeds one of ``low``; ties count half (Mann and Whitney, 1947)."""
    return float(((high[:, None] > low[None]) + 0.5 * (high[:, None] == low[None])).mean())


def bootstrap_auroc(low: Float[np.ndarray, "n"], high: Float[np.ndarray, "m"], seed: int) -> tuple[float, float]:
    """The 95 % percentile interval of ``auroc`` over models drawn again, each kind from its own."""
    draw = np.random.default_rng(seed)
    values = [auroc(draw.choice(low, len(low)), draw.choice(high, len(high))) for _ in range(_BOOTSTRAPS)]
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


def judge(
    statistic: Statistic,
    score: float,
    label: int,
    calibration: Calibration | None,
    architecture: Architecture,
    settings: Mapping[str, Any],
) -> Verdict:
    """Holds a score against a calibration; undecided where none was made on such models with such settings.

    Args:
      statistic: what was scored.
      score: ``LabelFindings.score`` or ``RecoveredTriggers.score``.
      label: the label detected.
      calibration: of known models, by the same statistic.
      architecture: of the model scored.
      settings: that it was scored with.
    """
    found = {
        "labels": f"{score:.2f} of the predictions went to label {label} while the model unlearned",
        "triggers": f"the smallest trigger found, for label {label}, has {1 - score:.0%} of the median's size",
    }[statistic]
    verdict = partial(Verdict, score=score, label=label)
    if calibration is None:
        return verdict("undecided", threshold=None, sentence=f"{found}, and no calibration says what that means")
    differs = _difference(calibration, statistic, architecture, settings)
    threshold, below = calibration.threshold, calibration.clean_below
    if differs:
        how = f"{found}, but the calibration does not apply, {differs}; make one with rnp-jax calibrate"
        return verdict("undecided", threshold=threshold, sentence=how)
    known = [each for each in calibration.models if each.role == "calibration"]
    clean = sum(each.attack is None for each in known)
    if score > threshold:
        why = f"beyond every one of {clean} clean models (score {score:.2f}, threshold {threshold:.2f})"
        return verdict("backdoored", threshold=threshold, sentence=f"{found}, {why}")
    if score < below:
        why = f"below every one of {len(known) - clean} backdoored models (score {score:.2f}, {below:.2f})"
        return verdict("clean", threshold=threshold, sentence=f"{found}, {why}; other backdoors may hide")
    why = f"as clean and backdoored models do (score {score:.2f} between {below:.2f} and the threshold {threshold:.2f})"
    return verdict("undecided", threshold=threshold, sentence=f"{found}, {why}")


def combine(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict of one or more: backdoored if any is, clean if all are; the label of the one that decides."""
    rank = ("backdoored", "undecided", "clean")
    first = min(verdicts, key=lambda each: rank.index(each.verdict))
    said = "; ".join(each.sentence for each in verdicts)
    return replace(first, sentence=f"{first.verdict.capitalize()}: {said}.")


def _difference(
    calibration: Calibration, statistic: Statistic, architecture: Architecture, settings: Mapping[str, Any]
) -> str:
    name = name_architecture(architecture)
    if statistic != calibration.statistic:
        return f"being of {calibration.statistic}, not of {statistic}"
    if (name, architecture.num_classes) != (calibration.architecture, calibration.num_classes):
        theirs = f"{calibration.architecture}, {calibration.num_classes} classes"
        return f"being of {theirs}, where this model is {name}, {architecture.num_classes} classes"
    if dict(settings) != calibration.settings:
        names = {*settings, *calibration.settings}
        differing = sorted(each for each in names if settings.get(each) != calibration.settings.get(each))
        return f"having been made with other settings ({', '.join(differing)})"
    return ""


_ADAPTER = pydantic.TypeAdapter(Calibration)


def write_calibration(path: str | PathLike[str], calibration: Calibration) -> None:
    """Writes it as JSON, whole or not at all."""
    write_atomic(path, _ADAPTER.dump_json(calibration, indent=1) + b"\n")


def read_calibration(path: str | PathLike[str]) -> Calibration:
    """A calibration that was written.

    Raises:
      DataError: the file cannot be read, or is no calibration.
    """
    try:
        return _ADAPTER.validate_json(Path(path).read_bytes())
    except (OSError, pydantic.ValidationError) as error:
        raise DataError(
            f"{path}: not a calibration of this version; make one with rnp-jax calibrate: {error}"
        ) from error


def find_bundled(architecture: Architecture, statistic: Statistic = "labels") -> Calibration | None:
    """The calibration that comes with the package for models of an architecture, if there is one."""
    folder = resources.files("rnp_jax.detection") / "calibrations"
    for each in sorted(folder.iterdir(), key=lambda each: each.name) if folder.is_dir() else ():
        if each.name.endswith(".json"):
            found = _ADAPTER.validate_json(each.read_bytes())
            kind = (found.architecture, found.num_classes, found.statistic)
            if kind == (name_architecture(architecture), architecture.num_classes, statistic):
                return found
    return None
