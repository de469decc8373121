"""Attacks by name, and their constants as JSON for a checkpoint's card."""

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from rnp_jax.attacks.a_blend import ABlend
from rnp_jax.attacks.adap_patch import AdapPatch
from rnp_jax.attacks.awp import Awp
from rnp_jax.attacks.badnets import BadNets
from rnp_jax.attacks.base import Attack
from rnp_jax.attacks.blend import Blend
from rnp_jax.attacks.bpp import Bpp
from rnp_jax.attacks.cl import LabelConsistent
from rnp_jax.attacks.ctrl import Ctrl
from rnp_jax.attacks.dfst import Dfst
from rnp_jax.attacks.fc import FeatureCollision
from rnp_jax.attacks.grond import Grond
from rnp_jax.attacks.input_aware import InputAware
from rnp_jax.attacks.lf import LowFrequency
from rnp_jax.attacks.lira import Lira
from rnp_jax.attacks.narcissus import Narcissus
from rnp_jax.attacks.sig import Sig, SigRnp
from rnp_jax.attacks.ssba import Ssba
from rnp_jax.attacks.stamp import Stamp
from rnp_jax.attacks.trojan import Trojan
from rnp_jax.attacks.wanet import WaNet
from rnp_jax.errors import ConfigError

ATTACKS: dict[str, type[Attack]] = {
    "a_blend": ABlend,
    "adap_patch": AdapPatch,
    "awp": Awp,
    "badnets": BadNets,
    "blend": Blend,
    "bpp": Bpp,
    "ctrl": Ctrl,
    "dfst": Dfst,
    "cl": LabelConsistent,
    "fc": FeatureCollision,
    "grond": Grond,
    "input_aware": InputAware,
    "lira": Lira,
    "narcissus": Narcissus,
    "lf": LowFrequency,
    "sig": Sig,
    "sig_rnp": SigRnp,
    "ssba": Ssba,
    "stamp": Stamp,
    "trojan": Trojan,
    "wanet": WaNet,
}


def get_attack(name: str) -> type[Attack]:
    """The attack's class.

    Raises:
      ConfigError: no attack of that name; the nearest name is suggested.
    """
    if isinstance(name, str) and name in ATTACKS:
        return ATTACKS[name]
    near = get_close_matches(str(name).lower(), ATTACKS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(ATTACKS)}"
    raise ConfigError(f"attack {name!r} is unknown; {hint}")


def describe(attack: Attack) -> dict[str, Any]:
    """``{'name', 'constants'}`` in JSON types, every constant written out.

    Raises:
      ConfigError: the attack is not registered.
    """
    for name, kind in ATTACKS.items():
        if type(attack) is kind:
            return {"name": name, "constants": {f.name: getattr(attack, f.name) for f in dataclasses.fields(kind)}}
    raise ConfigError(f"{type(attack).__name__} is no registered attack; use one of {', '.join(ATTACKS)}")


def from_description(description: Mapping[str, Any]) -> Attack:
    """The attack that ``describe`` wrote down. Every constant must be there: none is left to a default that may move.

    Raises:
      ConfigError: an unknown name, a missing or unknown constant (listed by − and +), or an impossible value.
    """
    if not isinstance(description, Mapping) or not {"name", "constants"} <= description.keys():
        raise ConfigError("an attack's description needs 'name' and 'constants'; write it with describe(attack)")
    kind, constants = get_attack(description["name"]), description["constants"]
    if not isinstance(constants, Mapping):
        raise ConfigError(f"constants is {constants!r}, expected a mapping from name to value")
    expected = {f.name for f in dataclasses.fields(kind)}
    difference = [f"- {name}" for name in sorted(expected - constants.keys())]
    difference += [f"+ {name}" for name in sorted(constants.keys() - expected)]
    if difference:
        raise ConfigError(
            f"constants of {description['name']} do not match (- missing, + unknown):\n" + "\n".join(difference)
        )
    return kind(**constants)
