"""What came of attempts to bring a backdoor back, as their document and as lines on the screen."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rnp_jax.evaluation.measure import Measured
from rnp_jax.evaluation.metrics import Proportion
from rnp_jax.pipeline.concluding import OTHER_TRIGGERS
from rnp_jax.pipeline.describing_inputs import describe_checkpoint, describe_command, describe_data
from rnp_jax.pipeline.doubts import find_doubt
from rnp_jax.pipeline.few_images import warn_of_classes
from rnp_jax.pipeline.judging import hold_in_doubt
from rnp_jax.pipeline.parties import Parties, Scene
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.reactivation import REACTIVATIONS, Attempt, Finding, rule_attempt, rule_trigger
from rnp_jax.reactivation.ruling import ORDER
from rnp_jax.report import schema
from rnp_jax.report.reactivation import LEVELS, OtherNetwork, ReactivationResult, Ruled
from rnp_jax.report.wording import UNKNOWN, interval, percent

STATUS: dict[Finding, int] = {
    "not recovered": 0,
    "superficial": 3,
    "still works": 3,
    "undecided": 5,
    "no reference": 5,
    "explains": 5,
}
"""Exit status of `reactivate`; 3 and 5 are used as `check` does."""

MEANINGS: dict[Finding, str] = {
    "not recovered": "no attempt brought the backdoor back",
    "superficial": "the backdoor came back",
    "still works": "the trigger still works before any attempt",
    "undecided": "it cannot be told whether the backdoor came back",
    "no reference": "ASR may exceed 20 %, and without --reference nothing says what it would be on a clean network",
    "explains": "no attempt was made that measures ASR",
}
"""What each finding says, in a line."""

NO_PROOF = "Whether the network is clean: another attempt, or a larger budget, may bring the backdoor back."
NO_FLOOR = (
    "What the same attempts do to a clean network. A few triggered images can plant a trigger in any network, so a "
    "higher ASR alone does not show that the backdoor was dormant."
)
ONE_SEED = "How far the figures depend on luck: every attempt was made once, with one seed."
ONE_REFERENCE = "How far the floor depends on the clean reference: there is one such network."


class Tried(NamedTuple):
    """What was tried.

    Attributes:
      attempts: what each reached.
      figures: of each network before any attempt, by its role.
      untried: what was left out, and why.
    """

    attempts: tuple[Attempt, ...]
    figures: Mapping[str, Measured]
    untried: tuple[str, ...]


def describe_reactivation(
    parties: Parties, scene: Scene, tried: Tried, config: dict[str, Any], seed: int, log: RunLog
) -> ReactivationResult:
    """Everything that result.json and the page say."""
    model, before = parties.purified, tried.figures["purified"].metrics
    floor = None if parties.reference is None else tried.figures["reference"].metrics.asr
    rulings = tuple(_rule(attempt, before.asr) for attempt in tried.attempts)
    doubt = find_doubt(model, tried.figures["purified"])
    finding = find_worst(rulings, before.asr, floor)
    verdict = hold_in_doubt(conclude(finding, before.asr, floor, tried.attempts), doubt)
    one = [NO_FLOOR] if parties.reference is None else [ONE_REFERENCE]
    return ReactivationResult(
        **describe_command(parties.carrier, scene.trigger, seed),
        checkpoint=describe_checkpoint(model),
        data=describe_data(model, scene.test, len(scene.known.labels), 0, len(scene.test)),
        config=config,
        timing=tuple(schema.Stage(stage=name, seconds=seconds) for name, seconds in log.timing.items()),
        warnings=(*(() if doubt is None else (doubt.sentence,)), *warn_of_classes(scene.test)),
        verdict=verdict,
        before=before,
        others=_list_others(parties, tried),
        attempts=tried.attempts,
        rulings=rulings,
        untried=tried.untried,
        finding="undecided" if doubt is not None and doubt.at_chance else finding,
        unknown=(NO_PROOF, *one, OTHER_TRIGGERS, ONE_SEED),
    )


def find_worst(rulings: Sequence[Ruled], before: Proportion | None, floor: Proportion | None) -> Finding:
    """What all attempts amount to: that the trigger works without one, or the worst that one of them shows.

    Args:
      rulings: of the attempts.
      before: ASR of the purified network before any.
      floor: the same of the clean reference, where there is one.
    """
    if before is not None and rule_trigger(before, floor):
        return "still works"
    found = {each.finding for each in rulings}
    for finding in ORDER:
        if finding in found:
            return finding
    return "explains"


def _rule(attempt: Attempt, before: Proportion | None) -> Ruled:
    after, floor = (None if each is None else each.asr for each in (attempt.after, attempt.floor))
    finding = rule_attempt(after, floor)
    if after is None:
        return Ruled(name=attempt.name, finding=finding, sentence=REACTIVATIONS[attempt.name].explain(attempt))
    reached = f"ASR goes from {percent(before)} to {percent(after)} ({interval(after)})"
    if floor is None:
        told = f"{reached}. What it reaches on a clean network is not known."
    else:
        told = f"{reached}, and on the clean reference to {percent(floor)} ({interval(floor)})."
    return Ruled(name=attempt.name, finding=finding, sentence=told)


def conclude(
    finding: Finding, before: Proportion | None, floor: Proportion | None, attempts: Sequence[Attempt]
) -> schema.Verdict:
    """The verdict that the page begins with; it never calls a network clean.

    Args:
      finding: what all attempts amount to.
      before: ASR of the purified network before any attempt.
      floor: the same of the clean reference, where there is one.
      attempts: what each reached.
    """
    ruled = [(each, rule_attempt(each.after.asr, each.floor and each.floor.asr)) for each in attempts if each.after]
    telling = [each for each, own in ruled if own == finding] if finding != "still works" else []
    figures = "; ".join(map(_tell_figures, telling))
    untouched = percent(before)
    headline, detail = {
        "still works": (
            f"The trigger still works: ASR {untouched} before any attempt",
            "The backdoor was not removed, so there is nothing to bring back."
            + ("" if floor is None else f" On the clean reference, ASR is {percent(floor)}."),
        ),
        "superficial": (
            f"The backdoor comes back: {figures}",
            f"It was dormant, not gone: before any attempt, ASR was {untouched}. The removal is superficial.",
        ),
        "undecided": (
            f"It cannot be told whether the backdoor comes back: {figures}",
            "The 95 % intervals allow both. More test images make them narrower.",
        ),
        "no reference": (
            f"Without a clean reference it cannot be told whether the backdoor comes back: {figures}",
            (
                "The same attempt may plant the trigger in a network that never had it. --reference FILE, a clean "
                "network for the same images, tells the two apart."
            ),
        ),
        "not recovered": (
            f"No attempt brought the backdoor back: {figures}",
            (
                "This is no proof that the network is clean: only the attempts listed below were made, with the "
                f"budgets listed. Before any, ASR was {untouched}."
            ),
        ),
        "explains": (
            "No attempt was made that could bring the backdoor back",
            "What was measured explains how near the network is to the backdoored one, and decides nothing.",
        ),
    }[finding]
    return schema.Verdict(headline=headline, detail=detail, level=LEVELS[finding])


def _tell_figures(attempt: Attempt) -> str:
    """``RA reaches ASR 96.0%, on a clean network 8.0%``."""
    after, floor = attempt.after, attempt.floor
    title = REACTIVATIONS[attempt.name].title
    reached = UNKNOWN if after is None else f"{title} reaches ASR {percent(after.asr)}"
    return reached if floor is None else f"{reached}, on a clean network {percent(floor.asr)}"


def _list_others(parties: Parties, tried: Tried) -> tuple[OtherNetwork, ...]:
    models = {"original": parties.original, "reference": parties.reference}
    models |= {f"surrogate {number}": model for number, model in enumerate(parties.surrogates, 1)}
    return tuple(
        OtherNetwork(
            role=role,
            path=os.fspath(model.checkpoint.path),
            sha256=model.checkpoint.sha256,
            metrics=tried.figures[role].metrics,
        )
        for role, model in models.items()
        if model is not None
    )


def tell_reactivation(result: ReactivationResult, page: Path, log: RunLog) -> None:
    """What came of it, in a few lines."""
    lines = [
        ("verdict", result.verdict.headline),
        *((REACTIVATIONS[each.name].title, f"{each.finding}: {each.sentence}") for each in result.rulings),
        *(("not tried", sentence) for sentence in result.untried),
        *(("not known", sentence) for sentence in result.unknown),
        ("report", page),
    ]
    text = "\n".join(f"{name:14} {value}" for name, value in lines)
    log.conclude(text, verdict=result.verdict.model_dump(), report=page, result=page.with_name("result.json"))
