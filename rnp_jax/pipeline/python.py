"""From Python: what the command line calls, for a model and images in memory."""

import warnings
from dataclasses import dataclass
from os import PathLike
from typing import Any, get_args

from rnp_jax.checkpoints import Model
from rnp_jax.checks import check_choice
from rnp_jax.config import TriggerOptions, write_yaml
from rnp_jax.data import Dataset
from rnp_jax.defenses.auto import AutoConfig, auto
from rnp_jax.evaluation.metrics import Metrics
from rnp_jax.pipeline.case import make_case
from rnp_jax.pipeline.checking import check_case, check_whole
from rnp_jax.pipeline.defending import defend_case, judge_outcome, write_outcome
from rnp_jax.pipeline.detecting import DetectionOptions, examine
from rnp_jax.pipeline.doubts import find_doubt
from rnp_jax.pipeline.examination import Examination
from rnp_jax.pipeline.few_images import warn_of_few_examined
from rnp_jax.pipeline.holding import hold_new
from rnp_jax.pipeline.images import fit_images
from rnp_jax.pipeline.judging import check_required
from rnp_jax.pipeline.opening import choose_out
from rnp_jax.pipeline.options import Require, RunOptions
from rnp_jax.pipeline.request import Request, check_filters, check_request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.sets import evaluation_sets
from rnp_jax.pipeline.suspect import as_suspect
from rnp_jax.pipeline.trigger import open_trigger
from rnp_jax.pipeline.writing import LAST, name_cleaned
from rnp_jax.report.check import Check
from rnp_jax.report.detection import Detection
from rnp_jax.report.schema import Result


@dataclass(frozen=True, eq=False)
class Checked:
    """A checked model, and what is known of it.

    Attributes:
      model: the model after the defense; as it came where nothing spoke against it, or nothing could be concluded.
      check: the document that ``rnp-jax check`` writes as check.json; ``check.conclusion`` says what came of it.
    """

    model: Model
    check: Check


@dataclass(frozen=True, eq=False)
class Cleaned:
    """A defended model, and what is known of it.

    Attributes:
      model: the model after the method; ``save_model(path, model, model.variables)`` writes it, or, where a method
        trained a new network, ``rnp_jax.checkpoints.save_variables``.
      result: the document that ``rnp-jax defend`` writes as result.json; ``result.verdict.supported`` says whether it
        supports that the backdoor is gone.
    """

    model: Model
    result: Result


def defend(
    model: Model,
    images: Dataset,
    test: Dataset | None = None,
    *,
    method: str = "auto",
    settings: Any = None,
    out: str | PathLike[str] | None = None,
    require: Require = "nothing",
    **options: Any,
) -> Cleaned:
    """Removes a backdoor from a model, as ``rnp-jax defend`` does.

    Args:
      model: the suspicious model, as ``load_model`` gives it.
      images: clean images, uint8 [N, H, W, C] with labels [N]; for a method that needs an untrusted set, that set.
      test: the images that ACC, and ASR where the trigger is known, are measured on; by default those of ``images``
        that are held out.
      method: its name; ``METHODS`` has them all.
      settings: the method's, such as ``RnpConfig(…)``; by default its own.
      out: a folder for the cleaned checkpoint, the report and everything else; by default nothing is written.
      require: what the result must support: ``nothing``, or that the backdoor is ``removed``.
      **options: fields of ``RunOptions``, such as ``seed``, ``augmentation``, ``defense`` and ``trigger``.

    Returns:
      The model after the method, and the result.

    Raises:
      ConfigError: no such method or option, or settings that do not fit the model.
      DataError: images that do not fit the model, or too few of them.
      DefenseError: the method cannot do its work on this model.
      RequirementError: everything is written, and the result does not support what was required.

    Example:
      >>> import rnp_jax
      >>> model = rnp_jax.load_model("checkpoints/digits_badnets.pt")
      >>> images = rnp_jax.load_data("digits", split="train")
      >>> cleaned = rnp_jax.defend(model, images.subset(range(100)), method="clp")
      >>> cleaned.result.method, cleaned.result.choice.pruned > 0
      ('clp', True)
    """
    check_choice("require", require, get_args(Require))
    given = RunOptions(method=method, **{"evidence": "unknown", **options})
    (record,) = given.methods
    request = Request(
        str(model.checkpoint.path), record, given.settings(record) if settings is None else settings, given
    )
    check_request(request)
    suspect = as_suspect(model)
    check_filters(suspect, request)
    log = RunLog(quiet=out is None)
    case = make_case(suspect, request, images, test)
    if out is None:
        outcome = defend_case(case, request, log)
        result = judge_outcome(case, outcome, request, log)
    else:
        cleaned = name_cleaned(choose_out(str(out), request.checkpoint, "defend", LAST), request)
        with hold_new(cleaned.parent, "rnp_jax.defend", LAST):
            outcome = defend_case(case, request, log)
            write_yaml(cleaned.parent / "config.yaml", request.plain())
            result = write_outcome(case, outcome, request, cleaned, log)
    check_required(require, result.verdict)
    return Cleaned(outcome.model, result)


def check(
    model: Model,
    images: Dataset,
    test: Dataset | None = None,
    *,
    settings: AutoConfig | None = None,
    detection: DetectionOptions | None = None,
    out: str | PathLike[str] | None = None,
    **options: Any,
) -> Checked:
    """Says whether a model hides a backdoor, removes what is found, and says what is known then, as ``rnp-jax check``.

    Args:
      model: as ``load_model`` gives it.
      images: clean images, uint8 [N, H, W, C] with labels [N].
      test: the images that ACC, and ASR where the trigger is known, are measured on; by default those of ``images``
        that are held out.
      settings: of `auto`, which removes what is found.
      detection: how the model is examined before anything is changed; its ``signs.holdout`` is not read, since the
        searches measure on the images that the defense holds out.
      out: a folder for the new checkpoint, the page and everything else; by default nothing is written.
      **options: fields of ``RunOptions``, such as ``seed``, ``augmentation``, ``defense`` and ``trigger``.

    Returns:
      The model, changed only where something speaks for a backdoor, and what is known of it.

    Raises:
      ConfigError: no such option, settings that do not fit the model, or a head on features.
      DataError: images that do not fit the model, or too few of them.
      DefenseError: the network has nothing to mask, or a loss became infinite or not a number.

    Example:
      >>> import rnp_jax
      >>> model = rnp_jax.load_model("checkpoints/digits_badnets.pt")
      >>> images = rnp_jax.load_data("digits", split="train").subset(range(400))
      >>> checked = rnp_jax.check(model, images)  # takes minutes
      >>> checked.check.conclusion in ("supported", "not supported")
      True
    """
    given = RunOptions(**{"evidence": "unknown", "sweep_images": 0, **options})
    request = Request(str(model.checkpoint.path), auto, given.settings(auto) if settings is None else settings, given)
    check_request(request)
    suspect, looked_for, log = as_suspect(model), detection or DetectionOptions(), RunLog(quiet=out is None)
    check_whole(suspect)
    check_filters(suspect, request)
    case = make_case(suspect, request, images, test)
    if out is None:
        done = check_case(case, request, looked_for, log)
    else:
        cleaned = name_cleaned(choose_out(str(out), request.checkpoint, "check", LAST), request)
        with hold_new(cleaned.parent, "rnp_jax.check", LAST):
            write_yaml(cleaned.parent / "config.yaml", request.plain())
            done = check_case(case, request, looked_for, log, cleaned)
    return Checked(done.model, done.check)


def evaluate(
    model: Model, test: Dataset, *, trigger: TriggerOptions | None = None, batch_size: int | None = None
) -> Metrics:
    """Measures clean accuracy (ACC), and ASR and RA where the trigger is known, as ``rnp-jax evaluate`` does.

    An accuracy that makes it likely that the network is not computed as it was trained is a ``UserWarning``.

    Args:
      model: as ``load_model`` gives it.
      test: clean images with labels, uint8 [N, H, W, C].
      trigger: the attack; by default the one that the model's card names.
      batch_size: images a batch; by default what suits the device.

    Raises:
      ConfigError: an unknown attack, or constants that are not its own.
      DataError: images that do not fit the model.

    Example:
      >>> import rnp_jax
      >>> model = rnp_jax.load_model("checkpoints/digits_badnets.pt")
      >>> metrics = rnp_jax.evaluate(model, rnp_jax.load_data("digits", split="test"))
      >>> f"{metrics.acc.value:.1%} {metrics.asr.value:.0%}"
      '99.6% 100%'
    """
    suspect, test = fit_images(as_suspect(model), test)
    known = open_trigger(suspect, trigger or TriggerOptions(), test)
    (measured,) = evaluation_sets(suspect, test, known).measure(suspect, model.variables, batch_size=batch_size)
    if (doubt := find_doubt(suspect, measured)) is not None:
        warnings.warn(doubt.sentence, stacklevel=2)
    return measured.metrics


def detect(
    model: Model,
    images: Dataset,
    *,
    trigger: TriggerOptions | None = None,
    out: str | PathLike[str] | None = None,
    **options: Any,
) -> Detection:
    """Says whether a model hides a backdoor, as ``rnp-jax detect`` does.

    Args:
      model: as ``load_model`` gives it.
      images: clean images with labels, uint8 [N, H, W, C]; some 200 are enough.
      trigger: the attack, where it is known, to compare with what is found; by default the one of the model's card.
      out: a folder for the report and the arrays; by default nothing is written.
      **options: fields of ``DetectionOptions``, such as ``recover``, ``signs``, ``labels`` and ``seed``.

    Raises:
      ConfigError: settings that do not fit the model.
      DataError: images that do not fit the model.

    Example:
      >>> import rnp_jax
      >>> model = rnp_jax.load_model("checkpoints/digits_badnets.pt")
      >>> images = rnp_jax.load_data("digits", split="train").subset(range(100))
      >>> from rnp_jax.detection import SignConfig
      >>> found = rnp_jax.detect(model, images, recover="none", signs=SignConfig(looks=("shift",)))
      >>> found.outcome in ("likely backdoored", "suspicious", "no evidence", "likely clean")
      True
    """
    suspect, images = fit_images(as_suspect(model), images)
    known = open_trigger(suspect, trigger or TriggerOptions(), images)
    few = warn_of_few_examined(len(images), suspect.network.architecture.num_classes)
    case = Examination(suspect, images.batch, images, known, RunLog(quiet=out is None), {}, cautions=few)
    folder = None if out is None else choose_out(str(out), str(model.checkpoint.path), "detect", LAST)
    settings = DetectionOptions(**options)
    if folder is None:
        return examine(case, settings)
    with hold_new(folder, "rnp_jax.detect", LAST):
        return examine(case, settings, out=folder)
