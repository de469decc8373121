"""What the defenses share that tune all weights: where they start from, and what they return."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import jax
import numpy as np

from rnp_jax import masks
from rnp_jax.defenses.phase import Progress, check_finite
from rnp_jax.defenses.result import Candidates, Choice, Pruned
from rnp_jax.defenses.rnp import RnpConfig, rnp
from rnp_jax.defenses.unlearn import unlearn
from rnp_jax.errors import ConfigError
from rnp_jax.evaluation.metrics import Proportion, share
from rnp_jax.evaluation.predict import predict
from rnp_jax.models import Network
from rnp_jax.training.epoch import Augment
from rnp_jax.types import Batch, Variables

Start = Literal["original", "rnp", "unlearned"]
"""The network that is tuned: as it came, as RNP pruned it, or as RNP's first step left it, without the clean task."""

COSTLY = 0.05
"""Share of the held-out clean images whose loss becomes a warning."""


def check_rnp(used: bool, config: RnpConfig) -> None:
    """Settings of RNP are read, or left alone.

    Raises:
      ConfigError: they are neither.
    """
    if not used and config != RnpConfig():
        raise ConfigError("settings of RNP are given, but nothing starts from it: set start to rnp, or remove them")


def begin(
    start: Start,
    network: Network,
    variables: Variables,
    data: Batch,
    key: jax.Array,
    config: RnpConfig,
    *,
    holdout: Batch | None,
    augment: Augment | None,
    progress: Progress | None,
) -> Pruned:
    """The network to tune; see ``rnp`` for the arguments and what it raises."""
    if start == "rnp":
        return rnp(network, variables, data, key, config, holdout=holdout, augment=augment, progress=progress)
    begun = unpruned(network, variables)
    if start == "original":
        return begun
    started = time.perf_counter()
    found = unlearn(network, begun.variables, data, key, config.unlearn, augment=augment, progress=progress)
    timing = {"unlearn": time.perf_counter() - started}
    check_finite("unlearning", found.history)
    return replace(begun, variables=found.variables, history={"unlearn": found.history}, timing=timing)


def unpruned(network: Network, variables: Variables) -> Pruned:
    """The network as it came, of which nothing is pruned."""
    nothing = Candidates(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    choice = Choice(0, "No filter is pruned: all weights are tuned, with settings fixed beforehand.")
    return Pruned(masks.bake(variables, network.placement), {}, "weights", nothing, choice, {}, {}, ())


def conclude(
    network: Network,
    original: Variables,
    begun: Pruned,
    tuned: Variables,
    holdout: Batch | None,
    history: Mapping[str, dict[str, np.ndarray]],
    timing: Mapping[str, float],
) -> Pruned:
    """The tuned network, with the held-out accuracy before and after; what it cost too much becomes a warning."""
    before, after = (_accuracy(network, each, holdout) for each in (original, tuned))
    warnings = begun.warnings
    if before is not None and after is not None and before.count - after.count > COSTLY * before.total:
        warnings = (*warnings, f"Accuracy on held-out clean images fell from {before.value:.1%} to {after.value:.1%}.")
    return replace(
        begun,
        variables=tuned,
        choice=replace(begun.choice, before=before, after=after),
        history={**begun.history, **history},
        timing={**begun.timing, **timing},
        warnings=warnings,
    )


def _accuracy(network: Network, variables: Variables, data: Batch | None) -> Proportion | None:
    if data is None or len(data.labels) == 0:
        return None
    return share(predict(network, variables, data).labels[0] == np.asarray(data.labels))
