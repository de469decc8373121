"""Searches that several stages of one run make alike: made once, and given to all of them."""

from functools import partial
from typing import Any

import jax
import numpy as np

from rnp_jax.defenses.method import Found, Keep
from rnp_jax.defenses.searches import search
from rnp_jax.inversion import find_warps, invert, scan_patches
from rnp_jax.pipeline.keeping import digest_arrays

_SEARCHES = (invert, search, scan_patches, find_warps)
_REPORTING = "progress"  # the one argument that says nothing of the value


def share_searches(keep: Keep) -> Keep:
    """A ``Keep`` that asks another one only for what nobody asked for before.

    Two searches are the same if their function, the network, the settings, the labels and all arrays are equal, keys
    among them. Whoever asks later gets the value of the first, to the bit, in no time. Other calls are passed on.
    """
    known: dict[Any, Any] = {}

    def share(stage: str, compute: "partial[Found]") -> tuple[Found, float]:
        if compute.func not in _SEARCHES:
            return keep(stage, compute)
        asked = _identify(compute)
        if asked in known:
            return known[asked], 0.0
        found, seconds = keep(stage, compute)
        known[asked] = found
        return found, seconds

    return share


def _identify(compute: partial) -> Any:
    """A call's function, arrays and settings, which a dict can look up."""
    given = (compute.args, {name: value for name, value in compute.keywords.items() if name != _REPORTING})
    leaves, form = jax.tree.flatten(given)
    settings = tuple(leaf for leaf in leaves if not isinstance(leaf, jax.Array | np.ndarray | np.generic))
    return compute.func, form, digest_arrays(given), settings
