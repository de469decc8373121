"""Sections of a report on what no single figure shows: evidence without the trigger, and accuracy by class."""

from rnp_jax.defenses.registry import METHODS
from rnp_jax.report.html import Markup, element, join, table
from rnp_jax.report.schema import Evidence, Result, SearchedLabel
from rnp_jax.report.sections import section
from rnp_jax.report.wording import change, number, percent

WORDS = {
    "still there": "A backdoor is still there.",
    "traces": "There are traces of a backdoor.",
    "none found": "No trigger of these forms was found.",
}
SEARCHES = (
    "For each of these labels, a search looked for the smallest patch that sends clean images to the label, before and "
    "after the defense. A backdoor makes this patch small. Plain squares were also tried at all places, and one smooth "
    "warp was searched that moves all pixels by one at most. The feature shift is the smallest change of the last "
    "layer's inputs that leads to the label, as a share of the median label's. The searches are new: the defense did "
    "not train on them. They detect small triggers and warps best and may miss a trigger that covers the whole image."
)
WEAK = "The method trained on triggers of this kind itself, so this is weaker evidence than for other methods."
NEVER = "not reached"
"""The size of a trigger where no search succeeded."""


def show_evidence(result: Result) -> Markup | None:
    """What new searches for triggers found before and after the defense, label by label."""
    evidence = result.evidence
    if evidence is None:
        return None
    head = ["Label", "Before, pixels", "After, new start", "After, from the old patch"]
    head += [
        "Old trigger works",
        "Old trigger misleads",
        "Perturbation works",
        "Plain square works",
        "Warp works",
        "Feature shift",
    ]
    inverts = result.method in METHODS and METHODS[result.method].inverts
    return section(
        "Evidence without the trigger",
        element("p", element("strong", WORDS[evidence.level]), " ", " ".join(evidence.reasons)),
        element("p", f"{SEARCHES} {WEAK}" if inverts else SEARCHES, class_="quiet"),
        table(head, [_row(each) for each in evidence.labels], class_="compared"),
        element("p", _ordinary(evidence), class_="quiet"),
    )


def _row(found: SearchedLabel) -> list[str | Markup]:
    kind = "suspected" if found.suspected else "for comparison"
    sizes = (found.size_before, found.size_after_cold, found.size_after_warm)
    shares = (
        f"{_share(before)} \N{RIGHTWARDS ARROW} {_share(after)}"
        for before, after in (
            (found.old_trigger_before, found.old_trigger_after),
            (found.misled_before, found.misled_after),
            (found.perturbation_before, found.perturbation_after),
            (found.patch_before, found.patch_after),
            (found.warp_before, found.warp_after),
            (found.shift_before, found.shift_after),
        )
    )
    return [join(_name(found.label, found.name), element("small", kind)), *(_size(size) for size in sizes), *shares]


def _share(share: float | None) -> str:
    return NEVER if share is None else f"{share:.0%}"


def _ordinary(evidence: Evidence) -> str:
    before, after = (
        NEVER if size is None else f"{_size(size)} pixels"
        for size in (evidence.ordinary_before, evidence.ordinary_after)
    )
    return f"Median over the labels for comparison: {before} before the defense, {after} after it."


def _size(pixels: float | None) -> str:
    return number(pixels, none=NEVER)


def show_classes(result: Result) -> Markup | None:
    """Accuracy on each class before and after."""
    if not result.classes:
        return None
    rows = [
        [_name(each.label, each.name), percent(each.before), percent(each.after), change(each.before, each.after)]
        for each in result.classes
    ]
    listed = table(["Class", "Before", "After", "Change, points"], rows, class_="points")
    return section("Accuracy by class", element("details", element("summary", f"Show {len(rows):,} classes"), listed))


def _name(label: int, name: str) -> str:
    return name if name == str(label) else f"{label} ({name})"
