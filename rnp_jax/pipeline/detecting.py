"""Look for a backdoor: a label, recovered triggers, suspicious training samples, and what they amount to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from rnp_jax import masks
from rnp_jax.atomic import open_atomic, write_atomic
from rnp_jax.checkpoints import save_model
from rnp_jax.config import DataOptions, check_seed
from rnp_jax.data import validate
from rnp_jax.defenses.unlearn import UnlearnConfig, unlearn
from rnp_jax.detection.calibration import Calibration, Statistic, combine, find_bundled, plain_settings, rule_on
from rnp_jax.detection.labels import LabelConfig, LabelFindings, detect_label
from rnp_jax.detection.samples import SAMPLE_SCORES, SampleConfig, score_samples
from rnp_jax.detection.suspicion import SuspicionRule
from rnp_jax.detection.triggers import QUICK, RecoveredTriggers, recover_triggers
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.measure import measure_variants
from rnp_jax.inversion.mask_search import TriggerConfig
from rnp_jax.inversion.stamps import measure_stamps
from rnp_jax.pipeline.detection_document import (
    Examination,
    Judged,
    ScoredSet,
    TriggerSearch,
    describe_detection,
    plot_detection,
)
from rnp_jax.pipeline.doubts import Doubt, find_doubt
from rnp_jax.pipeline.opening import load_images
from rnp_jax.pipeline.training_set import remake
from rnp_jax.report.detection import Detection, write_detection
from rnp_jax.types import Batch


@dataclass(frozen=True, kw_only=True)
class DetectionOptions:
    """What to look for, and how.

    Attributes:
      labels: unlearning, which shows the label that predictions go to.
      recover: models from which to recover a trigger for every label: original, unlearned, both or none.
      triggers: settings of trigger recovery; by default a coarse search.
      untrusted: training set whose samples to score: a data set, folder or .npz file, or `card` to rebuild the set from
        the checkpoint's card (which also tells the poisoned samples). By default none is scored.
      sample_scores: scores to compute; the report shows pictures of the first. Clean-label attacks defeat `unlearned`.
      unlearn: how to unlearn clean images in the model that `unlearned` and `unlearned_difference` use.
      samples: settings of these scores.
      suspicion: rule for the samples to list.
      seed: random seed for shuffling and for drawing images.
    """

    labels: LabelConfig = field(default_factory=LabelConfig)
    recover: Literal["original", "unlearned", "both", "none"] = "original"
    triggers: TriggerConfig = QUICK
    untrusted: str | None = None
    sample_scores: tuple[str, ...] = ("unlearned",)
    unlearn: UnlearnConfig = field(default_factory=lambda: UnlearnConfig(batch_size=100))
    samples: SampleConfig = field(default_factory=SampleConfig)
    suspicion: SuspicionRule = field(default_factory=SuspicionRule)
    seed: int = 0

    def __post_init__(self):
        check_seed("seed", self.seed)
        unknown = [name for name in self.sample_scores if name not in SAMPLE_SCORES]
        if unknown or not self.sample_scores:
            raise ConfigError(f"sample_scores {unknown or '()'}: choose among {', '.join(SAMPLE_SCORES)}")


def examine(
    case: Examination,
    options: DetectionOptions,
    given: Mapping[Statistic, Calibration] | None = None,
    out: Path | None = None,
) -> Detection:
    """Unlearns, recovers triggers, scores samples and judges.

    Args:
      case: the model and the clean images.
      options: what is looked for.
      given: calibrations by statistic, in place of the bundled ones.
      out: the folder that the report and the arrays are written to; by default nothing is written.

    Raises:
      RnpError: settings that do not fit the model, or an unusable training set.
    """
    model, clean, log = case.model, case.clean, case.log
    doubt = _find_doubt(case)
    if doubt is not None:
        log.warn(doubt.sentence)
    log.say(f"{model.network.architecture.name}: unlearning {len(clean.labels)} clean images")
    with log.stage("labels"), log.epochs() as bars:
        found = detect_label(
            model.network, model.variables, clean, jax.random.key(options.seed), options.labels, progress=bars
        )
    recovered = _recover(case, found, options)
    judged = [_judge(case, "labels", found, given or {}, options)]
    if "original" in recovered:
        judged.append(_judge(case, "triggers", recovered["original"].triggers, given or {}, options))
    ruling = combine([each.ruling for each in judged])
    scored = _score(case, options)
    if out is not None:
        with log.stage("write"):
            save_model(out / "unlearned.pt", model, found.unlearned, overwrite=True)
            _write_arrays(out, recovered, scored)
    detection = describe_detection(case, options, found, ruling, judged, recovered, scored, doubt)
    if out is not None:
        figures = plot_detection(case, found, judged, recovered, scored, options.triggers, options.suspicion)
        page = write_detection(out, detection, figures)
        log.say(detection.verdict.headline)
        log.say(f"{detection.verdict.detail}\nreport  {page}")
    return detection


def _find_doubt(case: Examination) -> Doubt | None:
    """The doubt that the accuracy on the clean images raises."""
    model = case.model
    unmasked = [masks.filters(model.variables["masks"])]
    (measured,) = measure_variants(model.network, model.variables, unmasked, case.clean)
    return find_doubt(model, measured)


def _judge(
    case: Examination,
    statistic: Statistic,
    found: LabelFindings | RecoveredTriggers,
    given: Mapping[Statistic, Calibration],
    options: DetectionOptions,
) -> Judged:
    architecture = case.model.network.architecture
    calibration = given.get(statistic) or find_bundled(architecture, statistic)
    settings = plain_settings(options.labels if statistic == "labels" else options.triggers)
    ruling = rule_on(statistic, found.score, found.label, calibration, architecture, settings)
    return Judged(statistic, ruling, calibration)


def _recover(case: Examination, found: LabelFindings, options: DetectionOptions) -> dict[str, TriggerSearch]:
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
        recovered[name] = TriggerSearch(triggers, reaching)
    return recovered


def _score(case: Examination, options: DetectionOptions) -> ScoredSet | None:
    if options.untrusted is None:
        return None
    model, log = case.model, case.log
    shape = model.network.architecture.image_shape
    with log.stage("load training set"):
        carded = options.untrusted == "card"
        source = model.card.data if carded and model.card is not None else options.untrusted
        train = load_images(DataOptions(data=source, data_dir=case.data_dir), "train", shape[:2])
        validate(train, num_classes=model.network.architecture.num_classes, image_shape=shape)
        made = remake(model.card, model.checkpoint.path, train) if carded else None
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
    return ScoredSet(train.name, Batch(*map(np.asarray, data)), poisoned, scores)


def _write_arrays(out: Path, recovered: dict[str, TriggerSearch], scored: ScoredSet | None) -> None:
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
