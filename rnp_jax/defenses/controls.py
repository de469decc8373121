"""The two rows that every table of scores needs: no knowledge at all, and the attacker's own.

To compare scores, and not their thresholds, prune as many filters of each layer as another defense did:
``prune_by_score(network, variables, random_scores(…), count_pruned(other))``.
"""

import jax
import numpy as np
from jaxtyping import Array, Float

from rnp_jax import masks
from rnp_jax.defenses.activations import mean_activations, mean_changes
from rnp_jax.defenses.scores import scores_by_filter
from rnp_jax.errors import DefenseError
from rnp_jax.models import Network
from rnp_jax.types import Variables


def random_scores(network: Network, variables: Variables, key: jax.Array) -> dict[str, Float[np.ndarray, "F"]]:
    """Scores by layer with filter masks, uniform in (0, 1).

    Raises:
      DefenseError: the network has nothing to mask.
    """
    del network  # its masks say where they live
    like = masks.filters(variables["masks"])
    if not like:
        raise DefenseError("the network has no maskable layer: expected batch norm, convolutions or hidden units")
    total = sum(len(mask) for mask in like.values())
    return masks.unflatten(np.asarray(jax.random.uniform(key, (total,), minval=1e-6)), like)


def oracle_scores(
    network: Network,
    variables: Variables,
    clean: Array | np.ndarray,
    triggered: Array | np.ndarray,
) -> dict[str, Float[np.ndarray, "F"]]:
    """How much the trigger changes each filter's activation: knowledge that a defender does not have.

    The mean over images and positions of |a_k(triggered) − a_k(clean)|, behind the ReLU where a site has one, over the
    mean of |a_k(clean)| over images, positions and all channels of the layer: layers become comparable, and within a
    layer nothing changes.

    Args:
      network: the function of the variables.
      variables: the suspicious weights.
      clean: images [N, H, W, C].
      triggered: the same images with the trigger.

    Raises:
      DataError: no images, or not the same number of both.
    """
    sites = network.sites
    changes = mean_changes(network, variables, clean, triggered, sites)
    usual = {layer: row.mean() for layer, row in mean_activations(network, variables, clean, sites).items()}
    scores = {layer: row / usual[layer] if usual[layer] > 0 else row for layer, row in changes.items()}
    return scores_by_filter(network, variables, scores)
