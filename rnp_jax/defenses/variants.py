"""A choice among variants of a network, each further from the original, by the accuracy on held-out clean images."""

from collections.abc import Callable, Sequence

import numpy as np

from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Network
from rnp_jax.types import Batch, Variables


def choose_furthest(
    network: Network,
    original: Variables,
    variants: Sequence[Callable[[], Variables]],
    holdout: Batch | None,
    accuracy_budget: float,
    option: str,
) -> int | None:
    """The position of the last variant that costs at most the budget of the accuracy on held-out clean images.

    Variants are made and measured one at a time, from the last one on, until one is found.

    Args:
      network: the function of the variables.
      original: what the variants' accuracy is compared with.
      variants: each makes the variables of one variant; nearest to the original first.
      holdout: clean images that played no part in the variants.
      accuracy_budget: share of them that may be lost.
      option: the setting that fixes a variant, for the error.

    Returns:
      The position, or None where every variant costs more.

    Raises:
      ConfigError: nothing is held out.
    """
    if holdout is None or len(holdout.labels) == 0:
        raise ConfigError(f"no held-out images to choose {option} by: hold some out, or give {option}")
    labels = np.asarray(holdout.labels)

    def count_correct(variables: Variables) -> int:
        return int((predict(network, variables, holdout).labels[0] == labels).sum())

    allowed = count_correct(original) - accuracy_budget * len(labels)
    within = (i for i in reversed(range(len(variants))) if count_correct(variants[i]()) >= allowed)
    return next(within, None)
