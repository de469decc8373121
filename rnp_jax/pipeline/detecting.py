"""Look for a backdoor: a label, recovered triggers, suspicious training samples, and what they amount to."""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from rnp_jax.atomic import open_atomic, write_atomic
from rnp_jax.checkpoints import save_model
from rnp_jax.config import DataOptions
from rnp_jax.data import validate
from rnp_jax.defenses.unlearn import unlearn
from rnp_jax.detection.calibration import Calibration, Statistic
from rnp_jax.detection.samples import SAMPLE_SCORES, score_samples
from rnp_jax.detection.verdict import GradedVerdict
from rnp_jax.pipeline.detection_document import describe_detection
from rnp_jax.pipeline.detection_figures import plot_detection
from rnp_jax.pipeline.examination import Examination, ScoredSet, TriggerSearch
from rnp_jax.pipeline.images import load_images
from rnp_jax.pipeline.looking import DetectionOptions, Searched, look
from rnp_jax.pipeline.training_set import remake
from rnp_jax.report.detection import Detection
from rnp_jax.report.detection_page import write_detection
from rnp_jax.types import Batch


def examine(
    case: Examination,
    options: DetectionOptions,
    given: Mapping[Statistic, Calibration] | None = None,
    out: Path | None = None,
    searched: Searched | None = None,
) -> Detection:
    """Looks at the model, scores samples, and writes what was found.

    Args:
      case: the model and the clean images.
      options: what is looked for.
      given: calibrations by statistic, in place of the bundled ones.
      out: the folder that the report and the arrays are written to; by default nothing is written.
      searched: the searches for triggers, where they were made already.

    Raises:
      RnpError: settings that do not fit the model, or an unusable training set.
    """
    model, log = case.model, case.log
    looked = look(case, options, given, searched)
    scored = _score(case, options)
    if out is not None:
        with log.stage("write"):
            save_model(out / "unlearned.pt", model, looked.found.unlearned, overwrite=True)
            _write_arrays(out, looked.recovered, scored)
    detection = describe_detection(case, options, *looked, scored)
    if out is not None:
        figures = plot_detection(
            case, looked.found, looked.judged, looked.recovered, scored, options.triggers, options.suspicion
        )
        write_detection(out, detection, figures)
    return detection


def judge_case(
    case: Examination,
    options: DetectionOptions | None = None,
    given: Mapping[Statistic, Calibration] | None = None,
) -> GradedVerdict:
    """Looks for signs of a backdoor and grades them; writes nothing.

    Args:
      case: the model and the clean images.
      options: what is looked for; by default everything.
      given: calibrations by statistic, in place of the bundled ones.

    Raises:
      RnpError: settings that do not fit the model.
    """
    return look(case, options or DetectionOptions(), given).verdict


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
