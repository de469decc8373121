"""Triggers recovered from a network and clean images: masks and patterns, patches, perturbations, warps, shifts."""

from rnp_jax.inversion.anomaly import anomaly_index, find_outliers
from rnp_jax.inversion.checks import NEXT
from rnp_jax.inversion.patches import PatchConfig, Patches, scan_patches
from rnp_jax.inversion.perturbations import PerturbationConfig, Perturbations, find_perturbations, perturb
from rnp_jax.inversion.shifts import ShiftConfig, Shifts, find_shifts
from rnp_jax.inversion.short_search import WARM, InversionConfig, Inverted, invert
from rnp_jax.inversion.stamps import Stamps, measure_effects, measure_stamps, stamp
from rnp_jax.inversion.warps import WarpConfig, Warps, find_warps, warp

__all__ = [
    "NEXT",
    "WARM",
    "InversionConfig",
    "Inverted",
    "PatchConfig",
    "Patches",
    "PerturbationConfig",
    "Perturbations",
    "ShiftConfig",
    "Shifts",
    "Stamps",
    "WarpConfig",
    "Warps",
    "anomaly_index",
    "find_outliers",
    "find_perturbations",
    "find_shifts",
    "find_warps",
    "invert",
    "measure_effects",
    "measure_stamps",
    "perturb",
    "scan_patches",
    "stamp",
    "warp",
]
