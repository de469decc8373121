"""The attempts by name, in the order in which they are tried. A new one is a line here and a file of its own."""

from collections.abc import Mapping
from types import MappingProxyType

from rnp_jax.checks import find_named
from rnp_jax.reactivation.bba import bba
from rnp_jax.reactivation.bec import bec
from rnp_jax.reactivation.lmc import lmc
from rnp_jax.reactivation.qra import qra
from rnp_jax.reactivation.ra import ra
from rnp_jax.reactivation.record import Reactivation
from rnp_jax.reactivation.ta import ta
from rnp_jax.reactivation.wba import wba

_RECORDS = (ra, lmc, wba, bec, qra, bba, ta)

REACTIVATIONS: Mapping[str, Reactivation] = MappingProxyType({each.name: each for each in _RECORDS})


def find_reactivation(name: str) -> Reactivation:
    """The attempt of this name.

    Raises:
      ConfigError: there is none.
    """
    return find_named("--by", "attempt", REACTIVATIONS, name)
