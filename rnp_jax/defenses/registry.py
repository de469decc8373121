"""The defenses by name, in the order of a table's rows. A new one is a line here and a file of its own."""

from collections.abc import Mapping
from types import MappingProxyType

from rnp_jax.checks import find_named
from rnp_jax.defenses.abl import abl
from rnp_jax.defenses.anp import anp
from rnp_jax.defenses.auto import auto
from rnp_jax.defenses.cbd import cbd
from rnp_jax.defenses.clp import clp
from rnp_jax.defenses.controls import none, oracle, random
from rnp_jax.defenses.dbd import dbd
from rnp_jax.defenses.dbr import dbr
from rnp_jax.defenses.dst import dst
from rnp_jax.defenses.ep import ep
from rnp_jax.defenses.fine_pruning import fine_pruning
from rnp_jax.defenses.fmp import fmp
from rnp_jax.defenses.fst import fst
from rnp_jax.defenses.ft import ft
from rnp_jax.defenses.ft_sam import ft_sam
from rnp_jax.defenses.hid import hid
from rnp_jax.defenses.holder import holder
from rnp_jax.defenses.ibau import ibau
from rnp_jax.defenses.mcr import mcr
from rnp_jax.defenses.method import Method
from rnp_jax.defenses.nad import nad
from rnp_jax.defenses.nc import nc
from rnp_jax.defenses.nft import nft
from rnp_jax.defenses.npd import npd
from rnp_jax.defenses.pam import pam
from rnp_jax.defenses.rnp import rnp
from rnp_jax.defenses.sau import sau
from rnp_jax.defenses.tsbd import tsbd
from rnp_jax.defenses.ulrl import ulrl
from rnp_jax.defenses.unit import unit

_RECORDS = (
    none,
    holder,
    hid,
    abl,
    cbd,
    dbr,
    ep,
    dst,
    dbd,
    clp,
    anp,
    fine_pruning,
    ft,
    nad,
    ft_sam,
    ibau,
    nc,
    fst,
    nft,
    ulrl,
    tsbd,
    sau,
    fmp,
    mcr,
    npd,
    pam,
    unit,
    rnp,
    auto,
    random,
    oracle,
)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _RECORDS})


def find_method(name: str) -> Method:
    """The method of this name.

    Raises:
      ConfigError: there is none.
    """
    return find_named("--method", "method", METHODS, name)


def title(name: str) -> str:
    """What a reader calls the method; an unknown one keeps its name."""
    return METHODS[name].title if name in METHODS else name


def basis(name: str) -> str:
    """What its masks or scores are; empty where that is not known."""
    return METHODS[name].basis if name in METHODS else ""


def sees_trigger(name: str) -> bool:
    """Whether the method works with the attacker's trigger, which no defender has."""
    return name in METHODS and METHODS[name].needs == "trigger"


def order(name: str) -> tuple[int, str]:
    """Sort key of rows: the methods in their order, unknown ones by name, then the controls that prune."""
    known = list(METHODS)
    if name not in METHODS:
        return len(known), name
    last = METHODS[name].control and METHODS[name].changes != "nothing"
    return known.index(name) + (len(known) + 1) * last, ""
