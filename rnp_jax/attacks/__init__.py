"""Benchmark attacks: triggers, poisoned training sets and triggered test sets."""

from rnp_jax.attacks.a_blend import ABlend
from rnp_jax.attacks.adap_patch import AdapPatch
from rnp_jax.attacks.artefact import load_artefact, save_artefact
from rnp_jax.attacks.awp import Awp
from rnp_jax.attacks.badnets import BadNets
from rnp_jax.attacks.base import Attack, ImageShape, Params
from rnp_jax.attacks.blend import Blend
from rnp_jax.attacks.bpp import Bpp
from rnp_jax.attacks.cl import LabelConsistent
from rnp_jax.attacks.ctrl import Ctrl
from rnp_jax.attacks.dfst import Dfst
from rnp_jax.attacks.fc import FeatureCollision
from rnp_jax.attacks.goal import Goal, LabelMapping
from rnp_jax.attacks.grond import Grond
from rnp_jax.attacks.input_aware import InputAware
from rnp_jax.attacks.lf import LowFrequency
from rnp_jax.attacks.lira import Lira
from rnp_jax.attacks.means import Means
from rnp_jax.attacks.narcissus import Narcissus
from rnp_jax.attacks.poison import (
    PoisonPlan,
    TriggeredSet,
    apply_attack,
    draw_plan,
    poison_batch,
    poison_training_set,
    trigger_test_set,
)
from rnp_jax.attacks.registry import ATTACKS, describe, from_description, get_attack
from rnp_jax.attacks.sig import Sig, SigRnp
from rnp_jax.attacks.ssba import Ssba
from rnp_jax.attacks.stamp import Stamp
from rnp_jax.attacks.trojan import Trojan
from rnp_jax.attacks.wanet import WaNet

__all__ = [
    "ATTACKS",
    "ABlend",
    "AdapPatch",
    "Attack",
    "Awp",
    "BadNets",
    "Blend",
    "Bpp",
    "Ctrl",
    "Dfst",
    "FeatureCollision",
    "Goal",
    "Grond",
    "ImageShape",
    "InputAware",
    "LabelConsistent",
    "LabelMapping",
    "Lira",
    "LowFrequency",
    "Means",
    "Narcissus",
    "Params",
    "PoisonPlan",
    "Sig",
    "SigRnp",
    "Ssba",
    "Stamp",
    "TriggeredSet",
    "Trojan",
    "WaNet",
    "apply_attack",
    "describe",
    "draw_plan",
    "from_description",
    "get_attack",
    "load_artefact",
    "poison_batch",
    "poison_training_set",
    "save_artefact",
    "trigger_test_set",
]
