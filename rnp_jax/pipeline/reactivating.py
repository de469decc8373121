"""Re-activation: is a backdoor really gone? Several attempts to bring it back, each repeated on a clean network."""

from pathlib import Path
from typing import Any, NamedTuple

import jax

from rnp_jax.config import write_yaml
from rnp_jax.defenses.method import Keep, compute_anew
from rnp_jax.evaluation.measure import Measured
from rnp_jax.pipeline.few_images import tell_opened
from rnp_jax.pipeline.holding import hold_new
from rnp_jax.pipeline.keeping import identify_run, keep_stages
from rnp_jax.pipeline.opening import choose_out
from rnp_jax.pipeline.parties import Parties, Scene, open_parties, open_scene
from rnp_jax.pipeline.reactivation_document import Tried, describe_reactivation, tell_reactivation
from rnp_jax.pipeline.reactivation_options import ReactivationOptions, tell_untried
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.suspect import Suspect
from rnp_jax.pipeline.writing import LAST
from rnp_jax.reactivation import REACTIVATIONS, Attempt, Party, Problem, find_reactivation
from rnp_jax.reactivation.problem import are_alike
from rnp_jax.report.reactivation import ReactivationResult, write_reactivation
from rnp_jax.types import Progress

_COMPARING = tuple(each for each in REACTIVATIONS.values() if each.compares)


class Reactivated(NamedTuple):
    """What was tried on one network, and its page."""

    result: ReactivationResult
    page: Path


def reactivate_checkpoint(
    options: ReactivationOptions, out: str | None = None, log: RunLog | None = None
) -> Reactivated:
    """Tries to bring a backdoor back, and writes what came of it into a folder.

    Args:
      options: the files, and what is tried.
      out: the folder; by default ``runs/reactivate-NAME``.
      log: told what is done.

    Raises:
      RnpError: an unusable checkpoint, data set or option; no source is written to.
      DataError: another run writes into the folder, or has finished there.
      Interrupted: Ctrl-C; the same call then goes on after the last stage that was finished.
    """
    folder = choose_out(out, options.checkpoint, "reactivate", LAST)
    log = log or RunLog()
    log.say(f"reading {options.checkpoint}")
    with log.stage("load checkpoint"):
        parties = open_parties(
            options.checkpoint, options.original, options.reference, options.surrogates,
            options.source, options.images, options.compute,
        )  # fmt: skip
    with log.stage("load images"):
        scene = open_scene(parties, options.images, options.known, options.trigger)
    tell_opened(parties.purified, scene.test, log)
    with hold_new(folder, "reactivate", LAST):
        write_yaml(folder / "config.yaml", options.plain())
        log.write_to(folder / "run.log")
        with keep_stages(folder, _identify(parties, scene, options), log) as keep:
            tried = try_all(parties, scene, options, log, keep)
            result = describe_reactivation(parties, scene, tried, options.plain(), options.seed, log)
            page = write_reactivation(folder, result)
            tell_reactivation(result, page, log)
    return Reactivated(result, page)


def try_all(
    parties: Parties, scene: Scene, options: ReactivationOptions, log: RunLog, keep: Keep = compute_anew
) -> Tried:
    """Measures all networks, and makes every attempt that is asked for.

    Raises:
      ConfigError, DefenseError: settings that do not fit the networks; a loss that became infinite or not a number.
    """
    attempts: list[Attempt] = []
    with log.epochs() as bars:
        problem = _pose(parties, scene, options.seed, options.compute.batch_size, bars, keep)
        with log.stage("measure"):
            figures = _measure(problem)
        log.show({role: measured.metrics for role, measured in figures.items()})
        unlike = () if options.by is not None or _are_all_alike(problem) else _COMPARING
        for name, attempt in REACTIVATIONS.items():
            if attempt in options.choose() and attempt not in unlike:
                log.say(f"{attempt.title}: {attempt.summary}")
                attempts.append(_try(name, problem, getattr(options, name)))
    for stage, seconds in problem.timing.items():
        log.spend(stage, seconds)
    return Tried(tuple(attempts), figures, tell_untried(options, unlike))


def try_alone(name: str, purified: Suspect, scene: Scene, seed: int, batch_size: int | None = None) -> Attempt:
    """One attempt that needs no other network: the outcome and controls that ``try_all`` gives, and nothing besides.

    Raises:
      ConfigError, DefenseError: the attacker has too few images; a loss became infinite or not a number.
    """
    attempt = find_reactivation(name)
    problem = _pose(Parties(purified, None, None, ()), scene, seed, batch_size)
    return _try(name, problem, attempt.defaults if attempt.brief is None else attempt.brief)


def _try(name: str, problem: Problem, settings: Any) -> Attempt:
    """Each attempt has random numbers of its own, whatever others are made."""
    return REACTIVATIONS[name].run(problem.seeded(list(REACTIVATIONS).index(name)), settings)


def _pose(
    parties: Parties,
    scene: Scene,
    seed: int,
    batch_size: int | None,
    progress: Progress | None = None,
    keep: Keep = compute_anew,
) -> Problem:
    return Problem(
        purified=_party(parties.purified),
        original=None if parties.original is None else _party(parties.original),
        reference=None if parties.reference is None else _party(parties.reference),
        surrogates=tuple(map(_party, parties.surrogates)),
        clean=scene.known,
        triggered=scene.turned,
        test=scene.test.batch,
        judged=scene.trigger.test,
        target=scene.trigger.goal.one_target,
        key=jax.random.key(seed),
        batch_size=batch_size,
        progress=progress,
        keep=keep,
    )


def _are_all_alike(problem: Problem) -> bool:
    """Whether those of the original, the purified and the clean network that are given can be compared by weights."""
    given = [party for party in (problem.original, problem.reference) if party is not None]
    return all(are_alike(problem.purified, party) for party in given)


def _measure(problem: Problem) -> dict[str, Measured]:
    """Figures of each network that is there, by its role, before any attempt."""
    roles = {"purified": problem.purified, "original": problem.original, "reference": problem.reference}
    roles |= {f"surrogate {number}": party for number, party in enumerate(problem.surrogates, 1)}
    return {role: problem.measure(party) for role, party in roles.items() if party is not None}


def _party(model: Suspect) -> Party:
    return Party.of(model.network, model.variables)


def _identify(parties: Parties, scene: Scene, options: ReactivationOptions) -> dict[str, str]:
    """Digests of what decides the outcome."""
    models = (parties.purified, parties.original, parties.reference, *parties.surrogates)
    files = [None if model is None else model.checkpoint.sha256 for model in models]
    images = (scene.known, tuple(scene.turned), scene.test.batch, tuple(scene.trigger.test))
    return identify_run(parties.purified.checkpoint.sha256, images, {**options.plain(), "files": files})
