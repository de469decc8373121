"""What came of a check, as its document and as lines on the screen."""

from pathlib import Path
from typing import NamedTuple

from rnp_jax.data import Normalization
from rnp_jax.evaluation.measure import Measured
from rnp_jax.normaliser import spell
from rnp_jax.pipeline.case import Case
from rnp_jax.pipeline.concluding import Signs, conclude, tell_done, tell_known, tell_unknown
from rnp_jax.pipeline.describing_inputs import describe_checkpoint, describe_command, describe_data
from rnp_jax.pipeline.doubts import Doubt, read_stated, warn_of_known
from rnp_jax.pipeline.few_images import tell_opened, warn_of_classes
from rnp_jax.pipeline.judging import AT_CHANCE, hold_in_doubt
from rnp_jax.pipeline.measuring import Outcome
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.suspect import Suspect
from rnp_jax.report import schema
from rnp_jax.report.check import Check, Conclusion
from rnp_jax.report.detection import Detection
from rnp_jax.report.wording import interval, percent

_ORIGINS = {
    "given": "as --normalization says",
    "card": "as its card says",
    "file": "as the file says",
    "images": "the one with which it classifies the clean images best",
}


UNTOUCHED = "Nothing: what is found in a network that is hardly better than guessing says nothing of a backdoor."
UNKNOWN = "Everything: the network was neither examined nor changed."


class Done(NamedTuple):
    """What was found and done.

    Attributes:
      detection: what the examination says.
      signs: what speaks for a backdoor.
      outcome: what the defense made of the network, and the figures before and after.
      defense: the same as a document.
      written: the name of the new file; None where the network was left as it came.
    """

    detection: Detection
    signs: Signs
    outcome: Outcome
    defense: schema.Result
    written: str | None

    @property
    def dropped(self) -> bool:
        """Whether the defense would have changed a network that nothing else speaks against."""
        return self.written is None and not self.outcome.defended.unchanged


def describe_check(
    case: Case, request: Request, before: Measured, done: Done | None, doubt: Doubt | None, log: RunLog
) -> Check:
    """Everything that check.json and the page say; ``done`` is None where nothing could be concluded."""
    model, (clean, held) = case.model, case.clean_images
    stated = read_stated(model)
    conclusion, verdict, known, unknown = _conclude(done, request, doubt)
    warnings = [
        *([] if doubt is None else [doubt.sentence]),
        *warn_of_known(model, before),
        *case.warnings,
        *warn_of_classes(case.test),
    ]
    if done is not None:
        warnings += done.detection.warnings if done.dropped else (*done.detection.warnings, *done.defense.warnings)
    return Check(
        **describe_command(model, case.trigger, request.options.seed),
        checkpoint=describe_checkpoint(model),
        data=describe_data(model, case.test, clean, held, len(case.test)),
        config=request.plain(),
        timing=tuple(schema.Stage(stage=name, seconds=seconds) for name, seconds in log.timing.items()),
        warnings=tuple(dict.fromkeys(warnings)),
        verdict=verdict,
        conclusion=conclusion,
        acc=before.metrics.acc,
        stated=None if stated is None else stated.value,
        normalization=_tell_normalization(model),
        detection=None if done is None else done.detection,
        defense=None if done is None else done.defense,
        written=None if done is None else done.written,
        done=UNTOUCHED if done is None else tell_done(done.defense, done.written, dropped=done.dropped),
        known=known,
        unknown=unknown,
    )


def _conclude(
    done: Done | None, request: Request, doubt: Doubt | None
) -> tuple[Conclusion, schema.Verdict, tuple[str, ...], tuple[str, ...]]:
    """The conclusion, the verdict, and what is known and not known."""
    if done is None:
        sentence = "" if doubt is None else doubt.sentence
        verdict = schema.Verdict(headline=AT_CHANCE, detail=sentence, level="bad")
        return "unchecked", verdict, (), (UNKNOWN,)
    conclusion, verdict = conclude(done.detection, done.signs, done.defense, done.written, dropped=done.dropped)
    if doubt is not None and conclusion == "no evidence":  # of a network that may be another than the one that was made
        conclusion, verdict = "unchecked", hold_in_doubt(verdict, doubt)
    unknown = tell_unknown(done.defense, done.written, inverts=request.method.inverts)
    return conclusion, verdict, tell_known(done.defense, done.written), unknown


def tell_file(case: Case, before: Measured, log: RunLog) -> None:
    """What the file is, and how well it does on the images that nothing learns from."""
    model, acc = case.model, before.metrics.acc
    architecture, stated = model.network.architecture, read_stated(model)
    width = f" of width {architecture.width}" if architecture.width else ""
    size = "x".join(map(str, architecture.image_shape))
    log.say(f"network        {architecture.name}{width}, {architecture.num_classes} classes, images of {size}")
    log.say(f"normalisation  {_tell_normalization(model)}")
    told = "" if stated is None else f"; {stated.value:.1%} is stated"
    log.say(f"accuracy       {percent(acc)} ({interval(acc)}) of {acc.total:,} images that nothing learns from{told}")
    tell_opened(model, case.test, log)


def tell_check(check: Check, cleaned: Path, page: Path, log: RunLog) -> None:
    """What came of it, in a few lines."""
    file = "cleaned file" if check.verdict.supported else "new file"
    lines = [
        ("verdict", check.verdict.headline),
        ("done", check.done),
        *(("known", sentence) for sentence in check.known),
        *(("not known", sentence) for sentence in check.unknown),
        (file, cleaned if check.written else "none: the network was left as it came"),
        ("report", page),
    ]
    text = "\n".join(f"{name:14} {value}" for name, value in lines)
    written = {"checkpoint": cleaned} if check.written else {}
    log.conclude(text, verdict=check.verdict.model_dump(), report=page, result=page.with_name("check.json"), **written)


def _tell_normalization(model: Suspect) -> str:
    network = model.network
    spelled = spell(Normalization(network.mean, network.std)).replace(",", ", ").replace("/", " / ")
    return f"{spelled}; {_ORIGINS[model.normalized_by]}"
