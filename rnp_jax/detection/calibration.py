"""Turns a detection score into a verdict, with a threshold fitted on models labelled clean or backdoored.

One half of the labelled models chooses the threshold, the other half measures it. The threshold lies above every clean
model of the first half, with a margin. A model below it is called clean only if no backdoored model of that half scored
as low.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from os import PathLike
from typing import Any, Literal, TypeAlias

import numpy as np
import pydantic
from jaxtyping import Float
from scipy import stats

from rnp_jax.atomic import write_atomic
from rnp_jax.errors import DataError
from rnp_jax.evaluation.metrics import Proportion, known_share, share
from rnp_jax.models import Architecture
from rnp_jax.regular_file import MIB, read_regular

Role: TypeAlias = Literal["calibration", "held-out", "weak"]
Statistic: TypeAlias = Literal["labels", "triggers"]
"""Where the score comes from: ``LabelFindings``, or the ``RecoveredTriggers`` of the original model."""

_HALVES: tuple[Role, Role] = ("calibration", "held-out")
_BOOTSTRAPS = 2000
_FALSE_ALARMS = 0.001
_LEAST = 4  # labelled models of each kind: two choose, two measure


@dataclass(frozen=True)
class ScoredModel:
    """A model known to be clean or backdoored.

    Attributes:
      name: name of its file.
      attack: attack it was backdoored with; None for a clean model.
      target: target label of the backdoor; None if there is no backdoor, or no single target.
      score: value of the statistic; a high value suggests a backdoor.
      label: the label detected.
      role: the half it belongs to; ``weak`` if its backdoor hardly works, and then it belongs to neither half.
      sha256: digest of its file; None where that was not kept.
    """

    name: str
    attack: str | None
    target: int | None
    score: float
    label: int
    role: Role = "calibration"
    sha256: str | None = None


@dataclass(frozen=True)
class HeldOut:
    """How well the threshold works on models that were not used to choose it.

    Attributes:
      auroc: probability that a backdoored model scores above a clean one.
      auroc_interval: 95 % interval of ``auroc``, by bootstrap over models.
      detected: backdoored models called backdoored.
      false_alarms: clean models called backdoored.
      missed: backdoored models called clean.
      cleared: clean models called clean.
      labels_right: backdoored models with a single target label, where that label was detected; None if there are none.
    """

    auroc: float
    auroc_interval: tuple[float, float]
    detected: Proportion
    false_alarms: Proportion
    missed: Proportion
    cleared: Proportion
    labels_right: Proportion | None


@dataclass(frozen=True)
class Calibration:
    """A threshold and how it was obtained.

    Attributes:
      architecture: name and width of the models.
      num_classes: K of the models.
      data: data set that the clean images were drawn from.
      images: number of clean images that detection used.
      settings: settings of the detection, as plain values. The threshold does not apply to scores made with others.
      threshold: models with a score above it are called backdoored.
      clean_below: models with a score below it are called clean.
      models: all models that were scored.
      held_out: results on the held-out half.
      statistic: the statistic that was scored.
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


def name_architecture(architecture: Architecture) -> str:
    """The name that a calibration gives to an architecture."""
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
    """Chooses the threshold on half of the models and measures it on the other half.

    The clean models and the models of each attack alternate between the halves, by name.

    Args:
      models: the labelled models. Those with the ``role`` ``weak`` are left out; other roles are replaced.
      architecture: architecture of all the models.
      data: data set that the clean images were drawn from.
      images: number of clean images that detection used.
      settings: settings of the detection, as plain values.
      seed: random seed of the bootstrap.
      statistic: the statistic that was scored.

    Raises:
      DataError: there are fewer than four clean or four backdoored models.
    """
    models = _split(models)
    clean = [[each.score for each in models if each.attack is None and each.role == role] for role in _HALVES]
    backdoored = [[each.score for each in models if each.attack and each.role == role] for role in _HALVES]
    threshold, clean_below = choose_thresholds(np.asarray(clean[0]), np.asarray(backdoored[0]))
    low, high, known = np.asarray(clean[1]), np.asarray(backdoored[1]), [m for m in models if m.role == "held-out"]
    held_out = HeldOut(
        auroc(low, high),
        bootstrap_auroc(low, high, seed),
        known_share(high > threshold),
        known_share(low > threshold),
        known_share(high < clean_below),
        known_share(low < clean_below),
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
    if (lacking := tell_shortage(**places)) is not None:
        raise DataError(lacking)
    return tuple(found)


def tell_shortage(clean: int, backdoored: int) -> str | None:
    """What is wrong with so many models of each kind; None if they are enough."""
    if min(clean, backdoored) >= _LEAST:
        return None
    return (
        f"{clean} clean and {backdoored} backdoored models: expected at least {_LEAST} of each to choose a threshold "
        "and to measure it; train more with rnp-jax attack"
    )


def choose_thresholds(clean: Float[np.ndarray, "n"], backdoored: Float[np.ndarray, "m"]) -> tuple[float, float]:
    """Two limits: a model that scores above the first is called backdoored, one below the second is called clean.

    The first is the limit that one more clean model exceeds with a probability of 0.1 % if such scores are normally
    distributed (the one-sided prediction limit, which is wide if there are few models), but at least the highest clean
    score. The second is the lowest backdoored or the highest clean score, whichever is lower.
    """
    count = len(clean)
    wide = stats.t.ppf(1 - _FALSE_ALARMS, count - 1) * np.sqrt(1 + 1 / count)
    threshold = max(float(clean.max()), float(clean.mean() + wide * clean.std(ddof=1)))
    return threshold, float(min(backdoored.min(), clean.max()))


def auroc(low: Float[np.ndarray, "n"], high: Float[np.ndarray, "m"]) -> float:
    """Probability that one of ``high`` exceeds one of ``low``; ties count half (Mann and Whitney, 1947)."""
    return float(((high[:, None] > low[None]) + 0.5 * (high[:, None] == low[None])).mean())


def bootstrap_auroc(low: Float[np.ndarray, "n"], high: Float[np.ndarray, "m"], seed: int) -> tuple[float, float]:
    """The 95 % percentile interval of ``auroc`` over resampled models; each kind is resampled separately."""
    draw = np.random.default_rng(seed)
    values = [auroc(draw.choice(low, len(low)), draw.choice(high, len(high))) for _ in range(_BOOTSTRAPS)]
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


_ADAPTER = pydantic.TypeAdapter(Calibration)


def write_calibration(path: str | PathLike[str], calibration: Calibration) -> None:
    """Writes a calibration as JSON. The file is written completely or not at all."""
    write_atomic(path, _ADAPTER.dump_json(calibration, indent=1) + b"\n")


def read_calibration(path: str | PathLike[str]) -> Calibration:
    """Reads a calibration that ``write_calibration`` wrote.

    Raises:
      DataError: the file cannot be read, or is not a calibration.
    """
    try:
        return _ADAPTER.validate_json(read_regular(path, 64 * MIB))
    except (OSError, pydantic.ValidationError) as error:
        raise DataError(
            f"{path}: not a calibration of this version; make one with rnp-jax calibrate: {error}"
        ) from error


def find_bundled(architecture: Architecture, statistic: Statistic = "labels") -> Calibration | None:
    """The calibration that the package includes for models of an architecture; None if there is none."""
    folder = resources.files("rnp_jax.detection") / "calibrations"
    for each in sorted(folder.iterdir(), key=lambda each: each.name) if folder.is_dir() else ():
        if each.name.endswith(".json"):
            found = _ADAPTER.validate_json(each.read_bytes())
            kind = (found.architecture, found.num_classes, found.statistic)
            if kind == (name_architecture(architecture), architecture.num_classes, statistic):
                return found
    return None


def plain_settings(config: Any) -> dict[str, Any]:
    """The settings as a calibration keeps them: nested names joined by points, tuples as lists."""
    flat: dict[str, Any] = {}
    for name, value in asdict(config).items():
        flat |= {f"{name}.{inner}": each for inner, each in value.items()} if isinstance(value, dict) else {name: value}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in flat.items()}
