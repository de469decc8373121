"""``rnp-jax detect``: is there a backdoor, which label, what trigger, which samples."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated

import tyro

from rnp_jax.config import (
    FLAT,
    FOLDER,
    ComputeOptions,
    DataOptions,
    DefenseSetOptions,
    SourceOptions,
    TriggerOptions,
    to_plain,
    write_yaml,
)
from rnp_jax.detection.calibration import Calibration, Statistic, read_calibration
from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.copies import tell_copies
from rnp_jax.pipeline.detecting import DetectionOptions, examine
from rnp_jax.pipeline.examination import Examination
from rnp_jax.pipeline.few_images import tell_opened, warn_of_few_examined
from rnp_jax.pipeline.holding import hold_new
from rnp_jax.pipeline.images import fit_images, open_images, tell_parts
from rnp_jax.pipeline.opening import choose_out, open_model
from rnp_jax.pipeline.rivals import warn_of_rivals
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.trigger import open_trigger
from rnp_jax.report.detection import Detection

LAST = "report.html"
"""The file written last, whose presence says that a run is finished."""


@dataclass(frozen=True)
class DetectOptions(DetectionOptions):
    """Say whether a checkpoint hides a backdoor; find its target label, its trigger and suspicious training samples.

    The verdict is one of four: likely backdoored, suspicious, no evidence, likely clean. It rests on two kinds of sign.
    Labels that stand out among the model's own, as automatic removal finds them, need no calibration. Two scores are
    compared with those of models labelled clean or backdoored, where such models were calibrated. Writes into --out:
    report.html, detection.json, unlearned.pt (a copy that forgot the clean images, in the layout of the source),
    triggers.npz (masks and patterns), sample_scores.csv, figures/, run.log and config.yaml.

    Attributes:
      checkpoint: PyTorch file to look at.
      out: output folder; by default runs/detect-NAME.
      source: how the file is read, and its normalisation.
      images: clean images, taken from the training part.
      defense: how many clean images are used.
      calibration: files that `calibrate` wrote, one per statistic; by default the bundled ones for such models, if
        there are any.
      trigger: the attack, if it is known; it is compared with the findings and never used to choose.
      compute: precision and batches.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    _: KW_ONLY
    out: Annotated[str | None, FOLDER] = None
    source: Annotated[SourceOptions, FLAT] = field(default_factory=SourceOptions)
    images: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    defense: DefenseSetOptions = field(default_factory=lambda: DefenseSetOptions(size=200, holdout=0.0))
    calibration: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE [FILE ...]")] = ()
    trigger: Annotated[TriggerOptions, FLAT] = field(default_factory=TriggerOptions)
    compute: Annotated[ComputeOptions, FLAT] = field(default_factory=ComputeOptions)

    def __post_init__(self):
        super().__post_init__()
        if self.defense.holdout > 0:
            raise ConfigError(
                f"defense.holdout {self.defense.holdout}: detect does not use held-out images; set it to 0"
            )


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
        model = open_model(options.checkpoint, options.source, options.compute, options.images)
    for note in tell_copies(model.copies, model.state_dict, replaced=False):
        log.say(f"  note: {note}")
    if model.extractor is not None:
        raise ConfigError("detect looks at whole networks; a head on features cannot be unlearned by images")
    with log.stage("load images"):
        clean, _, test = open_images(model, options.images, options.defense)
        model, _ = fit_images(model, test)
        trigger = open_trigger(model, options.trigger, test)
    if (parts := tell_parts(clean, None, test)) is not None:
        log.say(parts)
    tell_opened(model, test, log)
    few = warn_of_few_examined(len(clean.labels), model.network.architecture.num_classes)
    cautions = (*warn_of_rivals(model, options.source, test), *few)
    for caution in cautions:
        log.warn(caution)
    case = Examination(model, clean, test, trigger, log, to_plain(options), options.images.data_dir, cautions)
    with hold_new(out, "detect", LAST):
        write_yaml(out / "config.yaml", options)
        log.write_to(out / "run.log")
        found, page = examine(case, options, given, out), out / LAST
        log.conclude(
            f"{found.verdict.headline}\n{found.verdict.detail}\nreport  {page}",
            verdict=found.verdict.model_dump(),
            report=page,
            result=out / "detection.json",
        )
        return found
