"""What a choice of filters rests on, masks or scores, and which of the filters were pruned."""

from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import Bool, Float

from rnp_jax.defenses.result import Kind
from rnp_jax.errors import ResultError
from rnp_jax.report.schema import PrunedFilter

# Each layer has its own F, hence the underscore: jaxtyping does not hold them equal.
Values = Mapping[str, Float[np.ndarray, "_F"]]
Marks = Mapping[str, Bool[np.ndarray, "_F"]]

_ALLOWED = {"mask": "numbers in [0, 1]", "score": "numbers of 0 or more"}


def check_values(values: Values, kind: Kind) -> None:
    """Every layer has a vector of masks in [0, 1], or of scores from 0 to infinity; weights and bounds have neither.

    Raises:
      ResultError: it has not.
    """
    if kind not in _ALLOWED and values:
        raise ResultError(f"masks or scores of {len(values)} layers with kind '{kind}', which has none; pass none.")
    highest = 1 if kind == "mask" else np.inf
    for layer, value in values.items():
        if value.ndim != 1 or not value.size or not np.all((value >= 0) & (value <= highest)):
            raise ResultError(
                f"{kind} of layer {layer!r} has shape {value.shape} and must be a non-empty vector of "
                f"{_ALLOWED[kind]}; pass one value per filter, and say in the result's kind what they are."
            )


def mark_pruned(values: Values, pruned: Collection[PrunedFilter]) -> dict[str, Bool[np.ndarray, "_F"]]:
    """Which filters of each layer are pruned.

    Raises:
      ResultError: a pruned filter is in no layer of ``values``.
    """
    marks = {layer: np.zeros(value.shape, bool) for layer, value in values.items()}
    for item in pruned:
        if item.layer not in marks or item.index >= marks[item.layer].size:
            raise ResultError(
                f"pruned filter {item.index} of layer {item.layer!r} has no mask or score; "
                "name layers in pruned_filters as in those."
            )
        marks[item.layer][item.index] = True
    return marks
