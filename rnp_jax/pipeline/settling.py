"""Settle by evidence what a file leaves open: each candidate is tried on clean images, and the best is taken.

A candidate is a choice of options, such as an architecture or a normalisation, that the file's tensors allow equally
well. The right one classifies far more images correctly than the others. Where the best is not ahead of the others by
more than noise, or none is better than guessing, nothing is taken: an error gives all figures and asks for the options.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Int

from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.metrics import Proportion, known_share

Candidate: TypeAlias = tuple[tuple[str, str], ...]
"""Options by name with their values: ``(("architecture", "resnet18"), ("normalization", "imagenet"))``."""

IMAGES = 500
"""Clean images that are enough to tell candidates apart; more take longer and tell little more."""

_STANDARD_ERRORS = 3.0
"""So far must the best be ahead of each other candidate, on the images that only one of the two classifies rightly."""

_SHOWN = 12


class Settled(NamedTuple):
    """What was chosen, and on what evidence.

    Attributes:
      choice: the candidate that is taken.
      tried: accuracy of every candidate, the best first.
      images: how many clean images it was measured on.
    """

    choice: Candidate
    tried: tuple[tuple[Candidate, Proportion], ...]
    images: int

    @property
    def sentence(self) -> str:
        """What was done, for the console and the result."""
        (_, best), *others = self.tried
        next_best = f"; the next best, {_tell(others[0][0])}, has {others[0][1].value:.1%}" if others else ""
        return (
            f"The file does not say {_name_options([self.choice])}: {_tell(self.choice)} is the best of "
            f"{len(self.tried)} candidates, with {best.value:.1%} of {self.images:,} clean images{next_best}."
        )


def settle(
    candidates: Sequence[Candidate],
    labels: Int[np.ndarray, "N"],
    classify: Callable[[Candidate], Int[np.ndarray, "N"]],
    path: str,
) -> Settled:
    """The candidate that classifies the clean images best, if that is beyond noise.

    Args:
      candidates: two or more.
      labels: of the clean images.
      classify: the labels that a candidate predicts for them.
      path: of the file, for the error.

    Raises:
      ConfigError: the best is no better than guessing, or not ahead of the others beyond noise.
    """
    hits = {candidate: np.asarray(classify(candidate)) == labels for candidate in candidates}
    order = sorted(candidates, key=lambda candidate: -int(hits[candidate].sum()))  # of equal ones the first stays first
    tried = tuple((candidate, known_share(hits[candidate])) for candidate in order)
    best, *others = order
    guessing = float(np.unique(labels, return_counts=True)[1].max() / len(labels))
    fault, advice = None, ""
    if tried[0][1].low <= guessing:
        fault = f"none of them is better than guessing ({guessing:.1%})"
    elif ties := [other for other in others if not is_ahead(hits[best], hits[other])]:
        fault = f"{_tell(best)} is not ahead of {_tell(ties[0])} by more than chance"
        if all(name == "normalization" for candidate in (best, *ties) for name, _ in candidate):
            advice = "; if you do not know it, take the first, which is as good as any on these images"
    if fault is not None:
        raise ConfigError(_ask(path, fault, tried, len(labels), advice))
    return Settled(best, tried, len(labels))


def is_ahead(best: Bool[np.ndarray, "N"], other: Bool[np.ndarray, "N"]) -> bool:
    """McNemar's test: only images count that one of the two classifies rightly and the other does not."""
    won, lost = int((best & ~other).sum()), int((other & ~best).sum())
    return won - lost > _STANDARD_ERRORS * (won + lost) ** 0.5


def _ask(path: str, fault: str, tried: Sequence[tuple[Candidate, Proportion]], images: int, advice: str = "") -> str:
    lines = [
        f"  {_tell(candidate)}: {acc.value:.1%} ({acc.low:.1%} to {acc.high:.1%})" for candidate, acc in tried[:_SHOWN]
    ]
    more = [f"  and {len(tried) - _SHOWN} more"] if len(tried) > _SHOWN else []
    options = _name_options([candidate for candidate, _ in tried])
    told = (
        f"{path} does not say {options}, and {images:,} clean images do not settle it: {fault}. Give {options}"
        f"{advice}. The accuracy of each candidate on these images, with its 95 % interval:"
    )
    return "\n".join([told, *lines, *more])


def _tell(candidate: Candidate) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in candidate)


def _name_options(candidates: Sequence[Candidate]) -> str:
    names = dict.fromkeys(name for candidate in candidates for name, _ in candidate)
    return " and ".join(f"--{name.replace('_', '-')}" for name in names)
