"""Data sets by name or path, normalisations, defense sets, augmentation."""

from rnp_jax.data.augment import Augmentation
from rnp_jax.data.contents import digest_data, digest_files
from rnp_jax.data.dataset import Dataset, validate
from rnp_jax.data.loading import BUILT_IN, load
from rnp_jax.data.normalization import NORMALIZATIONS, Normalization, parse_normalization
from rnp_jax.data.sampling import check_overlap, holdout_split, sample_defense_set
from rnp_jax.data.splits import Split

__all__ = [
    "BUILT_IN",
    "NORMALIZATIONS",
    "Augmentation",
    "Dataset",
    "Normalization",
    "Split",
    "check_overlap",
    "digest_data",
    "digest_files",
    "holdout_split",
    "load",
    "parse_normalization",
    "sample_defense_set",
    "validate",
]
