"""Networks with explicit masks; the only importer of flax.linen."""

from rnp_jax.models.layers import Placement, Precision
from rnp_jax.models.network import Network, count_parameters, mlp_head
from rnp_jax.models.registry import ARCHITECTURES, Architecture

__all__ = ["ARCHITECTURES", "Architecture", "Network", "Placement", "Precision", "count_parameters", "mlp_head"]
