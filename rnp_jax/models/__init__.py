"""Networks with explicit masks; the only importer of flax.linen."""

from rnp_jax.models.layers import Placement, Precision
from rnp_jax.models.network import Network, count_parameters, for_prediction, for_search, mlp_head
from rnp_jax.models.precision import Arithmetic, Asked, choose_arithmetic
from rnp_jax.models.registry import ARCHITECTURES, Architecture

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Arithmetic",
    "Asked",
    "Network",
    "Placement",
    "Precision",
    "choose_arithmetic",
    "count_parameters",
    "for_prediction",
    "for_search",
    "mlp_head",
]
