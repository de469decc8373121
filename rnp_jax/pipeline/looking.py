"""Look at a model: unlearn, search for triggers, look at its features, and grade the signs."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, NamedTuple

import jax
import numpy as np
import tyro

from rnp_jax import masks
from rnp_jax.config import DATA, check_seed
from rnp_jax.data import holdout_split
from rnp_jax.defenses.method import Do, just_do
from rnp_jax.defenses.searches import Recovered, SearchConfig
from rnp_jax.defenses.unlearn import UnlearnConfig
from rnp_jax.detection.calibration import Calibration, Statistic, find_bundled, plain_settings
from rnp_jax.detection.labels import LabelConfig, LabelFindings, detect_label
from rnp_jax.detection.ruling import Identity, as_sign, rule_on
from rnp_jax.detection.samples import SAMPLE_SCORES, SampleConfig
from rnp_jax.detection.signs import (
    SignConfig,
    as_recovered,
    auto_search,
    judge_triggers,
    look_at_shift,
    look_for_triggers,
)
from rnp_jax.detection.suspicion import SuspicionRule
from rnp_jax.detection.triggers import QUICK, RecoveredTriggers, recover_triggers
from rnp_jax.detection.verdict import GradedVerdict, Sign, grade_signs
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.measure import measure_variants
from rnp_jax.inversion.mask_search import TriggerConfig
from rnp_jax.inversion.stamps import measure_stamps
from rnp_jax.models import Network
from rnp_jax.pipeline.doubts import Doubt, find_doubt
from rnp_jax.pipeline.examination import Examination, Judged, TriggerSearch
from rnp_jax.pipeline.judging import AT_CHANCE, IN_DOUBT
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.types import Batch, Variables

ENOUGH = 20
"""Held-out images from which the searches measure on them; with fewer, they measure on the images they searched on."""


@dataclass(frozen=True, kw_only=True)
class DetectionOptions:
    """What to look for, and how.

    Attributes:
      labels: unlearning, which shows the label that predictions go to.
      signs: signs that need no calibration, which automatic removal goes by as well.
      recover: models from which to recover a trigger for every label with `triggers`: original, unlearned, both or
        none. auto does so with the original where a calibration judges the sizes; elsewhere the triggers of `signs` are
        shown.
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
    signs: SignConfig = field(default_factory=SignConfig)
    recover: Literal["auto", "original", "unlearned", "both", "none"] = "auto"
    triggers: TriggerConfig = QUICK
    untrusted: Annotated[str | None, DATA] = None
    sample_scores: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ("unlearned",)
    unlearn: UnlearnConfig = field(default_factory=lambda: UnlearnConfig(batch_size=100))
    samples: SampleConfig = field(default_factory=SampleConfig)
    suspicion: SuspicionRule = field(default_factory=SuspicionRule)
    seed: int = 0

    def __post_init__(self):
        check_seed("seed", self.seed)
        unknown = [name for name in self.sample_scores if name not in SAMPLE_SCORES]
        if unknown or not self.sample_scores:
            raise ConfigError(f"sample_scores {unknown or '()'}: choose among {', '.join(SAMPLE_SCORES)}")


class Searched(NamedTuple):
    """What searches for the triggers of all labels found.

    Attributes:
      found: what they found.
      config: their settings.
      data: the clean images that they searched on.
      holdout: those that they measured on.
      seconds: that they took.
    """

    found: Recovered
    config: SearchConfig
    data: Batch
    holdout: Batch
    seconds: float


class Looked(NamedTuple):
    """What was found in a model, and the verdict on it.

    Attributes:
      found: results of unlearning.
      recovered: triggers by the model that they were recovered from.
      judged: the scores, held against calibrations.
      verdict: the grade and the signs.
      doubt: raised by the accuracy on the clean images.
    """

    found: LabelFindings
    recovered: dict[str, TriggerSearch]
    judged: tuple[Judged, ...]
    verdict: GradedVerdict
    doubt: Doubt | None


def look(
    case: Examination,
    options: DetectionOptions,
    given: Mapping[Statistic, Calibration] | None = None,
    searched: Searched | None = None,
) -> Looked:
    """Unlearns, recovers triggers, looks for signs and grades them.

    Args:
      case: the model and the clean images.
      options: what is looked for.
      given: calibrations by statistic, in place of the bundled ones.
      searched: the searches for triggers, where they were made already: of other clean images, and with their own key.

    Raises:
      RnpError: settings that do not fit the model, or images that do not.
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
    recovered = _recover(case, found, options, given or {})
    judged = [_judge(case, "labels", found, given or {}, options)]
    if "original" in recovered:
        judged.append(_judge(case, "triggers", recovered["original"].triggers, given or {}, options))
    signs = [as_sign(*each) for each in judged]
    shown = _look_for_own(case, options, signs, searched)
    if shown is not None and "original" not in recovered and options.recover != "none":
        recovered = {"original": shown, **recovered}
    verdict = grade_signs(signs, case.test.class_names)
    return Looked(found, recovered, tuple(judged), _hold(verdict, doubt), doubt)


def _hold(verdict: GradedVerdict, doubt: Doubt | None) -> GradedVerdict:
    """The verdict on a network that may not be computed as it was trained says so; at chance it says nothing else."""
    if doubt is None:
        return verdict
    sentences = (doubt.sentence, *verdict.sentences)
    if doubt.at_chance:
        return replace(verdict, grade="no evidence", label=None, headline=AT_CHANCE, sentences=sentences)
    return replace(verdict, headline=f"{verdict.headline}; but {IN_DOUBT}", sentences=sentences)


def _find_doubt(case: Examination) -> Doubt | None:
    """The doubt that the accuracy on the clean images raises."""
    model = case.model
    unmasked = [masks.filters(model.variables["masks"])]
    (measured,) = measure_variants(model.network, model.variables, unmasked, case.clean)
    return find_doubt(model, measured)


def _look_for_own(
    case: Examination, options: DetectionOptions, signs: list[Sign], searched: Searched | None
) -> TriggerSearch | None:
    """Adds the signs that need no calibration, and returns the triggers that the searches found."""
    looks, log, model = options.signs.looks, case.log, case.model
    if not looks:
        return None
    network, variables = model.network, masks.bake(model.variables, model.network.placement)
    data = holdout = case.clean
    if searched is not None:
        data = searched.data
    elif len(data.labels) * options.signs.holdout >= ENOUGH:
        data, holdout = holdout_split(case.clean, options.signs.holdout, options.seed)
    if "shift" in looks:
        with log.stage("shift"):
            signs.append(look_at_shift(network, variables, data))
    if "search" not in looks:
        return None
    key, config = jax.random.key(options.seed), auto_search()
    made = searched or search_labels(log, network, variables, data, key, config, holdout=holdout)
    signs.append(judge_triggers(made.found, made.config))
    triggers = as_recovered(network, variables, made.holdout, made.found, made.seconds)
    return TriggerSearch(triggers, np.asarray(triggers.success))


def search_labels(
    log: RunLog,
    network: Network,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: SearchConfig,
    *,
    holdout: Batch | None = None,
    do: Do = just_do,
) -> Searched:
    """``look_for_triggers`` as a stage of a run."""
    began = time.perf_counter()
    log.say("searching for triggers of every label")
    with log.stage("search"), log.epochs() as bars:
        found = look_for_triggers(network, variables, data, key, config, holdout=holdout, progress=bars, do=do)
    return Searched(found, config, data, data if holdout is None else holdout, time.perf_counter() - began)


def _judge(
    case: Examination,
    statistic: Statistic,
    found: LabelFindings | RecoveredTriggers,
    given: Mapping[Statistic, Calibration],
    options: DetectionOptions,
) -> Judged:
    architecture, checkpoint = case.model.network.architecture, case.model.checkpoint
    calibration = given.get(statistic) or find_bundled(architecture, statistic)
    settings = plain_settings(options.labels if statistic == "labels" else options.triggers)
    identity = Identity(checkpoint.path.stem, checkpoint.sha256)
    ruling = rule_on(statistic, found.score, found.label, calibration, architecture, settings, identity)
    return Judged(statistic, ruling, calibration)


def _recover(
    case: Examination, found: LabelFindings, options: DetectionOptions, given: Mapping[Statistic, Calibration]
) -> dict[str, TriggerSearch]:
    model, key = case.model, jax.random.key(options.seed)
    variables = {"original": model.variables, "unlearned": found.unlearned}
    calibrated = given.get("triggers") or find_bundled(model.network.architecture, "triggers")
    asked = options.recover
    if asked == "auto":
        asked = "none" if calibrated is None and "search" in options.signs.looks else "original"
    recovered = {}
    for name in [name for name in variables if asked in (name, "both")]:
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
