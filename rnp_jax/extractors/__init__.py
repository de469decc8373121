"""Frozen feature extractors, which turn each image into one feature vector."""

from rnp_jax.extractors.cache import CachedFeatures
from rnp_jax.extractors.checkpoint import from_checkpoint
from rnp_jax.extractors.extractor import Extractor, feature_set, from_function
from rnp_jax.extractors.folder import from_folder
from rnp_jax.extractors.opening import open_extractor

__all__ = [
    "CachedFeatures",
    "Extractor",
    "feature_set",
    "from_checkpoint",
    "from_folder",
    "from_function",
    "open_extractor",
]
