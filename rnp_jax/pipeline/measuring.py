"""Run and measure: what a method makes of a model, and the figures before and after it."""

from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from rnp_jax.defenses import Defended, Pairs
from rnp_jax.defenses.method import Keep, compute_anew
from rnp_jax.evaluation.measure import Measured
from rnp_jax.evaluation.metrics import with_effectiveness
from rnp_jax.evaluation.predict import default_batch_size
from rnp_jax.pipeline.case import Case, defended_model
from rnp_jax.pipeline.few_images import warn_of_few
from rnp_jax.pipeline.images import draw_evenly
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.sets import EvaluationSets, evaluation_sets, measure_within_memory
from rnp_jax.pipeline.suspect import Suspect

_PAIRS = 1000  # triggered images that a control looks at


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method made of a model, and how it fares.

    Attributes:
      defended: what the method did.
      model: the model after it.
      sets: the test images as that model reads them.
      before: figures of the suspicious model.
      after: figures of the defended one, with DER.
      batch_size: images a batch of the measurement.
    """

    defended: Defended
    model: Suspect
    sets: EvaluationSets
    before: Measured
    after: Measured
    batch_size: int


def run_method(case: Case, request: Request, log: RunLog, keep: Keep = compute_anew) -> Defended:
    """Runs the method on the case; ``keep`` gives its outcome, and what its longer stages compute.

    Raises:
      ConfigError, DefenseError: settings that do not fit the network; a method that cannot do its work.
    """
    method, on_features = request.method, case.model.extractor is not None and not case.anew
    named = "untrusted" if case.untrusted else "clean"
    log.say(f"{case.network.architecture.name}: {method.name} on {len(case.data.labels)} {named} images")
    for warning in warn_of_few(case, request):
        log.warn(warning)
    with log.epochs() as bars:
        outcome = partial(
            method,
            case.network,
            case.variables,
            case.data,
            jax.random.key(request.options.seed),
            request.settings,
            holdout=case.holdout,
            augment=request.options.augmentation if method.augments and not on_features else None,
            progress=bars,
            pairs=_pairs(case) if method.needs == "trigger" else None,
            keep=keep,
        )
        defended, _ = keep("outcome", outcome)
    for stage, seconds in defended.timing.items():
        log.spend(stage, seconds)
    for warning in defended.warnings:
        log.warn(warning)
    unpruned = "activations bounded" if defended.kind == "bounds" else "tuned"
    done = f"pruned {defended.choice.pruned} filters" if defended.prunes else unpruned
    log.say(f"{'left as it came' if defended.unchanged else done}: {defended.choice.rule}")
    for number, kept in enumerate(defended.kept, 1):
        clean = "" if case.poisoned is None else f", {(~case.poisoned[kept]).mean():.1%} of them truly clean"
        log.say(f"round {number}: {len(kept)} images kept{clean}")
    if len(defended.isolated):
        found = (
            "" if case.poisoned is None else f", {case.poisoned[defended.isolated].mean():.1%} of them truly poisoned"
        )
        log.say(f"{len(defended.isolated)} images isolated as poisoned{found}")
    return defended


def measure_before(case: Case, request: Request, log: RunLog) -> Measured:
    """Figures of the suspicious model.

    Raises:
      DefenseError: one image at a time is too much for the memory.
    """
    size = request.options.compute.batch_size or default_batch_size()
    with log.stage("measure"):
        return measure_within_memory(case.sets, case.model, case.model.variables, size)[0]


def measure(case: Case, defended: Defended, request: Request, log: RunLog, before: Measured | None = None) -> Outcome:
    """Measures the model after the method, and before it where that is not known.

    Raises:
      DefenseError: one image at a time is too much for the memory.
    """
    log.say("measuring")
    size = request.options.compute.batch_size or default_batch_size()
    with log.stage("measure"):
        if before is None:
            before, size = measure_within_memory(case.sets, case.model, case.model.variables, size)
        model = defended_model(case, defended)
        sets = case.sets if defended.network is None else evaluation_sets(model, case.test, case.trigger)
        after, size = measure_within_memory(sets, model, model.variables, size)
    after = after._replace(metrics=with_effectiveness(before.metrics, after.metrics))
    return Outcome(defended, model, sets, before, after, size)


def _pairs(case: Case) -> Pairs | None:
    """Test images without and with the trigger; None where it is not known."""
    triggered = case.sets.triggered
    if triggered is None:
        return None
    chosen = draw_evenly(triggered.labels, _PAIRS)
    return Pairs(np.asarray(case.sets.clean.images)[triggered.indices[chosen]], triggered.images[chosen])
