"""The weights that a network's filters consist of, by layer: read, and replaced."""

from collections.abc import Mapping

from jaxtyping import Array, Float

from rnp_jax import masks
from rnp_jax.defenses.site_maps import find
from rnp_jax.errors import DefenseError
from rnp_jax.models import Network
from rnp_jax.types import Tree, Variables


def filter_kernels(network: Network, variables: Variables) -> dict[str, Float[Array, "... F"]]:
    """The kernel of every convolution, or of every hidden layer in a network without convolutions, by the layer's name.

    Layers are in natural order of their names.

    Raises:
      DefenseError: the network has neither.
    """
    params = variables["params"]
    found = {name: find(params, name).get("kernel") for name, _ in masks.layers(variables["masks"])}
    kernels = {name: kernel for name, kernel in found.items() if kernel is not None and kernel.ndim == 4}
    if not kernels:
        hidden = {site.layer for site in network.sites}
        kernels = {name: kernel for name, kernel in found.items() if kernel is not None and name in hidden}
    if not kernels:
        raise DefenseError(
            f"{network.architecture.name} has no filters: expected a network with convolutions or hidden layers"
        )
    return kernels


def is_shortcut(layer: str) -> bool:
    """Whether a layer projects the input of a residual block, by the names that releases give such layers."""
    return not {"shortcut", "downsample"}.isdisjoint(layer.split("."))


def with_leaves(params: Tree, leaves: Mapping[str, Mapping[str, Array]], layer: str = "") -> Tree:
    """The parameters with some leaves of some layers replaced; ``layer`` is where ``params`` lie."""
    if layer in leaves:
        return {**params, **leaves[layer]}
    below = f"{layer}." if layer else ""
    return {
        name: with_leaves(node, leaves, below + name) if isinstance(node, dict) else node
        for name, node in params.items()
    }
