"""Models whose cards say whether they are clean or backdoored: all checked before anything is computed."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rnp_jax.card import ArchitectureCard, Card, read_card
from rnp_jax.detection.calibration import tell_shortage
from rnp_jax.errors import DataError, RnpError
from rnp_jax.torch_io import read_checkpoint

WORKS = 0.5
"""ASR below which a backdoor is no example of one."""


class Labelled(NamedTuple):
    """A checkpoint and its card."""

    path: str
    card: Card


def read_labelled(paths: Sequence[str], data: str | None = None) -> list[Labelled]:
    """The cards of checkpoints that a calibration can be made from.

    Args:
      paths: the checkpoints.
      data: data set in place of the one that the cards name.

    Raises:
      DataError: all that is wrong with them: no card, one that cannot be read, models of several architectures or data
        sets, a file that is given twice, or too few models of a kind.
    """
    if not paths:
        raise DataError("no checkpoints: give files that rnp-jax attack wrote, including clean ones")
    found, problems = [], []
    for path in paths:
        try:
            card = read_card(path, read_checkpoint(path).sha256)
        except RnpError as error:
            problems.append(str(error))
            continue
        if card is None:
            problems.append(f"{path}: no card beside it says whether it is backdoored; give one with a card")
        else:
            found.append(Labelled(str(path), card))
    problems += _find_misfits(found, data)
    weak = [each for each in found if is_weak(each.card)]
    clean = sum(each.card.attack is None for each in found)
    if (lacking := tell_shortage(clean, len(found) - clean - len(weak))) is not None:
        problems.append(lacking)
    if problems:
        raise DataError(
            "; ".join(problems) if len(problems) == 1 else "\n - ".join(["nothing was computed:", *problems])
        )
    return found


def _find_misfits(found: list[Labelled], data: str | None) -> Iterator[str]:
    """Files that are not of the first one's kind, or that were given before."""
    seen: dict[str, str] = {}
    for path, card in found:
        if card.sha256 in seen:
            yield f"{path}: the same file as {seen[card.sha256]}; give each model once"
        seen.setdefault(card.sha256, path)
        first = found[0].card
        if (card.architecture, data or card.data) != (first.architecture, data or first.data):
            mine, theirs = (f"{_name(each.architecture)}, on {data or each.data}" for each in (card, first))
            yield f"{path}: {mine}, but the first is {theirs}; calibrate each kind separately"


def _name(architecture: ArchitectureCard) -> str:
    width = f", width {architecture.width}" if architecture.width else ""
    return f"{architecture.name}{width}, {architecture.num_classes} classes"


def is_weak(card: Card) -> bool:
    """Whether a card tells of a backdoor that hardly works."""
    return card.attack is not None and (card.attack.weak is True or (card.asr is not None and card.asr < WORKS))
