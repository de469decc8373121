"""What became of one backdoor under one method: the rule that verdicts and the colours of a comparison share."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from rnp_jax.defenses import METHODS
from rnp_jax.report.schema import Proportion
from rnp_jax.report.sweep_row import SweepRow

CHANCE = 0.1
"""ASR that is never held against a model of ten classes or fewer: what guessing among ten gives."""

COSTLY = 0.05
"""ACC that may be lost before a verdict calls it a cost."""

MISLED = 0.25
"""RA may lie so far below ACC before the trigger is said to lead elsewhere."""

STILL_WORKS = 0.5
"""ASR above which a trigger is not even weakened."""

Level = Literal["ok", "warning", "bad", "unknown"]

RULES: dict[Level, tuple[str, str]] = {
    "ok": (
        "removed",
        (
            "ASR, up to the end of its 95 % interval, is at most what a clean network of this ACC shows: 1/K for K "
            f"classes, ten or more, and (1 - ACC)/(K - 1) for its mistakes; ACC fell by at most {100 * COSTLY:g} "
            f"points; RA is at most {100 * MISLED:g} points below ACC."
        ),
    ),
    "warning": (
        "in between",
        (
            "The backdoor is weakened, leads elsewhere or has left traces; the triggered images are too few to call it "
            "removed; or more ACC than that was lost."
        ),
    ),
    "bad": (
        "still works, still there, destroyed",
        f"ASR is above {STILL_WORKS:.0%}, new searches find a backdoor, or ACC fell by more than half.",
    ),
    "unknown": ("trigger unknown, never worked, in doubt", "Nothing can be said about a backdoor."),
}
"""What the words and colours of a comparison mean."""


class Outcome(NamedTuple):
    """One or more items in a few words, and the colour that goes with them."""

    word: str
    level: Level


def limit_asr(acc: float, classes: int | None) -> float:
    """The highest ASR that is no sign of a backdoor in a model of this accuracy; ten classes where K is not known.

    A clean model sends (1 - ACC) / (K - 1) of the images to a given label by mistake; guessing among K classes, but not
    fewer than ten, is added to that, since the mistakes fall unevenly on the labels.
    """
    classes = round(1 / CHANCE) if classes is None else classes
    return (1 - acc) / (classes - 1) + min(CHANCE, 1 / classes)


REMOVED = Outcome("removed", "ok")
_ORDER: tuple[Level, ...] = ("bad", "warning", "unknown", "ok")


def judge_row(row: SweepRow) -> Outcome | None:
    """What the method did to the item's backdoor; None of an item that was not measured, or left as it came."""
    if row.acc is None or row.acc_before is None or _changes_nothing(row.method):
        return None
    if row.doubt is not None:
        return Outcome("in doubt", "unknown")
    if row.acc.value < row.acc_before.value / 2:
        return Outcome("destroyed", "bad")
    costly = row.acc_before.value - row.acc.value > COSTLY
    if row.asr is None or row.asr_before is None:
        return _judge_blindly(row, costly=costly)
    if row.asr_before.value <= limit_asr(row.acc_before.value, row.classes):
        return Outcome("ACC lost", "warning") if costly else Outcome("never worked", "unknown")
    return _judge_trigger(row.acc, row.asr, row.ra, limit_asr(row.acc.value, row.classes), costly=costly)


def _changes_nothing(method: str) -> bool:
    return method in METHODS and METHODS[method].changes == "nothing"


def _judge_blindly(row: SweepRow, *, costly: bool) -> Outcome:
    """Of an item whose trigger is not known: what searches without it found, which never makes it green."""
    if row.evidence == "still there":
        return Outcome("still there", "bad")
    if row.evidence == "traces":
        return Outcome("traces left", "warning")
    return Outcome("ACC lost", "warning") if costly else Outcome("trigger unknown", "unknown")


def _judge_trigger(acc: Proportion, asr: Proportion, ra: Proportion | None, limit: float, *, costly: bool) -> Outcome:
    """Of a trigger that worked before; ``limit`` is the ASR that is no sign of a backdoor."""
    if asr.value > STILL_WORKS:
        return Outcome("still works", "bad")
    if asr.high > limit:
        return Outcome("weakened" if asr.value > limit else "too few images", "warning")
    if ra is not None and ra.value < acc.value - MISLED:
        return Outcome("leads elsewhere", "warning")
    return Outcome("removed, ACC lost", "warning") if costly else REMOVED


def judge_rows(rows: Sequence[SweepRow]) -> Outcome | None:
    """The same for items that share a cell: what all of them have in common, or how many are removed.

    The colour is the worst of them all, so that only a cell whose every backdoor is removed is green.
    """
    found = [outcome for row in rows if (outcome := judge_row(row)) is not None]
    if not found:
        return None
    if len(set(found)) == 1:
        return found[0]
    worst = min(found, key=lambda each: _ORDER.index(each.level))
    return Outcome(f"{found.count(REMOVED):,} of {len(found):,} removed", worst.level)
