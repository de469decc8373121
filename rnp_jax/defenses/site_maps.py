"""How a site's neurons depend on what is perturbed: as an affine map, through linear layers, or the whole network.

A site's source is the layer whose input is perturbed, or the network's normalised input itself.
"""

from dataclasses import dataclass, field, replace
from functools import cache, partial
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
from rnp_jax.models.chain import Site
from rnp_jax.models.convolution import conv2d
from rnp_jax.models.layers import BatchNorm
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
      rectified: whether a ReLU follows.
      response: of a channel, over its positions.
      stride: of the convolution (affine).
      network: what is run, without normalisation (network).
      layer: the site's (network).
    """

    kind: Literal["affine", "layers", "network"]
    source: str = field(compare=False)
    rectified: bool
    response: Response
    stride: int = 1
    network: Network | None = None
    layer: str = ""

    def z(self, arrays: Any, u: Float[Array, "B ..."]) -> Float[Array, "B ... F"]:
        """Pre-activations."""
        if self.network is not None:
            return self.network.activations(arrays, u)[self.layer]
        if self.kind == "layers":
            *before, (kernel, bias) = arrays
            for each in before:
                u = jax.nn.relu(_affine({"kernel": each[0], "offset": each[1]}, 1, u))
            return _affine({"kernel": kernel, "offset": bias}, 1, u)
        return _affine(arrays, self.stride, u)

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
        return self.reduce(jax.nn.relu(z) if self.rectified else z)

    def respond(self, arrays: Any, u: Float[Array, "B ..."]) -> Float[Array, "B F"]:
        """What they answer to u."""
        return self.post(self.z(arrays, u))

    def probe_any(self, arrays: Any, u: Float[Array, "B ..."], steps: Steps, norm: Norm, chunk: int) -> jax.Array:
        """The estimate [B, F] that needs no special structure."""
        return probes.probe(
            lambda u: self.reduce(self.z(arrays, u)), lambda u: self.respond(arrays, u), u, steps, norm, chunk
        )


def plan(network: Network, variables: Variables, site: Site, scope: Scope, response: Response) -> tuple[SiteMap, Any]:
    """How to reach a site, and the arrays that it takes. Filter masks must be part of the weights.

    Raises:
      DefenseError: a convolution whose padding this package does not know.
    """
    params = variables["params"]
    first = network.segments[0].layers[0]
    is_dense = site.producers == (site.layer,)
    if is_dense and scope == "feature" and site.layer != first:
        names = [each.layer for each in network.sites]
        chosen = [find(params, name) for name in names[: names.index(site.layer) + 1]]
        arrays: Any = [(layer["kernel"], layer["bias"]) for layer in chosen]
        return SiteMap("layers", first, site.rectified, response), arrays
    if is_dense:
        layer = find(params, site.layer)
        arrays = {"kernel": layer["kernel"], "offset": layer["bias"]}
        return SiteMap("affine", site.layer, site.rectified, response), arrays
    if scope == "feature" and site.producers != (first,):
        return SiteMap(
            "network", NETWORK_INPUT, site.rectified, response, network=unnormalized(network), layer=site.layer
        ), variables
    norm, statistics = find(params, site.layer), find(variables["batch_stats"], site.layer)
    factor = norm["scale"] * lax.rsqrt(statistics["var"] + BatchNorm.eps)
    arrays = {"factor": factor, "offset": norm["bias"] - statistics["mean"] * factor}
    *others, producer = site.producers
    if others:
        return SiteMap("affine", site.layer, site.rectified, response), arrays
    arrays["kernel"] = find(params, producer)["kernel"]
    stride = _stride(network, producer)
    return SiteMap("affine", producer, site.rectified, response, stride), arrays


def prepare(site_map: SiteMap, arrays: Any, like: jax.ShapeDtypeStruct, norm: Norm, chunk: int) -> Any:
    """What ``probe_site`` needs beside the samples: for affine maps also each neuron's own step's effect."""
    if not is_exactly_affine(site_map, like):
        return arrays
    return arrays, _own_response(site_map, arrays, jnp.zeros(like.shape[1:], like.dtype), norm, chunk)


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
    channels = network.architecture.image_shape[-1]
    return replace(network, mean=(0.0,) * channels, std=(1.0,) * channels, precision="float32")


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
    if site.producers == (site.layer,):
        names = [name for name, _ in network.architecture.layers]
        readers = [names[names.index(site.layer) + 1]]
    else:
        output = jax.nn.relu(network.activations(variables, image)[site.layer])
        segment = next(segment for segment in network.segments if segment.holds(site.layer))
        readers = [
            name
            for name, value in network.inputs(variables, image).items()
            if site.rectified and segment.holds(name) and np.array_equal(value, output)
        ]
    if len(readers) != 1:
        what = f"{len(readers)} layers of its block" if site.rectified else "the residual stream"
        raise DefenseError(
            f"rescale: {site.layer} is read by {what}, expected exactly one layer; score without rescale, or name "
            "only layers that lie between two of a block"
        )
    kernel = find(variables["params"], readers[0])["kernel"]
    return jnp.sqrt(jnp.square(jnp.moveaxis(kernel, -2, 0)).sum(tuple(range(1, kernel.ndim))))


@partial(jax.jit, static_argnums=(0, 3, 4))
def _own_response(site_map: SiteMap, arrays: Any, like: jax.Array, norm: Norm, chunk: int) -> jax.Array:
    linear = partial(site_map.z, {**arrays, "offset": jnp.zeros_like(arrays["offset"])})
    return probes.linear_response(linear, site_map.reduce, like, norm, chunk)


def is_exactly_affine(site_map: SiteMap, u: Any) -> bool:
    """Whether what is differentiated is linear in the source too; a maximum over positions is not."""
    return site_map.kind == "affine" and (site_map.response == "mean" or u.ndim == 2)


def _affine(arrays: dict[str, jax.Array], stride: int, u: jax.Array) -> jax.Array:
    if "kernel" in arrays:
        kernel = arrays["kernel"]
        if kernel.ndim == 2:
            u = jnp.dot(u, kernel, precision=lax.Precision.HIGHEST)
        else:
            rows, columns = (size // 2 for size in kernel.shape[:2])
            pads = ((rows, rows), (columns, columns))
            u = conv2d(u, kernel, stride=stride, pads=pads, precision=lax.Precision.HIGHEST)
    per_feature = (1,) * (u.ndim - 1) + (-1,)
    if "factor" in arrays:
        u = u * arrays["factor"].reshape(per_feature)
    return u + arrays["offset"].reshape(per_feature)


def _stride(network: Network, convolution: str) -> int:
    """A convolution's stride, by what it makes of the network's image shape; its padding keeps the size at stride 1."""
    before, after = _positions(network)[convolution]
    stride = -(-before[0] // after[0])
    if tuple(-(-size // stride) for size in before) != after:
        raise DefenseError(
            f"{convolution} makes {after} positions of {before}: expected a padding that keeps the size but for the "
            "stride; score it with scope 'feature'"
        )
    return stride


@cache
def _positions(network: Network) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """(height, width) of each convolution's input and output at the network's image shape."""
    variables = jax.eval_shape(network.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, *network.architecture.image_shape), jnp.float32)
    before, after = (jax.eval_shape(run, variables, image) for run in (network.inputs, network.activations))
    return {name: (before[name].shape[1:3], value.shape[1:3]) for name, value in after.items() if value.ndim == 4}
