"""How a site's neurons depend on what is perturbed: as an affine map, through linear layers, or the whole network.

A site's source is the layer whose input is perturbed, or the network's normalised input itself.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from rnp_jax.defenses import probes
from rnp_jax.defenses.probes import Norm, Steps
from rnp_jax.errors import DefenseError
from rnp_jax.models import Network
from rnp_jax.models.chain import ACTIVATIONS, Activation, Site
from rnp_jax.models.convolution import Window, conv2d
from rnp_jax.models.network import of_normalized
from rnp_jax.types import Tree, Variables

Scope = Literal["feature", "local"]
Response = Literal["mean", "max"]

NETWORK_INPUT = ""
"""The source that is no layer's input: normalised images."""


@dataclass(frozen=True)
class SiteMap:
    """A site's pre-activations as a function of its source; arrays apart. Equal maps share compiled programs.

    Attributes:
      kind: ``affine`` in the source, ``layers`` (linear ones with ReLU between them), or ``network``.
      source: the layer whose input is perturbed, or ``NETWORK_INPUT``; not part of the map itself.
      activation: what alone reads them.
      response: of a channel, over its positions.
      window: of the convolution (affine).
      network: what is run, without normalisation (network).
      layer: the site's (network).
    """

    kind: Literal["affine", "layers", "network"]
    source: str = field(compare=False)
    activation: Activation | None
    response: Response
    window: Window | None = None
    network: Network | None = None
    layer: str = ""

    def z(self, arrays: Any, u: Float[Array, "B ..."]) -> Float[Array, "B ... F"]:
        """Pre-activations."""
        if self.network is not None:
            return self.network.activations(arrays, u)[self.layer]
        if self.kind == "layers":
            *before, (kernel, bias) = arrays
            for each in before:
                u = jax.nn.relu(_affine({"kernel": each[0], "offset": each[1]}, None, u))
            return _affine({"kernel": kernel, "offset": bias}, None, u)
        return _affine(arrays, self.window, u)

    def reduce(self, z: Float[Array, "B ... F"]) -> Float[Array, "B F"]:
        """One number a channel."""
        axes = tuple(range(1, z.ndim - 1))
        if self.response == "mean" or not axes:
            return z.mean(axes)
        # By index: the gradient of jnp.max compares z with its maximum, which a fused program may compute once more
        # and round otherwise.
        z = z.reshape(len(z), -1, z.shape[-1])
        return jnp.take_along_axis(z, z.argmax(1, keepdims=True), axis=1)[:, 0]

    def post(self, z: Float[Array, "B ... F"]) -> Float[Array, "B F"]:
        """What the site's neurons answer with."""
        return self.reduce(z if self.activation is None else ACTIVATIONS[self.activation](z))

    def respond(self, arrays: Any, u: Float[Array, "B ..."]) -> Float[Array, "B F"]:
        """What they answer to u."""
        return self.post(self.z(arrays, u))

    def probe_any(self, arrays: Any, u: Float[Array, "B ..."], steps: Steps, norm: Norm, chunk: int) -> jax.Array:
        """The estimate [B, F] that needs no special structure."""
        return probes.probe(
            lambda u: self.reduce(self.z(arrays, u)), lambda u: self.respond(arrays, u), u, steps, norm, chunk
        )


def plan(network: Network, variables: Variables, site: Site, scope: Scope, response: Response) -> tuple[SiteMap, Any]:
    """How to reach a site, and the arrays that it takes. Filter masks must be part of the weights."""
    params = variables["params"]
    first = network.segments[0].layers[0]
    is_mlp = network.architecture.name == "mlp"
    if is_mlp and scope == "feature" and site.layer != first:
        names = [each.layer for each in network.sites]
        chosen = [find(params, name) for name in names[: names.index(site.layer) + 1]]
        arrays: Any = [(layer["kernel"], layer["bias"]) for layer in chosen]
        return SiteMap("layers", first, site.activation, response), arrays
    if scope == "feature" and not is_mlp and not (site.producers == (first,) and site.direct):
        return SiteMap(
            "network", NETWORK_INPUT, site.activation, response, network=unnormalized(network), layer=site.layer
        ), variables
    arrays = _normalization(network, variables, site)
    if len(site.producers) != 1 or not site.direct:
        return SiteMap("affine", site.layer, site.activation, response), arrays
    (producer,) = site.producers
    layer = find(params, producer)
    arrays["kernel"] = layer["kernel"]
    if "bias" in layer:
        bias = layer["bias"] * arrays["factor"] if "factor" in arrays else layer["bias"]
        arrays["offset"] = arrays["offset"] + bias
    window = getattr(network.layers[producer], "window", None)
    return SiteMap("affine", producer, site.activation, response, window), arrays


def _normalization(network: Network, variables: Variables, site: Site) -> dict[str, jax.Array]:
    """What a site's batch norm does to its input, in evaluation mode; nothing where it has none."""
    layer = find(variables["params"], site.layer)
    if site.producers == (site.layer,):
        return {"offset": jax.device_put(np.zeros(layer["kernel"].shape[-1:], np.float32))}
    statistics = find(variables["batch_stats"], site.layer)
    return _factor_and_offset(network.layers[site.layer].eps, layer["scale"], layer["bias"], **statistics)


@partial(jax.jit, static_argnums=0)
def _factor_and_offset(eps: float, scale: jax.Array, bias: jax.Array, mean: jax.Array, var: jax.Array):
    factor = scale * lax.rsqrt(var + eps)
    return {"factor": factor, "offset": bias - mean * factor}


def prepare(site_map: SiteMap, arrays: Any, like: jax.ShapeDtypeStruct, norm: Norm, chunk: int) -> Any:
    """What ``probe_site`` needs beside the samples: for affine maps also each neuron's own step's effect."""
    if not is_exactly_affine(site_map, like):
        return arrays
    return arrays, _own_response(site_map, arrays, jax.ShapeDtypeStruct(like.shape[1:], like.dtype), norm, chunk)


@partial(jax.jit, static_argnums=(0, 4, 5))
def probe_site(
    site_map: SiteMap, prepared: Any, u: Float[Array, "B ..."], steps: Steps, norm: Norm, chunk: int
) -> Float[Array, "B F"]:
    """The estimate of every neuron of a site on every sample, by the fastest exact way."""
    if is_exactly_affine(site_map, u):
        arrays, response = prepared
        return probes.probe_affine(site_map.z(arrays, u), response, site_map.post, steps)
    if site_map.kind == "layers":
        return probes.probe_layers(prepared, u, steps, norm, chunk)
    return site_map.probe_any(prepared, u, steps, norm, chunk)


def unnormalized(network: Network) -> Network:
    """The network as a float32 function of normalised images."""
    return of_normalized(network.architecture, network.placement)


def find(tree: Tree, layer: str) -> Tree:
    """The leaves of a layer by its full name."""
    for name, node in tree.items():
        if name == layer:
            return node
        if layer.startswith(f"{name}."):
            return find(node, layer.removeprefix(f"{name}."))
    raise KeyError(layer)


def outgoing_norms(network: Network, variables: Variables, site: Site, image: Float[Array, "1 H W C"]) -> jax.Array:
    """2-norm of the weights that read each neuron of a site [F].

    Args:
      network: the function of the variables.
      variables: its weights; filter masks must be part of them.
      site: a hidden linear layer, or a batch norm.
      image: any, to see what reads the site's output.

    Raises:
      DefenseError: something else than one layer of the same segment reads it.
    """
    if network.architecture.name == "mlp":
        names = [name for name, _ in network.architecture.layers]
        readers = [names[names.index(site.layer) + 1]]
    else:
        output = site.activate(network.activations(variables, image)[site.layer])
        segment = next(segment for segment in network.segments if segment.holds(site.layer))
        readers = [
            name
            for name, value in network.inputs(variables, image).items()
            if site.activation is not None and segment.holds(name) and np.array_equal(value, output)
        ]
    if len(readers) != 1:
        what = f"{len(readers)} layers of its block" if site.activation is not None else "no single layer"
        raise DefenseError(
            f"rescale: {site.layer} is read by {what}, expected exactly one layer; turn rescale off, or name "
            "only layers that lie between two layers of a block"
        )
    kernel = find(variables["params"], readers[0])["kernel"]
    groups = getattr(network.layers[readers[0]], "groups", 1)  # each reads its own share of the neurons
    by_neuron = jnp.moveaxis(kernel.reshape(*kernel.shape[:-1], groups, -1), (-2, -3), (0, 1))  # [G, c, ...]
    return jnp.sqrt(jnp.square(by_neuron).sum(tuple(range(2, by_neuron.ndim)))).reshape(-1)


@partial(jax.jit, static_argnums=(0, 2, 3, 4))
def _own_response(site_map: SiteMap, arrays: Any, like: jax.ShapeDtypeStruct, norm: Norm, chunk: int) -> jax.Array:
    linear = partial(site_map.z, {**arrays, "offset": jnp.zeros_like(arrays["offset"])})
    return probes.linear_response(linear, site_map.reduce, jnp.zeros(like.shape, like.dtype), norm, chunk)


def is_exactly_affine(site_map: SiteMap, u: Any) -> bool:
    """Whether what is differentiated is linear in the source too; a maximum over positions is not."""
    return site_map.kind == "affine" and (site_map.response == "mean" or u.ndim == 2)


def _affine(arrays: dict[str, jax.Array], window: Window | None, u: jax.Array) -> jax.Array:
    if "kernel" in arrays:
        kernel = arrays["kernel"]
        if window is None:
            u = jnp.dot(u, kernel, precision=lax.Precision.HIGHEST)
        else:
            u = conv2d(u, kernel, window=window, precision=lax.Precision.HIGHEST)
    per_feature = (1,) * (u.ndim - 1) + (-1,)
    if "factor" in arrays:
        u = u * arrays["factor"].reshape(per_feature)
    return u + arrays["offset"].reshape(per_feature)
