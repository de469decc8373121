"""Signs of a backdoor, and the grade that they add up to.

Two kinds of sign are graded alike. A score is held against a calibration, where one of such models exists. Other signs
need none, because they compare the labels of one network with each other; they are those that automatic removal goes
by. One strong sign makes a model likely backdoored, and one weak sign makes it suspicious. "Likely clean" takes more
than the absence of signs: a score so low that hardly any backdoored model of its calibration has one.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rnp_jax.inversion.checks import NEXT

Grade: TypeAlias = Literal["likely backdoored", "suspicious", "no evidence", "likely clean"]
Strength: TypeAlias = Literal["strong", "weak", "none", "clears"]
Look: TypeAlias = Literal["search", "triggers", "labels", "shift"]

TITLES: dict[Look, str] = {
    "search": "searches for triggers",
    "triggers": "size of the smallest trigger",
    "labels": "unlearning",
    "shift": "feature shifts",
}
"""The signs, those first that name a label most reliably."""

BLIND: dict[Look, str] = {
    "search": "triggers that cover the whole image faintly (SIG, CTRL) or restyle it (DFST)",
    "triggers": "triggers that cover the whole image (SIG, CTRL, DFST, Narcissus), warps and all-to-all backdoors",
    "labels": "most attacks; BPP, WaNet, Input-Aware and LF stand out best, all-to-all backdoors not at all",
    "shift": "SIG, all-to-all backdoors, three of the five published files that it was tried on, and all of digits",
}
"""The attacks that each sign misses; ``benchmarks/results/cpu_detection_verdicts.md`` has the figures."""


NOTHING = "No evidence of a backdoor (no proof that there is none)"
"""The headline where no sign says anything."""


@dataclass(frozen=True)
class Sign:
    """What one look at the model says.

    Attributes:
      look: what was looked at.
      strength: ``strong`` or ``weak`` if it speaks for a backdoor, ``none`` if it says nothing, ``clears`` if hardly
        any known backdoored model looks like this.
      labels: the labels that it names, the clearest first; ``NEXT`` for an all-to-all backdoor.
      evidence: the finding in a few words, which can follow a colon.
      sentence: the finding, and the rule or the calibration that it was held against.
      own: whether the model itself took part in that calibration.
    """

    look: Look
    strength: Strength
    labels: tuple[int, ...]
    evidence: str
    sentence: str
    own: bool = False


@dataclass(frozen=True)
class GradedVerdict:
    """The grade of a model, and what it rests on.

    Attributes:
      grade: how likely a backdoor is.
      label: the suspected label; None where no sign names one, or where every class leads to the next one.
      headline: the grade, the label and the evidence in a line.
      sentences: what every sign says.
      signs: the signs, the deciding ones first.
    """

    grade: Grade
    label: int | None
    headline: str
    sentences: tuple[str, ...]
    signs: tuple[Sign, ...]


_GRADES: dict[Strength, Grade] = {
    "strong": "likely backdoored",
    "weak": "suspicious",
    "clears": "likely clean",
    "none": "no evidence",
}
"""By the strongest sign of a model, in the order of weight."""


def grade_signs(signs: Sequence[Sign], class_names: Sequence[str]) -> GradedVerdict:
    """The verdict that signs add up to.

    Args:
      signs: one or more.
      class_names: a name for each label.
    """
    weight, order = list(_GRADES), list(TITLES)
    ranked = sorted(signs, key=lambda each: (weight.index(each.strength), order.index(each.look)))
    first = ranked[0].strength
    deciding = [each for each in ranked if each.strength == first]
    votes = Counter(label for each in deciding for label in each.labels[:1])
    suspected = max(votes, key=lambda label: votes[label]) if votes and first in ("strong", "weak") else None
    return GradedVerdict(
        _GRADES[first],
        None if suspected == NEXT else suspected,
        _write_headline(_GRADES[first], suspected, deciding, class_names),
        tuple(each.sentence for each in ranked),
        tuple(ranked),
    )


def _write_headline(grade: Grade, suspected: int | None, deciding: list[Sign], class_names: Sequence[str]) -> str:
    if grade == "no evidence":
        return NOTHING
    where = "" if suspected is None else f", {name_suspect(suspected, class_names)}"
    first = next(each for each in deciding if suspected is None or suspected in each.labels)
    return f"{grade.capitalize()}{where}: {first.evidence}{' (in-sample)' * first.own}"


def name_suspect(label: int, class_names: Sequence[str]) -> str:
    """A suspected label in words, with its name where that says more."""
    if label == NEXT:
        return "every class to the next one (all-to-all)"
    name = str(class_names[label])
    return f"label {label}" + (f" ({name})" if name != str(label) else "")
