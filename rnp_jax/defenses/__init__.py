"""Defenses: pure functions of a network, its variables and clean images."""

from rnp_jax.defenses.prune import PruneConfig
from rnp_jax.defenses.recover import RecoverConfig, Recovered, recover
from rnp_jax.defenses.result import Pruned
from rnp_jax.defenses.rnp import RnpConfig, rnp
from rnp_jax.defenses.unlearn import UnlearnConfig, Unlearned, unlearn

__all__ = [
    "PruneConfig",
    "Pruned",
    "RecoverConfig",
    "Recovered",
    "RnpConfig",
    "UnlearnConfig",
    "Unlearned",
    "recover",
    "rnp",
    "unlearn",
]
