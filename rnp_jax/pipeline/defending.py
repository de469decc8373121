"""Open, run, measure, judge, write: one checkpoint under one method."""

from dataclasses import replace
from pathlib import Path

from rnp_jax.config import write_yaml
from rnp_jax.defenses.method import Keep, compute_anew
from rnp_jax.evaluation.measure import Measured
from rnp_jax.pipeline.case import Case, open_case
from rnp_jax.pipeline.describing import describe_run
from rnp_jax.pipeline.doubts import find_doubt, warn_of_known
from rnp_jax.pipeline.evidence import search_before_and_after
from rnp_jax.pipeline.few_images import tell_opened
from rnp_jax.pipeline.holding import hold_new
from rnp_jax.pipeline.keeping import identify, keep_stages
from rnp_jax.pipeline.measuring import Outcome, measure, measure_before, run_method
from rnp_jax.pipeline.pruning_curves import measure_curves
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.rivals import warn_of_rivals
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.starting import start_run
from rnp_jax.pipeline.writing import LAST, write_masks, write_network, write_page
from rnp_jax.report.schema import Result


def defend_checkpoint(request: Request, out: str | None = None, log: RunLog | None = None) -> Result:
    """Defends a checkpoint and writes everything into a folder; returns what result.json says.

    Args:
      request: the checkpoint, the method and what it is given.
      out: the folder; by default ``runs/defend-NAME``.
      log: told what is done.

    Raises:
      RnpError: an unusable checkpoint, data set or option; nothing is written to the source.
      DataError: another run writes into the folder, or has finished there.
      Interrupted: Ctrl-C; the same call then goes on after the last stage that was finished.
    """
    cleaned, model, log = start_run(request, "defend", out, log)
    folder = cleaned.parent
    case = open_case(model, request, log)
    with hold_new(folder, "defend", LAST):  # what came before left no folder behind
        write_yaml(folder / "config.yaml", request.plain())
        log.write_to(folder / "run.log")
        with keep_stages(folder, identify(request, case), log) as keep:
            case = hold_against_rivals(case, request, log)
            outcome = defend_case(case, request, log, keep=keep)
            return write_outcome(case, outcome, request, cleaned, log, keep)


def hold_against_rivals(case: Case, request: Request, log: RunLog) -> Case:
    """The case, with a warning if another normalisation does far better, or the trigger may be another one."""
    with log.stage("measure"):
        cautions = warn_of_rivals(case.model, request.options.source, case.test)
    case = replace(case, cautions=cautions)
    for warning in case.warnings:
        log.warn(warning)
    return case


def defend_case(
    case: Case, request: Request, log: RunLog, before: Measured | None = None, keep: Keep = compute_anew
) -> Outcome:
    """Measures the model where that is not done, says so if it may be opened wrongly, runs the method, measures again.

    ``keep`` gives what the longer stages compute.

    Raises:
      ConfigError, DefenseError: settings that do not fit the network; a method that cannot do its work.
    """
    tell_opened(case.model, case.test, log)
    if before is None:
        before = measure_before(case, request, log)
    if (doubt := find_doubt(case.model, before)) is not None:
        log.warn(doubt.sentence)
    for warning in warn_of_known(case.model, before):
        log.warn(warning)
    return measure(case, run_method(case, request, log, keep), request, log, before)


def judge_outcome(
    case: Case,
    outcome: Outcome,
    request: Request,
    log: RunLog,
    dropped: tuple[str, ...] = (),
    keep: Keep = compute_anew,
) -> Result:
    """The result document, with the pruning curves; ``dropped`` is what of the source the cleaned file lacks."""
    with log.stage("sweeps"):
        curves = measure_curves(case.model, outcome.defended, case.holdout, case.sets, request.options.sweep_images)
    finding = search_before_and_after(case, outcome, request, log, keep)
    return describe_run(request, case, outcome, curves, finding, dropped, log.timing)


def write_outcome(
    case: Case, outcome: Outcome, request: Request, cleaned: Path, log: RunLog, keep: Keep = compute_anew
) -> Result:
    """Writes the network, the masks, the result and the report beside the path of the cleaned checkpoint."""
    with log.stage("write checkpoint"):
        dropped = write_network(cleaned, case, outcome, request)
        write_masks(cleaned.parent, outcome, request.method.name)
    result = judge_outcome(case, outcome, request, log, dropped, keep)
    write_page(cleaned.parent, result, case, outcome, cleaned, log)
    return result
