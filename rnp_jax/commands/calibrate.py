"""``rnp-jax calibrate``: fit verdict thresholds on models labelled clean or backdoored."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import tyro

from rnp_jax.config import (
    CHECKPOINTS,
    FILE,
    FLAT,
    ComputeOptions,
    DataOptions,
    DefenseSetOptions,
    SourceOptions,
    check_seed,
)
from rnp_jax.detection.calibration import (
    Calibration,
    ScoredModel,
    Statistic,
    calibrate,
    plain_settings,
    write_calibration,
)
from rnp_jax.detection.labels import LabelConfig, LabelFindings, detect_label
from rnp_jax.detection.triggers import QUICK, RecoveredTriggers, recover_triggers
from rnp_jax.inversion.mask_search import TriggerConfig
from rnp_jax.models import Architecture
from rnp_jax.pipeline.images import open_images
from rnp_jax.pipeline.labelled import Labelled, is_weak, read_labelled
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.report.detection_plots import KnownScore, plot_calibration
from rnp_jax.report.figures import save_figures


@dataclass(frozen=True)
class CalibrateOptions:
    """Fit verdict thresholds on models whose cards say whether they are clean or backdoored.

    Half of the clean and half of the backdoored models choose the thresholds, and the others measure them. The
    JSON file --out is what `detect` takes; a figure of every model's score is written beside it. Models whose backdoor
    hardly works appear in the figure, but in neither half.

    Attributes:
      checkpoints: PyTorch files with cards, all of one architecture and one data set.
      out: file to write.
      images: clean images; by default of the data set that the cards name.
      defense: how many clean images detection uses.
      statistic: score of a model: where predictions go while the model unlearns (labels), or the size of the smallest
        recovered trigger (triggers, which is slower).
      labels: settings of label detection.
      triggers: settings of trigger recovery.
      seed: random seed for the images, their order and the bootstrap of the AUROC.
    """

    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional, CHECKPOINTS]
    out: Annotated[str, FILE] = "calibration.json"
    images: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    defense: DefenseSetOptions = field(default_factory=lambda: DefenseSetOptions(size=200, holdout=0.0))
    statistic: Statistic = "labels"
    labels: LabelConfig = field(default_factory=LabelConfig)
    triggers: TriggerConfig = QUICK
    seed: int = 0

    def __post_init__(self):
        check_seed("seed", self.seed)


class Scored(NamedTuple):
    """A model's score, what it came from, and the model's kind."""

    model: ScoredModel
    findings: LabelFindings | RecoveredTriggers
    architecture: Architecture
    data: str
    images: int


def run(options: CalibrateOptions) -> Calibration:
    """Reads all cards, scores every model, chooses and measures the threshold, writes both files.

    Raises:
      DataError: before anything is computed, everything that is wrong with the checkpoints and their cards.
      RnpError: an unusable checkpoint, data set or option.
    """
    log, scored = RunLog(), []
    for labelled in read_labelled(options.checkpoints, options.images.data):
        scored.append(score(labelled, options))
        model, truth = scored[-1].model, "clean" if scored[-1].model.attack is None else scored[-1].model.attack
        log.say(f"{labelled.path}: {truth}, score {model.score:.3f} for label {model.label}")
        for warning in scored[-1].findings.warnings:
            log.warn(warning)
    kind = scored[0]
    calibration = calibrate(
        [each.model for each in scored],
        architecture=kind.architecture,
        data=kind.data,
        images=kind.images,
        settings=plain_settings(options.labels if options.statistic == "labels" else options.triggers),
        seed=options.seed,
        statistic=options.statistic,
    )
    out = Path(options.out)
    write_calibration(out, calibration)
    known = [KnownScore(each.name, each.attack, each.score, each.role) for each in calibration.models]
    figure = plot_calibration(known, calibration.threshold, calibration.clean_below)
    save_figures(out.parent, {out.stem: figure}, ())
    for line in summarise(calibration):
        log.say(line)
    log.conclude(f"{out}", calibration=out)
    return calibration


def score(labelled: Labelled, options: CalibrateOptions) -> Scored:
    """One model's score, beside what its card says of the truth.

    Raises:
      CheckpointError, DataError: the checkpoint or the images cannot be used.
    """
    path, card = labelled
    model = open_model(path, SourceOptions(), ComputeOptions())
    data, _, _ = open_images(model, options.images, options.defense)
    batch = model.read(data)
    key = jax.random.key(options.seed)
    if options.statistic == "labels":
        findings = detect_label(model.network, model.variables, batch, key, options.labels)
    else:
        findings = recover_triggers(model.network, model.variables, batch, key, options.triggers)
    attack = card.attack
    known = ScoredModel(
        Path(path).stem,
        None if attack is None else attack.name,
        None if attack is None or attack.mapping == "all_to_all" else attack.target,
        findings.score,
        findings.label,
        "weak" if is_weak(card) else "calibration",
        card.sha256,
    )
    return Scored(known, findings, model.network.architecture, options.images.data or card.data, len(batch.labels))


def summarise(calibration: Calibration) -> Sequence[str]:
    """What was found, a line each."""
    held_out = calibration.held_out
    low, high = held_out.auroc_interval
    shown = [
        ("backdoored models detected", held_out.detected),
        ("clean models called backdoored", held_out.false_alarms),
        ("backdoored models called clean", held_out.missed),
        ("clean models called clean", held_out.cleared),
        ("detected label is the backdoor's", held_out.labels_right),
    ]
    return [
        f"threshold {calibration.threshold:.3f}; clean below {calibration.clean_below:.3f}",
        f"on the held-out models: AUROC {held_out.auroc:.2f} ({low:.2f}-{high:.2f})",
        *(
            f"  {what}: {each.count} of {each.total} ({each.interval[0]:.0%}-{each.interval[1]:.0%})"
            for what, each in shown
            if each is not None
        ),
    ]
