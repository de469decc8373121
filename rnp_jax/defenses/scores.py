"""From scores of channels and units to a pruned network."""

import time
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
from jaxtyping import Array, Float

from rnp_jax import masks
from rnp_jax.defenses.method import Chooses, Task
from rnp_jax.defenses.result import Candidates, Choice, Defended, choose_within, measure_cost, prune
from rnp_jax.defenses.thresholds import Selection, ThresholdConfig, checked, select, standardize
from rnp_jax.errors import DefenseError
from rnp_jax.evaluation.predict import predict_variants
from rnp_jax.models import Network
from rnp_jax.types import Batch, Variables

_RULES = {
    "number": "the {config.number} highest scores of each layer, as requested",
    "std": "every score more than {config.u:g} standard deviations above the mean of its layer",
    "mad": "every log score more than {config.u:g} robust standard deviations (1.4826 MAD) above its layer's median",
    "valley": "every score right of the deepest valley after the main mode in the density of its layer's log scores",
    "mixture": "every score in the upper of two normal components of its layer's log scores, if BIC prefers two",
}


def scores_by_filter(
    network: Network, variables: Variables, site_scores: Mapping[str, Float[Array | np.ndarray, "F"]]
) -> dict[str, np.ndarray]:
    """Scores [F] of the network's sites, moved to the layers where its filter masks live.

    That is the site's own layer, but in the placement ``conv_output``: a convolution has the highest score of the sites
    that normalise its output. A layer that no scored site depends on has scores of 0.

    Raises:
      DefenseError: scores of a layer that is no site, or of another length than it has filters.
    """
    if surplus := sorted(set(site_scores) - {site.layer for site in network.sites}):
        raise DefenseError(f"scores of layers {surplus}: expected sites of the network, {_names(network)}")
    found = {}
    for name, mask in masks.filters(variables["masks"]).items():
        fed = [site.layer for site in network.sites if name == site.layer or name in site.producers]
        rows = [np.asarray(site_scores[layer]) for layer in fed if layer in site_scores]
        if any(row.shape != mask.shape for row in rows):
            raise DefenseError(f"scores of shape {rows[0].shape} for layer {name}: expected {mask.shape}")
        found[name] = np.max(rows, axis=0) if rows else np.zeros(mask.shape, np.float32)
    return found


def prune_by_score(
    network: Network,
    variables: Variables,
    scores: masks.Filters,
    config: ThresholdConfig | Mapping[str, int],
    *,
    holdout: Batch | None = None,
) -> Defended:
    """Prunes the filters whose scores stand out.

    Candidates are the selected filters and then all others, each part by how far a filter lies above its own layer. The
    least suspicious filter of each layer is no candidate, so that no layer is lost.

    Args:
      network: the function of the variables.
      variables: the network to prune.
      scores: by layer with filter masks, 0 or more, high where a filter is suspected [F].
      config: a rule, or how many filters to prune by layer (see ``count_pruned``).
      holdout: clean images that played no part in the scores: the rule ``budget`` chooses by them, and what any other
        costs is measured on them.

    Raises:
      ConfigError: a number that a layer does not have, or nothing to choose by.
      DefenseError: scores that are not the network's, negative, infinite or not a number.
    """
    _check_layers(scores, masks.filters(variables["masks"]))
    started = time.perf_counter()
    if isinstance(config, ThresholdConfig) and config.rule == "budget":
        candidates, _, spared = _rank(scores, Selection({}, {}))
        order = "furthest above its layer first"
        choice = choose_within(network, variables, candidates, holdout, config.accuracy_budget, order)
    else:
        candidates, count, spared = _rank(scores, select(scores, config))
        choice = _measure(network, variables, candidates, Choice(rule=_describe(config), pruned=count), holdout)
    notes = [f"Layer {name} would have lost every filter, so its lowest score was kept." for name in spared]
    allowed = config.accuracy_budget if isinstance(config, ThresholdConfig) else 1.0
    before, after = choice.holdout_acc_before, choice.holdout_acc_after
    if before and after and before.value - after.value > allowed + 1e-9:
        notes.append(
            f"Pruning lowered accuracy on held-out images from {before.value:.1%} to {after.value:.1%}, "
            f"more than the budget of {allowed:.1%}: the scores select filters that the network needs."
        )
    if choice.pruned == 0:
        notes.append("Nothing was pruned: no filter met the rule.")
    return Defended(
        prune(variables, candidates, choice.pruned),
        scores,
        "score",
        candidates,
        choice,
        timing={"choose": time.perf_counter() - started},
        warnings=tuple(notes),
    )


def prune_by_site_scores(
    task: Task, score: Callable[[], Mapping[str, Float[Array | np.ndarray, "F"]]], config: ThresholdConfig
) -> Defended:
    """Prunes by scores [F] of the network's sites, which ``score`` computes; see ``prune_by_score``."""
    with task.stage("score"):
        scores = scores_by_filter(task.network, task.variables, score())
    return prune_by_score(task.network, task.variables, scores, config, holdout=task.holdout)


def chooses_by_score(config: ThresholdConfig) -> Chooses:
    """What a method with this rule decides about filters."""
    return Chooses(True, config.rule == "budget")


def count_pruned(pruned: Defended) -> dict[str, int]:
    """How many filters of each layer a defense pruned: what another needs to prune as many of each."""
    found = masks.filters(pruned.variables["masks"])
    return {name: int((np.asarray(mask) == 0).sum()) for name, mask in found.items()}


def _rank(scores: masks.Filters, selection: Selection) -> tuple[Candidates, int, list[str]]:
    """Candidates, how many of them are selected, and the layers that kept their last filter only by exception."""
    names = sorted(scores, key=masks.natural_key)
    rows = [checked(name, np.asarray(scores[name])) for name in names]
    picked = [
        np.isin(np.arange(len(row)), selection.selected.get(name, [])) for name, row in zip(names, rows, strict=True)
    ]
    spared = [name for name, pick in zip(names, picked, strict=True) if pick.all()]
    least = [np.arange(len(row)) == len(row) - 1 - row[::-1].argmin() for row in rows]
    distance = np.concatenate([standardize(row) for row in rows])
    values, chosen, last = np.concatenate(rows), np.concatenate(picked), np.concatenate(least)
    order = np.lexsort((-distance, ~chosen))
    order = order[~last[order]]
    candidates = Candidates(order, values[order], np.full(len(order), np.nan))
    return candidates, int(chosen[order].sum()), spared


def _measure(
    network: Network, variables: Variables, candidates: Candidates, choice: Choice, holdout: Batch | None
) -> Choice:
    """The choice with its cost on the held-out images, where there are any."""
    if holdout is None or len(holdout.labels) == 0:
        return choice
    like = masks.filters(variables["masks"])
    variants = [masks.keep(like, candidates.order[:count]) for count in (0, choice.pruned)]
    before, after = predict_variants(network, variables, variants, holdout).labels == np.asarray(holdout.labels)[None]
    return choice.model_copy(update=measure_cost(before, after))


def _describe(config: ThresholdConfig | Mapping[str, int]) -> str:
    if isinstance(config, ThresholdConfig):
        return _RULES[config.rule].format(config=config)
    return f"the highest scores of each layer, {sum(config.values())} filters in all, as requested"


def _check_layers(scores: masks.Filters, like: masks.Filters) -> None:
    if not like:
        raise DefenseError("the network has no maskable layer: pruning needs batch norm, convolutions or hidden units")
    found, expected = ({name: np.shape(cast(np.ndarray, row)) for name, row in rows.items()} for rows in (scores, like))
    if found != expected:
        surplus = sorted(f"{name} {shape}" for name, shape in found.items() - expected.items())
        lacking = sorted(f"{name} {shape}" for name, shape in expected.items() - found.items())
        raise DefenseError(f"scores do not fit the network's layers (+ unexpected, - missing): + {surplus} - {lacking}")


def _names(network: Network) -> str:
    return ", ".join(site.layer for site in network.sites)
