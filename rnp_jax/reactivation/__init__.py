"""Attempts to bring back a backdoor that a defense is said to have removed.

Each attempt is a file with its settings, its ``run`` and its record, and a line in ``registry``. ``ruling`` says what
the attack's success after the attempt means, held against the same attempt on a clean network.
"""

from rnp_jax.reactivation.attempt import Attempt, Curve, Outcome
from rnp_jax.reactivation.problem import Party, Problem
from rnp_jax.reactivation.record import Reactivation
from rnp_jax.reactivation.registry import REACTIVATIONS, find_reactivation
from rnp_jax.reactivation.ruling import RECOVERED, Finding, rule_attempt, rule_trigger

__all__ = [
    "REACTIVATIONS",
    "RECOVERED",
    "Attempt",
    "Curve",
    "Finding",
    "Outcome",
    "Party",
    "Problem",
    "Reactivation",
    "find_reactivation",
    "rule_attempt",
    "rule_trigger",
]
