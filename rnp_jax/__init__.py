"""Find and remove backdoors in image classifiers: load, defend, save."""

from rnp_jax.checkpoints import Model, load_model, save_model
from rnp_jax.data import NORMALIZATIONS, Augmentation, Normalization, holdout_split, sample_defense_set
from rnp_jax.data import load as load_data
from rnp_jax.defenses import PruneConfig, Pruned, RecoverConfig, RnpConfig, UnlearnConfig, rnp
from rnp_jax.errors import (
    ArchitectureError,
    CheckpointError,
    ConfigError,
    DataError,
    DefenseError,
    ResultError,
    RnpError,
)
from rnp_jax.models import Architecture, Network

__all__ = [
    "NORMALIZATIONS",
    "Architecture",
    "ArchitectureError",
    "Augmentation",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DefenseError",
    "Model",
    "Network",
    "Normalization",
    "PruneConfig",
    "Pruned",
    "RecoverConfig",
    "ResultError",
    "RnpConfig",
    "RnpError",
    "UnlearnConfig",
    "holdout_split",
    "load_data",
    "load_model",
    "rnp",
    "sample_defense_set",
    "save_model",
]
