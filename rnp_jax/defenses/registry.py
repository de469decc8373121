"""Defenses that return a network, by name. They share one signature, that of ``rnp``."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from rnp_jax.defenses.anp import anp
from rnp_jax.defenses.clp import clp
from rnp_jax.defenses.fine_pruning import fine_pruning
from rnp_jax.defenses.ft import ft
from rnp_jax.defenses.ft_sam import ft_sam
from rnp_jax.defenses.holder import holder
from rnp_jax.defenses.ibau import ibau
from rnp_jax.defenses.nad import nad
from rnp_jax.defenses.result import Pruned
from rnp_jax.defenses.rnp import rnp

DEFENSES: Mapping[str, Callable[..., Pruned]] = MappingProxyType(
    {
        "rnp": rnp,
        "holder": holder,
        "clp": clp,
        "anp": anp,
        "fp": fine_pruning,
        "ft": ft,
        "nad": nad,
        "ft_sam": ft_sam,
        "ibau": ibau,
    }
)
"""``(network, variables, data, key, config, *, holdout, augment, progress) -> Pruned``."""
