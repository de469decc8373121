"""Triggers recovered from a network and clean images: masks and patterns, plain patches, universal perturbations."""

from rnp_jax.inversion.anomaly import anomaly_index, find_outliers
from rnp_jax.inversion.patches import PatchConfig, Patches, scan_patches
from rnp_jax.inversion.perturbations import PerturbationConfig, Perturbations, find_perturbations, perturb
from rnp_jax.inversion.short_search import WARM, InversionConfig, Inverted, invert
from rnp_jax.inversion.stamps import Stamps, measure_stamps, stamp

__all__ = [
    "WARM",
    "InversionConfig",
    "Inverted",
    "PatchConfig",
    "Patches",
    "PerturbationConfig",
    "Perturbations",
    "Stamps",
    "anomaly_index",
    "find_outliers",
    "find_perturbations",
    "invert",
    "measure_stamps",
    "perturb",
    "scan_patches",
    "stamp",
]
