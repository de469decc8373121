"""The whole way with one checkpoint: inspect, detect, defend, prove, report. One model, the same images throughout."""

import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax

from rnp_jax import masks
from rnp_jax.atomic import expect_room
from rnp_jax.config import to_plain, write_yaml
from rnp_jax.defenses.auto import plan_search
from rnp_jax.defenses.method import Keep, compute_anew, do_by
from rnp_jax.document import to_json
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.measure import Measured
from rnp_jax.pipeline.case import Case, open_case
from rnp_jax.pipeline.check_document import Done, describe_check, tell_check, tell_file
from rnp_jax.pipeline.concluding import find_signs
from rnp_jax.pipeline.defending import hold_against_rivals
from rnp_jax.pipeline.describing import describe_run
from rnp_jax.pipeline.detecting import DetectionOptions, examine
from rnp_jax.pipeline.doubts import find_doubt, warn_of_known
from rnp_jax.pipeline.evidence import search_before_and_after
from rnp_jax.pipeline.examination import Examination
from rnp_jax.pipeline.holding import hold_new
from rnp_jax.pipeline.images import draw_evenly, open_images
from rnp_jax.pipeline.keeping import identify, keep_stages
from rnp_jax.pipeline.looking import Searched, search_labels
from rnp_jax.pipeline.measuring import measure, measure_before, run_method
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.sharing import share_searches
from rnp_jax.pipeline.starting import start_run
from rnp_jax.pipeline.suspect import Suspect
from rnp_jax.pipeline.writing import LAST, draw_samples, write_masks, write_network
from rnp_jax.report.check import FIGURES, Check, write_check
from rnp_jax.report.detection import Detection
from rnp_jax.types import Batch

DETECTION = "detection"
"""The folder, in the output folder, of everything that detection writes."""

EXAMINED = 200
"""Clean images that detection looks at, as many as its calibrations do."""


class Finished(NamedTuple):
    """A check, and the model after it: as it came where it was not changed."""

    check: Check
    model: Suspect


def check_checkpoint(
    request: Request, detection: DetectionOptions, out: str | None = None, log: RunLog | None = None
) -> Finished:
    """Looks at a checkpoint, removes what is found, proves it, and writes everything into a folder.

    Args:
      request: the checkpoint, the method and what it is given.
      detection: what is looked for.
      out: the folder; by default ``runs/check-NAME``.
      log: told what is done.

    Raises:
      RnpError: an unusable checkpoint, data set or option; nothing is written to the source.
      DataError: another run writes into the folder, or has finished there.
      Interrupted: Ctrl-C; the same call then goes on after the last stage that was finished.
    """
    cleaned, model, log = start_run(request, "check", out, log)
    check_whole(model)
    folder, options = cleaned.parent, request.options
    case = open_case(model, request, log, lambda: open_images(model, options.images, options.defense, unused=True))
    with hold_new(folder, "check", LAST):
        write_yaml(folder / "config.yaml", {**request.plain(), "detection": detection})
        log.write_to(folder / "run.log")
        belongs = {**identify(request, case), "detection": json.dumps(to_plain(detection))}
        with keep_stages(folder, belongs, log) as keep:
            case = hold_against_rivals(case, request, log)
            return check_case(case, request, detection, log, cleaned, keep)


def check_whole(model: Suspect) -> None:
    """Requires a network that reads images.

    Raises:
      ConfigError: it is a head on features.
    """
    if model.extractor is not None:
        raise ConfigError(
            f"{model.checkpoint.path} is a head on features of {model.extractor.name}: check takes networks that read "
            "images. Use defend"
        )


def check_case(
    case: Case,
    request: Request,
    detection: DetectionOptions,
    log: RunLog,
    cleaned: Path | None = None,
    keep: Keep = compute_anew,
) -> Finished:
    """The same with what is opened already; ``cleaned`` is the path of the new file, None to write nothing.

    ``keep`` gives what the longer stages compute.
    """
    before = measure_before(case, request, log)
    tell_file(case, before, log)
    doubt = find_doubt(case.model, before)
    if doubt is not None:
        log.warn(doubt.sentence)
    for warning in warn_of_known(case.model, before):
        log.warn(warning)
    hopeless = doubt is not None and doubt.at_chance
    done = None if hopeless else _look_and_defend(case, request, detection, before, log, cleaned, keep)
    check = describe_check(case, request, before, done, doubt, log)
    outcome = None if done is None or done.written is None else done.outcome
    if cleaned is not None:
        samples = None if outcome is None else draw_samples(case, outcome)
        page = write_check(cleaned.parent, check, _read_figures(cleaned.parent / DETECTION / "figures"), samples)
        tell_check(check, cleaned, page, log)
    return Finished(check, case.model if outcome is None else outcome.model)


def _look_and_defend(
    case: Case,
    request: Request,
    options: DetectionOptions,
    before: Measured,
    log: RunLog,
    cleaned: Path | None,
    keep: Keep,
) -> Done:
    log.say("1 of 3: looking for a backdoor")
    keep = share_searches(keep)
    searched = _search(case, request, log, keep) if "search" in options.signs.looks else None
    few = draw_evenly(case.data.labels, EXAMINED)
    clean = Batch(*(values[few] for values in case.data))
    config = {**request.plain(), "detection": to_plain(options)}
    examination = Examination(
        case.model, clean, case.test, case.trigger, log, config, request.options.images.data_dir, case.warnings
    )
    folder = None if cleaned is None else cleaned.parent / DETECTION
    if folder is not None:
        with expect_room(folder):
            folder.mkdir(exist_ok=True)
    told, _ = keep("detect", partial(_examine, examination, options, folder, searched))
    detection = Detection.model_validate_json(told)
    log.say(detection.verdict.headline)
    log.say(f"2 of 3: {request.method.name} removes what is found")
    outcome = measure(case, run_method(case, request, log, keep), request, log, before)
    would = not outcome.defended.unchanged
    log.say(f"3 of 3: {'searching what was found again' if would else 'nothing was changed, so nothing is to prove'}")
    seen, finding = None if searched is None else searched.found.single, None
    signs = find_signs(detection, before.metrics, None, case.test.class_names)
    if would:
        suspected = signs.strength != "none"  # if not, the change is dropped unless a label stands out now
        finding = search_before_and_after(case, outcome, request, log, keep, seen, only_visible=not suspected)
        signs = find_signs(detection, before.metrics, finding, case.test.class_names)
    changed, dropped = would and signs.strength != "none", ()
    if changed and cleaned is not None:
        with log.stage("write checkpoint"):
            dropped = write_network(cleaned, case, outcome, request)
            write_masks(cleaned.parent, outcome, request.method.name)
    defense = describe_run(request, case, outcome, (), finding, dropped, log.timing)
    name = "the new network" if cleaned is None else cleaned.name
    return Done(detection, signs, outcome, defense, name if changed else None)


def _search(case: Case, request: Request, log: RunLog, keep: Keep) -> Searched:
    """The search that the defense begins with, made before it, so that the examination can go by it as well."""
    key, config = plan_search(request.settings, jax.random.key(request.options.seed))
    variables = masks.bake(case.model.variables, case.network.placement)  # as a method sees them
    do = do_by(keep, "invert")
    return search_labels(log, case.network, variables, case.data, key, config, holdout=case.holdout, do=do)


def _examine(
    examination: Examination, options: DetectionOptions, folder: Path | None, searched: Searched | None
) -> str:
    """What detection says, as JSON, which an interrupted run can keep."""
    return to_json(examine(examination, options, out=folder, searched=searched))


def _read_figures(folder: Path) -> dict[str, bytes]:
    """The figures of the detection that the page shows, where they were drawn."""
    paths = {name: folder / f"{name}.svg" for name in FIGURES}
    return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
