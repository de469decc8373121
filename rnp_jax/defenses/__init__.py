"""Defenses: pure functions of a network, its variables and clean images."""

from rnp_jax.defenses.abl import AblConfig, abl
from rnp_jax.defenses.anp import AnpConfig, anp
from rnp_jax.defenses.auto import AutoConfig, auto
from rnp_jax.defenses.cbd import CbdConfig, cbd
from rnp_jax.defenses.clp import ClpConfig, clp
from rnp_jax.defenses.dbd import DbdConfig, dbd
from rnp_jax.defenses.dbr import DbrConfig, dbr
from rnp_jax.defenses.distil import DistilConfig, distil
from rnp_jax.defenses.dst import DstConfig, dst
from rnp_jax.defenses.ep import EpConfig, ep
from rnp_jax.defenses.fine_pruning import FinePruningConfig, fine_pruning
from rnp_jax.defenses.finetune import FinetuneConfig
from rnp_jax.defenses.fmp import FmpConfig, fmp
from rnp_jax.defenses.fst import FstConfig, fst
from rnp_jax.defenses.ft import FtConfig, ft
from rnp_jax.defenses.ft_sam import FtSamConfig, ft_sam
from rnp_jax.defenses.hid import HidConfig, hid
from rnp_jax.defenses.holder import HolderPruneConfig, holder
from rnp_jax.defenses.ibau import IbauConfig, ibau
from rnp_jax.defenses.mcr import McrConfig, mcr
from rnp_jax.defenses.method import Chooses, Method, Pairs, Task
from rnp_jax.defenses.nad import NadConfig, nad
from rnp_jax.defenses.nc import NcConfig, nc
from rnp_jax.defenses.nft import NftConfig, nft
from rnp_jax.defenses.npd import NpdConfig, npd
from rnp_jax.defenses.pam import PamConfig, pam
from rnp_jax.defenses.prune import PruneConfig
from rnp_jax.defenses.recover import RecoverConfig, Recovered, recover
from rnp_jax.defenses.registry import METHODS, find_method
from rnp_jax.defenses.repair import RepairConfig
from rnp_jax.defenses.result import Defended
from rnp_jax.defenses.rnp import RnpConfig, rnp
from rnp_jax.defenses.sau import SauConfig, sau
from rnp_jax.defenses.sensitivity import HolderConfig, holder_scores, pair_scores
from rnp_jax.defenses.thresholds import ThresholdConfig
from rnp_jax.defenses.tsbd import TsbdConfig, tsbd
from rnp_jax.defenses.ulrl import UlrlConfig, ulrl
from rnp_jax.defenses.unit import UnitConfig, unit
from rnp_jax.defenses.unlearn import UnlearnConfig, Unlearned, unlearn

__all__ = [
    "METHODS",
    "AblConfig",
    "AnpConfig",
    "AutoConfig",
    "CbdConfig",
    "Chooses",
    "ClpConfig",
    "DbdConfig",
    "DbrConfig",
    "Defended",
    "DistilConfig",
    "DstConfig",
    "EpConfig",
    "FinePruningConfig",
    "FinetuneConfig",
    "FmpConfig",
    "FstConfig",
    "FtConfig",
    "FtSamConfig",
    "HidConfig",
    "HolderConfig",
    "HolderPruneConfig",
    "IbauConfig",
    "McrConfig",
    "Method",
    "NadConfig",
    "NcConfig",
    "NftConfig",
    "NpdConfig",
    "Pairs",
    "PamConfig",
    "PruneConfig",
    "RecoverConfig",
    "Recovered",
    "RepairConfig",
    "RnpConfig",
    "SauConfig",
    "Task",
    "ThresholdConfig",
    "TsbdConfig",
    "UlrlConfig",
    "UnitConfig",
    "UnlearnConfig",
    "Unlearned",
    "abl",
    "anp",
    "auto",
    "cbd",
    "clp",
    "dbd",
    "dbr",
    "distil",
    "dst",
    "ep",
    "find_method",
    "fine_pruning",
    "fmp",
    "fst",
    "ft",
    "ft_sam",
    "hid",
    "holder",
    "holder_scores",
    "ibau",
    "mcr",
    "nad",
    "nc",
    "nft",
    "npd",
    "pair_scores",
    "pam",
    "recover",
    "rnp",
    "sau",
    "tsbd",
    "ulrl",
    "unit",
    "unlearn",
]
