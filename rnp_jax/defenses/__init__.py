"""Defenses: pure functions of a network, its variables and clean images."""

from rnp_jax.defenses.anp import AnpConfig, anp
from rnp_jax.defenses.clp import ClpConfig, clp
from rnp_jax.defenses.distil import DistilConfig, distil
from rnp_jax.defenses.fine_pruning import FinePruningConfig, fine_pruning
from rnp_jax.defenses.finetune import FinetuneConfig
from rnp_jax.defenses.ft import FtConfig, ft
from rnp_jax.defenses.ft_sam import FtSamConfig, ft_sam
from rnp_jax.defenses.hid import HidConfig, hid
from rnp_jax.defenses.holder import HolderPruneConfig, holder
from rnp_jax.defenses.ibau import IbauConfig, ibau
from rnp_jax.defenses.method import Chooses, Method, Pairs, Task
from rnp_jax.defenses.nad import NadConfig, nad
from rnp_jax.defenses.nc import NcConfig, nc
from rnp_jax.defenses.prune import PruneConfig
from rnp_jax.defenses.recover import RecoverConfig, Recovered, recover
from rnp_jax.defenses.registry import METHODS, find_method
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig, rnp
from rnp_jax.defenses.sensitivity import HolderConfig, holder_scores, pair_scores
from rnp_jax.defenses.thresholds import ThresholdConfig
from rnp_jax.defenses.unlearn import UnlearnConfig, Unlearned, unlearn

__all__ = [
    "METHODS",
    "AnpConfig",
    "Chooses",
    "ClpConfig",
    "Defended",
    "DistilConfig",
    "FinePruningConfig",
    "FinetuneConfig",
    "FtConfig",
    "FtSamConfig",
    "HidConfig",
    "HolderConfig",
    "HolderPruneConfig",
    "IbauConfig",
    "Method",
    "NadConfig",
    "NcConfig",
    "Pairs",
    "PruneConfig",
    "RecoverConfig",
    "Recovered",
    "RnpConfig",
    "Task",
    "ThresholdConfig",
    "UnlearnConfig",
    "Unlearned",
    "anp",
    "clp",
    "distil",
    "find_method",
    "fine_pruning",
    "ft",
    "ft_sam",
    "hid",
    "holder",
    "holder_scores",
    "ibau",
    "nad",
    "nc",
    "pair_scores",
    "recover",
    "rnp",
    "unlearn",
]
