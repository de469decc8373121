"""Evidence without the trigger over a sweep: what its searches found, by method and by item."""

from collections.abc import Iterable, Sequence

from rnp_jax.defenses import registry
from rnp_jax.report.comparison_text import name_method
from rnp_jax.report.evidence import NEVER
from rnp_jax.report.html import Markup, element, table
from rnp_jax.report.sections import section
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.report.wording import number

TITLE = "Evidence without the trigger"
UNSEEN = "not visible before"
LEVELS = ("still there", "traces", "none found", UNSEEN)
WORDS = (
    "New searches looked for small triggers, perturbations, warps and feature shifts before and after each defense. "
    "None found: a label stood out before, and nothing is left of it. "
    f"{UNSEEN.capitalize()}: no label stood out, and none does after, which says little. "
    "Sizes of triggers are pixels after the defense: of the smallest one that reaches a suspected label, and of an "
    "ordinary label's."
)


def find_searched(rows: Iterable[SweepRow]) -> list[SweepRow]:
    """The rows with evidence."""
    return [row for row in rows if row.evidence is not None]


def say_level(row: SweepRow) -> str:
    """The row's level; apart from the others, nothing found where nothing was visible before either."""
    return UNSEEN if row.evidence == "none found" and not row.visible_before else str(row.evidence)


def say_size(pixels: float | None) -> str:
    """The size of a trigger in a row with evidence."""
    return number(pixels, none=NEVER)


def count_levels(rows: Iterable[SweepRow]) -> list[list[str]]:
    """By method, the items of each of `LEVELS`."""
    found: dict[str, list[str]] = {}
    for row in sorted(find_searched(rows), key=lambda row: (row.mode == "head", registry.order(row.method))):
        found.setdefault(name_method(dict(row)), []).append(say_level(row))
    return [[name, *(f"{levels.count(level):,}" for level in LEVELS)] for name, levels in found.items()]


def list_items(rows: Iterable[SweepRow]) -> list[list[str]]:
    """Checkpoint, method, level and both sizes of every row with evidence."""
    return [
        [
            row.checkpoint,
            name_method(dict(row)),
            say_level(row),
            *map(say_size, (row.smallest_after, row.ordinary_after)),
        ]
        for row in find_searched(rows)
    ]


def show_evidence(rows: Sequence[SweepRow]) -> Markup | None:
    """The counts by method, with what the levels and sizes mean; None where nothing was searched."""
    lines = count_levels(rows)
    if not lines:
        return None
    heads = ["Method", *(level.capitalize() for level in LEVELS)]
    return section(TITLE, element("p", WORDS, class_="quiet"), table(heads, lines, class_="points"))
