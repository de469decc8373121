"""How well evidence ranks outcomes: each form held against the true figures, and the findings that mislead."""

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
from scipy.stats import rankdata

from benchmarks.outcomes import Outcome
from rnp_jax.report.comparison_text import markdown_table
from rnp_jax.report.schema import Evidence, SearchedLabel

COMFORT, ALARM = 0.2, 0.05
"""True ASR above which "none found" is a false comfort, and below which "still there" is a false alarm."""

TOOK = 0.5
"""ASR before a defense from which the true trigger works, so that what is left of it can be held against a finding."""

LEVELS = ("none found", "traces", "still there")
UNSEEN = "none found, none before"
"""Where no label stood out before the defense either: the searches had nothing to lose sight of, and say so."""


class Row(Outcome):
    """A defended network with what the searches found in it, in so many CPU seconds; None where that is not known."""

    seconds: float | None = None
    evidence: Evidence


def _by_size(*names: str) -> Callable[[Evidence], float]:
    """How far the smallest size of a suspected label lies below an ordinary one's before the defense."""

    def score(evidence: Evidence) -> float:
        found = [getattr(each, name) for each in evidence.labels if each.suspected for name in names]
        sizes = [size for size in found if size is not None]
        return 0.0 if not sizes else (evidence.ordinary_before or np.inf) / max(min(sizes), 1e-6)

    return score


def _relative(evidence: Evidence) -> float:
    """The smaller size of a suspected label, held against an ordinary one's after the defense."""
    smallest, ordinary = evidence.smallest_after, evidence.ordinary_after
    return 0.0 if smallest is None else (ordinary or np.inf) / max(smallest, 1e-6)


def _by_success(name: str, *, beyond: bool = False) -> Callable[[Evidence], float]:
    """Success of a form at the worst suspected label; ``beyond`` that at the worst ordinary one."""

    def worst(labels: Iterable[SearchedLabel]) -> float:
        return max(getattr(each, f"{name}_after") or 0.0 for each in labels)

    def score(evidence: Evidence) -> float:
        suspects, controls = ([e for e in evidence.labels if e.suspected == kind] for kind in (True, False))
        return worst(suspects) - (worst(controls) if beyond else 0.0)

    return score


def _by_shift(evidence: Evidence) -> float:
    """How far the smallest feature shift of a suspected label lies below the median label's."""
    found = [each.shift_after for each in evidence.labels if each.suspected and each.shift_after is not None]
    return -min(found, default=np.inf)


FORMS: dict[str, Callable[[Evidence], float]] = {
    "size, from a random start": _by_size("size_after_cold"),
    "size, from the mask found before": _by_size("size_after_warm"),
    "size, the smaller of both": _by_size("size_after_cold", "size_after_warm"),
    "the same, over an ordinary label's after": _relative,
    "old trigger": _by_success("old_trigger"),
    "old trigger, right answers changed": _by_success("misled"),
    "perturbation": _by_success("perturbation"),
    "perturbation, beyond ordinary labels": _by_success("perturbation", beyond=True),
    "plain square": _by_success("patch"),
    "plain square, beyond ordinary labels": _by_success("patch", beyond=True),
    "warp": _by_success("warp"),
    "warp, beyond ordinary labels": _by_success("warp", beyond=True),
    "feature shift": _by_shift,
    "the finding": lambda evidence: float(LEVELS.index(evidence.level)),
}


def make_table(rows: list[Row], draws: int = 2000) -> str:
    """Spearman's ρ of every form, with the 95 % interval of a bootstrap over checkpoints."""
    known = [row for row in rows if row.ranked and row.asr[1] is not None]
    lines = []
    for name, score in FORMS.items():
        cells = [_rank(known, score, truth, draws) for truth in (lambda row: row.left, lambda row: 1 - row.ra[1])]
        lines.append((name, *cells))
    beds = len({row.bed for row in known})
    told = f"{len(known)} outcomes of {beds} checkpoints with a backdoor"
    return f"{told}\n\n{markdown_table(('evidence', 'ρ with ASR', 'ρ with 1 - RA'), lines)}"


def _rank(rows: list[Row], score: Callable[[Evidence], float], truth: Callable[[Row], float], draws: int) -> str:
    found = np.array([(score(row.evidence), truth(row)) for row in rows]).reshape(-1, 2)
    names = np.array([row.bed for row in rows])
    groups = [np.flatnonzero(names == name) for name in sorted(set(names))]
    rng = np.random.default_rng(0)
    drawn = [
        _spearman(found[np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])])
        for _ in range(draws)
    ]
    low, high = np.nanpercentile(drawn, (2.5, 97.5)) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return f"{_spearman(found):.2f} ({low:.2f} to {high:.2f})"


def _spearman(found: np.ndarray) -> float:
    """Not a number where either side does not vary."""
    varies = len(found) > 2 and (np.ptp(found, axis=0) > 0).all()
    return float(np.corrcoef(rankdata(found, axis=0), rowvar=False)[0, 1]) if varies else np.nan


def list_errors(rows: list[Row]) -> str:
    """The findings by true ASR, and the outcomes where a finding misleads, each with its reasons."""
    bands = {
        f"below {ALARM:.0%}": [row for row in rows if row.left < ALARM],
        "between": [row for row in rows if ALARM <= row.left <= COMFORT],
        f"above {COMFORT:.0%}": [row for row in rows if row.left > COMFORT],
    }
    heads = (UNSEEN, *LEVELS)
    counts = [(band, *(sum(say_level(row) == level for row in own) for level in heads)) for band, own in bands.items()]
    text = [markdown_table(("true ASR", *heads), [tuple(map(str, line)) for line in counts])]
    left, gone = ([row for row in rows if row.left > COMFORT], [row for row in rows if row.left < ALARM])
    for title, wrong, asked in (
        ("False comfort", [row for row in left if say_level(row) == "none found"], left),
        ("Nothing seen before or after", [row for row in left if say_level(row) == UNSEEN], left),
        ("False alarm", [row for row in gone if say_level(row) == "still there"], gone),
    ):
        text.append(f"\n{title}: {len(wrong)} of {len(asked)}.\n")
        text += [f"- {describe(row)}: {' '.join(row.evidence.reasons)}" for row in wrong]
    return "\n".join(text)


def say_level(row: Row) -> str:
    """The finding's level; apart from the others, nothing found where nothing stood out before either."""
    level = row.evidence.level
    return UNSEEN if level == "none found" and not row.evidence.visible else level


def took(row: Row) -> bool:
    """Whether the true trigger worked before the defense."""
    return row.asr[0] is not None and row.asr[0] >= TOOK


def count_by_ra(rows: list[Row]) -> str:
    """How often each level was found, by RA after: where the trigger leads elsewhere, ASR does not say what is left."""
    edges = (0.0, 0.2, 0.5, 0.9, 1.01)
    lines = []
    for low, high in pairwise(edges):
        own = [row for row in rows if row.ra[1] is not None and low <= row.ra[1] < high]
        counts = (sum(say_level(row) == level for row in own) for level in (UNSEEN, *LEVELS))
        lines.append((f"{low:.0%} to {min(high, 1):.0%}", *map(str, counts)))
    return markdown_table(("RA after", UNSEEN, *LEVELS), lines)


def describe(row: Row) -> str:
    """One line: the outcome, its true figures, and the labels that were suspected."""
    asr, ra = ("–" if each is None else f"{100 * each:.1f}" for each in (row.asr[1], row.ra[1]))
    seen = "" if row.evidence.visible else ", not visible before"
    suspects = ", ".join(str(each.label) for each in row.evidence.labels if each.suspected)
    return f"{row.bed} ({row.attack}), {row.method}, seed {row.seed}, ASR {asr}, RA {ra}, suspected {suspects}{seen}"
