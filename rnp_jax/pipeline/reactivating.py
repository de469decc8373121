"""Re-activation: is a backdoor really gone? Several attempts to bring it back, each repeated on a clean network."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import tyro

from rnp_jax.checks import check_seed
from rnp_jax.config import (
    FILE,
    FLAT,
    ComputeOptions,
    DataOptions,
    SourceOptions,
    TriggerOptions,
    to_plain,
    write_yaml,
)
from rnp_jax.defenses.method import Keep, compute_anew
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.measure import Measured
from rnp_jax.pipeline.few_images import tell_opened
from rnp_jax.pipeline.holding import hold_new
from rnp_jax.pipeline.keeping import identify_run, keep_stages
from rnp_jax.pipeline.opening import choose_out
from rnp_jax.pipeline.parties import KnownOptions, Parties, Scene, open_parties, open_scene
from rnp_jax.pipeline.reactivation_document import Tried, describe_reactivation, tell_reactivation
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.suspect import Suspect
from rnp_jax.pipeline.writing import LAST
from rnp_jax.reactivation import REACTIVATIONS, Attempt, Party, Problem, Reactivation, find_reactivation
from rnp_jax.reactivation.bba import BbaConfig
from rnp_jax.reactivation.bec import BecConfig
from rnp_jax.reactivation.lmc import LmcConfig
from rnp_jax.reactivation.perturbation import PerturbationConfig
from rnp_jax.reactivation.problem import are_alike
from rnp_jax.reactivation.qra import QraConfig
from rnp_jax.reactivation.ra import RaConfig
from rnp_jax.report.reactivation import ReactivationResult, write_reactivation
from rnp_jax.types import Progress

_COMPARING = tuple(each for each in REACTIVATIONS.values() if each.compares)

NAMES = tyro.conf.arg(metavar="NAME [NAME ...]")
FILES = tyro.conf.arg(metavar="FILE [FILE ...]")


@dataclass(frozen=True)
class ReactivationOptions:
    """What is asked of a purified checkpoint.

    Attributes:
      checkpoint: PyTorch file of the network that is said to be purified.
      original: file of the backdoored network that it was made from; its card names the trigger and the data. LMC and
        BEC need it.
      reference: file of a clean network for the same images and classes, on which every attempt is repeated; without
        it, a backdoor that comes back cannot be told from one that is planted anew.
      surrogates: files of further networks, purified from the same original, which an attacker who transfers has in
        place of this one.
      by: attempts to make; by default all that the given files allow and that do not take long.
      source: how the checkpoint and the original are read, and their normalisation.
      images: clean images; the attacker's come from the training part, and the test part is measured on.
      known: clean training images that the attacker has.
      trigger: the trigger; by default the one that the original's card names.
      compute: precision and batches.
      seed: random seed for shuffling and starting points.
      ra: settings of the retuning attack.
      lmc: settings of linear mode connectivity.
      wba: settings of white-box re-activation.
      bec: settings of the backdoor existence coefficient.
      qra: settings of the query-based attack.
      bba: settings of black-box re-activation.
      ta: settings of transfer re-activation.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    original: Annotated[str | None, FILE] = None
    reference: Annotated[str | None, FILE] = None
    surrogates: Annotated[tuple[str, ...], FILES] = ()
    by: Annotated[tuple[str, ...] | None, NAMES] = None
    source: Annotated[SourceOptions, FLAT] = field(default_factory=SourceOptions)
    images: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    known: KnownOptions = field(default_factory=KnownOptions)
    trigger: Annotated[TriggerOptions, FLAT] = field(default_factory=TriggerOptions)
    compute: Annotated[ComputeOptions, FLAT] = field(default_factory=ComputeOptions)
    seed: int = 0
    ra: RaConfig = REACTIVATIONS["ra"].defaults
    lmc: LmcConfig = REACTIVATIONS["lmc"].defaults
    wba: PerturbationConfig = REACTIVATIONS["wba"].defaults
    bec: BecConfig = REACTIVATIONS["bec"].defaults
    qra: QraConfig = REACTIVATIONS["qra"].defaults
    bba: BbaConfig = REACTIVATIONS["bba"].defaults
    ta: PerturbationConfig = REACTIVATIONS["ta"].defaults

    def __post_init__(self):
        check_seed("seed", self.seed)
        chosen = self.choose()
        if len(set(self.by or ())) < len(self.by or ()):
            raise ConfigError(f"--by {' '.join(self.by or ())}: an attempt is named twice; name each once")
        for each in chosen:
            if lacking := self.lacks(each):
                raise ConfigError(
                    f"--by {each.name}: {each.title} needs {' and '.join(f'--{need}' for need in lacking)}; give that, "
                    f"or leave {each.name} out"
                )

    def lacks(self, attempt: Reactivation) -> tuple[str, ...]:
        """The networks that an attempt needs and that are not given."""
        return tuple(need for need in attempt.needs if not getattr(self, need))

    def choose(self) -> tuple[Reactivation, ...]:
        """The attempts to make.

        Raises:
          ConfigError: none is named, or there is none of a name.
        """
        if self.by is None:
            return tuple(each for each in REACTIVATIONS.values() if each.usual and not self.lacks(each))
        if not self.by:
            raise ConfigError(f"--by: no attempt is given; choose among {', '.join(REACTIVATIONS)}")
        return tuple(map(find_reactivation, self.by))

    def plain(self) -> dict[str, Any]:
        """Everything that decides the outcome, as a preset has it: the settings of the attempts that are made alone."""
        chosen = tuple(each.name for each in self.choose())
        values = {name: value for name, value in to_plain(self).items() if name not in REACTIVATIONS or name in chosen}
        values.pop("out", None)
        return {**values, "by": list(chosen)}


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
    return Tried(tuple(attempts), figures, _tell_untried(options, unlike))


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


def _tell_untried(options: ReactivationOptions, unlike: tuple[Reactivation, ...]) -> tuple[str, ...]:
    """The attempts that were not made though nothing else was asked for, and why; some since networks are unlike."""
    if options.by is not None:
        return ()
    told = []
    for each in REACTIVATIONS.values():
        lacking = options.lacks(each)
        if lacking:
            told.append(f"{each.title} was not tried: it needs {' and '.join(f'--{need}' for need in lacking)}.")
        elif each in unlike:
            told.append(f"{each.title} was not tried: it needs networks of one architecture, width and normalisation.")
        elif not each.usual:
            told.append(f"{each.title} was not tried, because it takes long: --by {each.name} tries it.")
    return tuple(told)


def _identify(parties: Parties, scene: Scene, options: ReactivationOptions) -> dict[str, str]:
    """Digests of what decides the outcome."""
    models = (parties.purified, parties.original, parties.reference, *parties.surrogates)
    files = [None if model is None else model.checkpoint.sha256 for model in models]
    images = (scene.known, tuple(scene.turned), scene.test.batch, tuple(scene.trigger.test))
    return identify_run(parties.purified.checkpoint.sha256, images, {**options.plain(), "files": files})
