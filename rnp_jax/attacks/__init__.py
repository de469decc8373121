"""Benchmark attacks: triggers, poisoned training sets and triggered test sets."""

from rnp_jax.attacks.artefact import load_artefact, save_artefact
from rnp_jax.attacks.badnets import BadNets
from rnp_jax.attacks.base import Attack, ImageShape, Params
from rnp_jax.attacks.blend import Blend
from rnp_jax.attacks.goal import Goal, LabelMapping
from rnp_jax.attacks.means import Means
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
from rnp_jax.attacks.wanet import WaNet

__all__ = [
    "ATTACKS",
    "Attack",
    "BadNets",
    "Blend",
    "Goal",
    "ImageShape",
    "LabelMapping",
    "Means",
    "Params",
    "PoisonPlan",
    "Sig",
    "SigRnp",
    "TriggeredSet",
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
