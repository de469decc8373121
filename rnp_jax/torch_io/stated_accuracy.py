"""The accuracy that a checkpoint states of itself, beside its state dict."""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from rnp_jax.torch_io.checkpoint import Checkpoint, materialise
from rnp_jax.torch_io.nodes import Location, Node, TensorRef

_DEEPEST = 2  # dicts inside the root's that are searched

_SHARE = re.compile(
    r"(best|final|last|max)?(clean|nat|natural|val|valid|validation|test|eval)?"
    r"((acc|accuracy|prec|acctop|top(?=1))(1|at1)?)(clean|nat|natural|val|valid|validation|test|eval)?"
)
_TIMM = re.compile("(best)?metric")


class StatedAccuracy(NamedTuple):
    """What the file says, and under which key.

    Attributes:
      value: a share, from 0 to 1.
      key: the keys that lead to it, with slashes between.
    """

    value: float
    key: str


def find_stated_accuracy(checkpoint: Checkpoint, state_dict: Location) -> StatedAccuracy | None:
    """The accuracy that stands beside the state dict, as ``acc``, ``best_prec1``, ``clean_acc`` or ``metric``.

    Numbers and tensors of one number count, as a fraction or per cent. Where there are several, the accuracy of these
    very weights goes before a best one, and one with a plain name before ``metric``. Figures of a backdoor or of the
    training set (``bd_acc``, ``train_acc``) are not the accuracy.

    Args:
      checkpoint: the file.
      state_dict: where its state dict is, which is not searched.

    Raises:
      CheckpointError: the file is not what it was.
    """
    found = [
        (rank, location, node)
        for location, node in _walk_plain(checkpoint.tree, state_dict)
        if (rank := _rank(location[-1])) is not None
    ]
    for _, location, node in sorted(found, key=lambda each: (each[0], len(each[1]))):
        value = _read_share(checkpoint, node)
        if value is not None:
            return StatedAccuracy(value, "/".join(map(str, location)))
    return None


def _walk_plain(tree: Node, state_dict: Location) -> Iterator[tuple[Location, Any]]:
    """What dicts near the root hold, other than state dicts."""
    waiting: list[Location] = [()]
    dicts: dict[Location, Any] = {(): tree if isinstance(tree, dict) else {}}
    while waiting:
        location = waiting.pop(0)
        for key, node in dicts[location].items():
            place = (*location, key)
            if isinstance(node, dict):
                if place != state_dict and len(place) <= _DEEPEST and not _holds_weights(node):
                    dicts[place] = node
                    waiting.append(place)
            elif isinstance(key, str) and not (location == state_dict and isinstance(node, TensorRef)):
                yield place, node


def _holds_weights(node: dict[Any, Any]) -> bool:
    return any(isinstance(value, TensorRef) and math.prod(value.shape) > 1 for value in node.values())


def _rank(key: str) -> int | None:
    """How much a key's name promises, 0 most; None where it is not that of an accuracy."""
    letters = re.sub(r"[^a-z0-9]", "", key.lower())
    if _SHARE.fullmatch(letters):
        return 1 if letters.startswith(("best", "max")) else 0
    return 2 if _TIMM.fullmatch(letters) else None


def _read_share(checkpoint: Checkpoint, node: Any) -> float | None:
    """A number as a share: up to 1 it is a fraction, above that per cent. None where it cannot be either."""
    number: Any = node
    if isinstance(node, TensorRef) and math.prod(node.shape) == 1:
        values = materialise(checkpoint, node)
        number = None if values.dtype.kind in "bc" else float(values.astype(np.float64).item())
    if type(number) not in (int, float) or not 0 < number <= 100:
        return None
    return float(number) if number <= 1 else number / 100
