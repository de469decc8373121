"""The attempts by name, in the order in which they are tried. A new one is a line here and a file of its own."""

from collections.abc import Mapping
from types import MappingProxyType

from rnp_jax.errors import ConfigError
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
    if name not in REACTIVATIONS:
        raise ConfigError(f"--by {name}: there is no such attempt; choose among {', '.join(REACTIVATIONS)}")
    return REACTIVATIONS[name]
