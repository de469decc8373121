"""``rnp-jax detect``: is there a backdoor, which label, what trigger, which samples."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import tyro

from rnp_jax.atomic import open_atomic, write_atomic
from rnp_jax.checkpoints import save_model
from rnp_jax.commands.calibrate import plain_settings
from rnp_jax.commands.detected import Case, Judged, Recovered, Scored, describe_detection, plot_detection
from rnp_jax.config import (
    FLAT,
    ComputeOptions,
    DataOptions,
    DefenseSetOptions,
    SourceOptions,
    TriggerOptions,
    check_seed,
    write_yaml,
)
from rnp_jax.data import validate
from rnp_jax.defenses.unlearn import UnlearnConfig, unlearn
from rnp_jax.detection.calibration import Calibration, Statistic, combine, find_bundled, judge, read_calibration
from rnp_jax.detection.labels import LabelConfig, LabelFindings, detect_label
from rnp_jax.detection.mask_search import TriggerConfig
from rnp_jax.detection.samples import SAMPLE_SCORES, SampleConfig, score_samples
from rnp_jax.detection.stamps import measure_stamps
from rnp_jax.detection.suspicion import SuspicionRule
from rnp_jax.detection.triggers import QUICK, RecoveredTriggers, recover_triggers
from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.describing import command_line
from rnp_jax.pipeline.opening import choose_out, load_images, open_images, open_model, open_trigger
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.training_set import remake
from rnp_jax.report.detection import Detection, write_detection
from rnp_jax.types import Batch

LAST = "report.html"
"""The file written last, whose presence says that a run is finished."""


@dataclass(frozen=True)
class DetectOptions:
    """Say whether a checkpoint hides a backdoor, for which label, by what trigger and from which training samples.

    Unlearns clean images in a copy of the model and watches where its predictions go; the verdict holds the score
    against models whose truth is known. Writes into --out: report.html, detection.json, unlearned.pt (same layout as
    the source), triggers.npz (masks and patterns), sample_scores.csv, figures/, run.log and config.yaml.

    Attributes:
      checkpoint: the PyTorch file to look at.
      out: output folder; by default runs/detect-NAME.
      source: how the file is read, and its normalisation.
      images: clean images, taken from the training part.
      defense: how many of them there are.
      labels: unlearning, and the label that predictions go to.
      calibration: files that `calibrate` wrote, one a statistic; by default the bundled ones for such models, where
        there are some.
      recover: from which model triggers are recovered for every label: the original, the unlearned one, both or none.
      triggers: of trigger recovery; by default a coarse search.
      untrusted: the training set whose samples are scored: named as --data is, or `card` for the set that the
        checkpoint's card tells how to make again (which also tells the truth). By default none is.
      sample_scores: which scores; the first one's pictures are in the report. Clean-label attacks defeat `unlearned`.
      unlearn: how the model that `unlearned` and `unlearned_difference` look at forgets the clean images.
      samples: of these scores.
      suspicion: which samples are listed.
      trigger: the attack, where it is known: to be compared with what is found, never to choose.
      compute: precision and batches.
      seed: draws images and order.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    out: str | None = None
    source: Annotated[SourceOptions, FLAT] = field(default_factory=SourceOptions)
    images: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    defense: DefenseSetOptions = field(default_factory=lambda: DefenseSetOptions(size=200, holdout=0.0))
    labels: LabelConfig = field(default_factory=LabelConfig)
    calibration: tuple[str, ...] = ()
    recover: Literal["original", "unlearned", "both", "none"] = "original"
    triggers: TriggerConfig = QUICK
    untrusted: str | None = None
    sample_scores: tuple[str, ...] = ("unlearned",)
    unlearn: UnlearnConfig = field(default_factory=lambda: UnlearnConfig(batch_size=100))
    samples: SampleConfig = field(default_factory=SampleConfig)
    suspicion: SuspicionRule = field(default_factory=SuspicionRule)
    trigger: Annotated[TriggerOptions, FLAT] = field(default_factory=TriggerOptions)
    compute: Annotated[ComputeOptions, FLAT] = field(default_factory=ComputeOptions)
    seed: int = 0

    def __post_init__(self):
        check_seed("seed", self.seed)
        if self.defense.holdout > 0:
            raise ConfigError(
                f"defense.holdout {self.defense.holdout}: nothing is chosen by held-out images; set it to 0"
            )
        unknown = [name for name in self.sample_scores if name not in SAMPLE_SCORES]
        if unknown or not self.sample_scores:
            raise ConfigError(f"sample_scores {unknown or '()'}: choose of {', '.join(SAMPLE_SCORES)}")


def run(options: DetectOptions) -> Detection:
    """Looks, writes everything, returns what detection.json says.

    Raises:
      RnpError: an unusable checkpoint, data set or option.
    """
    out = choose_out(options.out, options.checkpoint, "detect", LAST)
    given: dict[Statistic, Calibration] = {each.statistic: each for each in map(read_calibration, options.calibration)}
    log = RunLog()
    log.say(f"reading {options.checkpoint}")
    with log.stage("load checkpoint"):
        model = open_model(options.checkpoint, options.source, options.compute)
    if model.extractor is not None:
        raise ConfigError("detect looks at whole networks; a head on features cannot be unlearned by images")
    with log.stage("load images"):
        clean, _, test = open_images(model, options.images, options.defense)
        case = Case(model, clean, test, open_trigger(model, options.trigger, test), log)
    write_yaml(out / "config.yaml", options)
    log.write_to(out / "run.log")

    log.say(f"{model.network.architecture.name}: unlearning {len(clean.labels)} clean images")
    with log.stage("labels"), log.epochs() as bars:
        found = detect_label(
            model.network, model.variables, clean, jax.random.key(options.seed), options.labels, progress=bars
        )
    recovered = _recover(case, found, options)
    judged = [_judge(case, "labels", found, given, options)]
    if "original" in recovered:
        judged.append(_judge(case, "triggers", recovered["original"].triggers, given, options))
    verdict = combine([each.verdict for each in judged])
    scored = _score(case, options)
    with log.stage("write"):
        save_model(out / "unlearned.pt", model, found.unlearned, overwrite=True)
        _write_arrays(out, recovered, scored)
    figures = plot_detection(case, found, judged, recovered, scored, options.triggers, options.suspicion)
    detection = describe_detection(
        case, options, options.suspicion, found, verdict, judged, recovered, scored, command_line()
    )
    page = write_detection(out, detection, figures)
    log.say(detection.verdict.headline)
    log.say(f"{verdict.sentence}\nreport  {page}")
    return detection


def _judge(
    case: Case,
    statistic: Statistic,
    found: LabelFindings | RecoveredTriggers,
    given: Mapping[Statistic, Calibration],
    options: DetectOptions,
) -> Judged:
    architecture = case.model.network.architecture
    calibration = given.get(statistic) or find_bundled(architecture, statistic)
    settings = plain_settings(options.labels if statistic == "labels" else options.triggers)
    verdict = judge(statistic, found.score, found.label, calibration, architecture, settings)
    return Judged(statistic, verdict, calibration)


def _recover(case: Case, found: LabelFindings, options: DetectOptions) -> dict[str, Recovered]:
    model, key = case.model, jax.random.key(options.seed)
    variables = {"original": model.variables, "unlearned": found.unlearned}
    chosen = [name for name in variables if options.recover in (name, "both")]
    recovered = {}
    for name in chosen:
        case.log.say(f"recovering a trigger for every label from the {name} model")
        with case.log.stage(f"triggers, {name}"), case.log.epochs() as bars:
            triggers = recover_triggers(
                model.network, variables[name], case.clean, key, options.triggers, progress=bars
            )
            reaching = measure_stamps(
                model.network, model.variables, case.clean, triggers.masks, triggers.patterns, triggers.labels
            )
        recovered[name] = Recovered(triggers, reaching)
    return recovered


def _score(case: Case, options: DetectOptions) -> Scored | None:
    if options.untrusted is None:
        return None
    model, log = case.model, case.log
    shape = model.network.architecture.image_shape
    with log.stage("load training set"):
        carded = options.untrusted == "card"
        source = model.card.data if carded and model.card is not None else options.untrusted
        train = load_images(DataOptions(data=source, data_dir=options.images.data_dir), "train", shape[:2])
        validate(train, num_classes=model.network.architecture.num_classes, image_shape=shape)
        made = remake(model.card, options.checkpoint, train) if carded else None
    data, poisoned = (train.batch, None) if made is None else (made.data, made.poisoned)
    key, forgotten, scores = jax.random.key(options.seed), None, {}
    if any("unlearned" in SAMPLE_SCORES[name].needs for name in options.sample_scores):
        with log.stage("unlearn"), log.epochs() as bars:
            forgotten = unlearn(model.network, model.variables, case.clean, key, options.unlearn, progress=bars)
    for name in options.sample_scores:
        log.say(f"scoring {len(data.labels):,} training samples: {SAMPLE_SCORES[name].title}")
        with log.stage(f"samples, {name}"):
            scores[name] = score_samples(
                name, model.network, model.variables, forgotten and forgotten.variables, data, key, options.samples,
                clean=case.clean,
            )  # fmt: skip
    return Scored(train.name, Batch(*map(np.asarray, data)), poisoned, scores)


def _write_arrays(out: Path, recovered: dict[str, Recovered], scored: Scored | None) -> None:
    if recovered:
        arrays = {
            f"{name}_{what}": getattr(each.triggers, what)
            for name, each in recovered.items()
            for what in ("labels", "masks", "patterns", "norms", "index")
        }
        with open_atomic(out / "triggers.npz") as file:
            np.savez_compressed(file, **arrays)
    if scored is not None:
        rows = [",".join(["index", "label", *scored.scores])]
        for i, values in enumerate(zip(*scored.scores.values(), strict=True)):
            rows.append(",".join([str(i), str(scored.data.labels[i]), *(f"{value:.6g}" for value in values)]))
        write_atomic(out / "sample_scores.csv", ("\n".join(rows) + "\n").encode())
