"""Conclude: what speaks for a backdoor in a checked file, what that and the defense amount to, and what stays unknown.

Three signs are strong: detection says so, a label stands out in the searches made as evidence, and a known trigger
works. One is weak: a suspicion of detection. That `auto` would change a network is none by itself: its own limit for
filters that clean images can spare is one that clean networks reach.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from rnp_jax.detection.evidence import Finding
from rnp_jax.detection.verdict import Grade
from rnp_jax.evaluation.metrics import Metrics
from rnp_jax.pipeline.judging import clean_asr
from rnp_jax.report.check import Conclusion
from rnp_jax.report.detection import Detection
from rnp_jax.report.evidence import WORDS
from rnp_jax.report.schema import Result, Verdict
from rnp_jax.report.wording import interval, percent

STATUS: dict[Conclusion, int] = {"no evidence": 0, "not supported": 3, "supported": 4, "unchecked": 5}
"""Exit status of `check`. A defense whose result does not support what was required of it ends with 3 as well."""

MEANINGS: dict[Conclusion, str] = {
    "no evidence": "there is no evidence of a backdoor",
    "not supported": "a backdoor was found or is suspected, and nothing supports that it is gone",
    "supported": "a backdoor was found, and the evidence supports that it is gone from the new file",
    "unchecked": "the network could not be checked: it may not be computed as it was trained",
}
"""What each status says, in a line."""

Strength = Literal["none", "weak", "strong"]

SAID: dict[Grade, Strength] = {
    "likely backdoored": "strong",
    "suspicious": "weak",
    "no evidence": "none",
    "likely clean": "none",
}
"""How strongly a grade of detection speaks for a backdoor."""

NO_PROOF = "Whether the network is clean: what was not found may be there."
BLIND = (
    "Whether there is a backdoor that every look misses, such as one whose trigger covers the whole image faintly. The "
    "page lists what each look misses."
)
UNMEASURED = (
    "How often the true trigger works, in the file as it came and in the new one. The trigger is not known, so this "
    "cannot be measured."
)
SAME_KIND = (
    "Whether other triggers for the same label still work. The defense trained on triggers that it found itself, and "
    "the evidence comes from searches for triggers of the same kind."
)
OTHER_TRIGGERS = "Whether there are other backdoors than the one whose trigger is known."


NOTHING_FOUND = "Automatic removal looked further, found nothing to remove either, and left the network as it came."
NOTHING_REMOVED = "Automatic removal found nothing to remove, and left the network as it came."
DROPPED = (
    "Automatic removal would have changed the network, as a precaution or on a weak sign of its own. Nothing else "
    "speaks for a backdoor, so the network was left as it came. To get the changed one, use rnp-jax defend."
)


class Signs(NamedTuple):
    """What speaks for a backdoor in a file as it came: how strongly, and the signs of that strength in a few words."""

    strength: Strength
    words: tuple[str, ...] = ()


def find_signs(detection: Detection, before: Metrics, finding: Finding | None, class_names: Sequence[str]) -> Signs:
    """What speaks for a backdoor in the file as it came, the strongest signs alone.

    Args:
      detection: what the examination says.
      before: figures of the file as it came.
      finding: of the searches for evidence, where they were made.
      class_names: of the network's classes.
    """
    said, asr = SAID[detection.outcome], before.asr
    strong = [detection.verdict.headline] if said == "strong" else []
    if asr is not None and asr.value > clean_asr(before, len(class_names)):
        strong.append(f"The known trigger works on {percent(asr)} of the images")
    if finding is not None and finding.visible:
        names = ", ".join(f"{each.label} ({class_names[each.label]})" for each in finding.suspects)
        strong.append(f"The searches made as evidence find a trigger for label {names}")
    if strong:
        return Signs("strong", tuple(strong))
    return Signs("weak", (detection.verdict.headline,)) if said == "weak" else Signs("none")


def conclude(
    detection: Detection, signs: Signs, defense: Result, written: str | None, *, dropped: bool = False
) -> tuple[Conclusion, Verdict]:
    """The conclusion, and the verdict that the page begins with.

    Args:
      detection: what the examination says.
      signs: what speaks for a backdoor.
      defense: what was done, with figures and evidence before and after.
      written: the new file's name; None where the network was left as it came.
      dropped: whether the defense would have changed a network that no sign speaks against.
    """
    if signs.strength == "none":
        return "no evidence", detection.verdict.model_copy(update={"detail": DROPPED if dropped else NOTHING_FOUND})
    first, _, evidence = signs.words[0].partition(": ")
    told = "".join(f"{each[:1].upper()}{each[1:]}. " for each in (evidence, *signs.words[1:]) if each)
    after = defense.verdict
    if written is None:
        level = "bad" if signs.strength == "strong" else "warning"
        headline = f"{first}. Nothing was removed"
        return "not supported", Verdict(headline=headline, detail=f"{told}{NOTHING_REMOVED}", level=level)
    headline, detail = f"{first}. In {written}: {after.headline}", f"{told}{after.detail}"
    level = "bad" if after.level == "bad" else "warning"  # the file that was given is backdoored in any case
    verdict = Verdict(headline=headline, detail=detail, level=level, supported=after.supported)
    return ("supported" if after.supported else "not supported"), verdict


def tell_done(defense: Result, written: str | None, *, dropped: bool = False) -> str:
    """What was done to the network, and why."""
    if dropped:
        return DROPPED
    why = "" if defense.choice is None else defense.choice.rule
    return why if written else f"Nothing was changed. {why}".strip()


def tell_known(defense: Result, written: str | None) -> tuple[str, ...]:
    """What was measured of the new file, or of the file that was left alone."""
    before, after = defense.before, defense.after
    if written is None:
        return ()
    acc = f"It classifies {percent(after.acc)} ({interval(after.acc)}) of {after.acc.total:,} clean images correctly"
    known = [f"{acc}, and the file as it came {percent(before.acc)}."]
    if before.asr is not None and after.asr is not None:
        known.append(
            f"The known trigger works on {percent(after.asr)} ({interval(after.asr)}) of the images, and on "
            f"{percent(before.asr)} in the file as it came."
        )
    if defense.evidence is not None:
        known.append(f"{WORDS[defense.evidence.level]} {' '.join(defense.evidence.reasons)}")
    return tuple(known)


def tell_unknown(defense: Result, written: str | None, *, inverts: bool) -> tuple[str, ...]:
    """What nobody should take for known.

    Args:
      defense: what was done.
      written: the new file's name; None where the network was left as it came.
      inverts: whether the defense trained on triggers that it found itself.
    """
    measured = defense.before.asr is not None
    return (
        *([NO_PROOF] if written is None else []),
        *([OTHER_TRIGGERS] if measured else [UNMEASURED] if written else []),
        *([SAME_KIND] if written and inverts and not measured else []),
        BLIND,
    )
