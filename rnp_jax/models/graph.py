"""Networks that are written once: the same lines compute them, list their tensors and tell their sites.

A part of a network is a function of a ``Graph`` and an image, and asks the graph for layers by name. ``_Apply``
declares them in a flax module and computes. ``_Trace`` computes nothing: it notes the shape of every kernel, and every
site. So a design states its arithmetic, and nothing else.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from rnp_jax.models.chain import Activation, Chain, Segment, Site, activate
from rnp_jax.models.design import Design, Shapes, Sizes
from rnp_jax.models.inverted_residual import Style
from rnp_jax.models.layers import BatchNorm, Conv, Dense, Placement, Precision, avg_pool, both_axes, max_pool
from rnp_jax.models.resnet import Head

_LARGEST = 2**14  # width

Image: TypeAlias = Any
"""What flows through a graph: an array [B, H, W, C] where it computes, a ``Flow`` where it is traced."""


class Layer(NamedTuple):
    """A convolution with its batch norm and activation.

    Attributes:
      conv: name of the convolution.
      norm: name of the batch norm; None if there is none.
      features: number of filters, F.
      size: side of the kernel, or its height and width.
      stride: stride along both axes.
      groups: number of groups.
      bias: whether the convolution has a bias.
      activation: the activation; None if there is none.
      eps: the batch norm's, where it is not the network's.
      pad: zeros around the image; by default half the kernel's size.
    """

    conv: str
    norm: str | None
    features: int
    size: int | tuple[int, int] = 1
    stride: int = 1
    groups: int = 1
    bias: bool = False
    activation: Activation | None = "relu"
    eps: float | None = None
    pad: int | None = None


class Graph(ABC):
    """What a part of a network can ask for; names are relative to the part."""

    @abstractmethod
    def conv(self, x: Image, layer: Layer, *, masked: bool = True) -> Image:
        """The layer's convolution alone; one that is not ``masked`` never has filter masks."""

    @abstractmethod
    def norm(self, x: Image, name: str, eps: float | None = None) -> Image:
        """Batch norm; ``eps`` is its own, where it is not the network's."""

    @abstractmethod
    def idle(self, x: Image, layer: Layer) -> None:
        """A convolution and its batch norm that the state dict has and nothing reads."""

    @abstractmethod
    def dense(self, x: Image, name: str, units: int) -> Image:
        """A linear layer; an image is averaged over space before it."""

    @abstractmethod
    def activate(self, x: Image, after: str, activation: Activation = "relu") -> Image:
        """An activation; ``after`` names the last layer before it, and no other activation has the same one."""

    @abstractmethod
    def add(self, *xs: Image) -> Image:
        """The sum."""

    @abstractmethod
    def concat(self, *xs: Image) -> Image:
        """All channels, in order."""

    @abstractmethod
    def split(self, x: Image, at: int) -> tuple[Image, Image]:
        """The channels before and from this one."""

    @abstractmethod
    def shuffle(self, x: Image, groups: int) -> Image:
        """The channels in another order: the first of every group, the second of every group, and so on."""

    @abstractmethod
    def max_pool(self, x: Image, size: int, stride: int, pad: int = 0, *, ceil: bool = False) -> Image:
        """Maximum over windows; with ``ceil``, the last one may reach over the edge."""

    @abstractmethod
    def avg_pool(self, x: Image, size: int, stride: int, pad: int = 0) -> Image:
        """Mean over windows; zeros around the image count."""

    @abstractmethod
    def mean(self, x: Image) -> Image:
        """Mean over space, as an image of one pixel."""

    @abstractmethod
    def gate(self, x: Image, weights: Image) -> Image:
        """The channels times the logistic function of their weights, which are vectors or images of one pixel."""

    @abstractmethod
    def channels(self, x: Image) -> int:
        """Number of channels."""

    @abstractmethod
    def below(self, name: str) -> "Graph":
        """The graph for a part inside this one, whose names begin with ``name`` and a dot."""

    def unit(self, x: Image, layer: Layer) -> Image:
        """A convolution, its batch norm and its activation."""
        x = self.conv(x, layer)
        x = x if layer.norm is None else self.norm(x, layer.norm, layer.eps)
        return x if layer.activation is None else self.activate(x, layer.norm or layer.conv, layer.activation)

    def preactivated(self, x: Image, layer: Layer) -> Image:
        """The layer's batch norm and activation, and then its convolution."""
        norm = layer.norm or ""
        x = self.norm(x, norm)
        return self.conv(x if layer.activation is None else self.activate(x, norm, layer.activation), layer)


Part: TypeAlias = Callable[[Graph, Image], Image]
"""Part of a network; a frozen dataclass, so that equal parts share compiled programs."""

Parts: TypeAlias = tuple[tuple[str, Part], ...]
"""The parts in order, each with the prefix of its names; without one, its layers are the network's own."""


@dataclass(frozen=True)
class _Apply(Graph):
    """Declares layers in the module that is being called, and computes."""

    module: nn.Module
    train: bool
    style: Style
    prefix: str = ""

    def conv(self, x, layer, *, masked=True):
        name, _, features, size, stride, groups, bias, *_, pad = layer
        placement = self.style.placement if masked else "bn_scale"
        height, width = both_axes(size)
        pad, name = (height // 2, width // 2) if pad is None else pad, self.prefix + name
        return Conv(features, size, stride, pad, groups, bias, placement, self.style.precision, name=name)(x)

    def norm(self, x, name, eps=None):
        placement, _, published, momentum = self.style
        return BatchNorm(placement, momentum, eps or published, name=self.prefix + name)(x, self.train)

    def idle(self, x, layer):
        unmasked = replace(self, train=False, style=self.style._replace(placement="unit"))
        unmasked.norm(unmasked.conv(x, layer), layer.norm or "")

    def dense(self, x, name, units):
        x = x.mean((1, 2)) if x.ndim == 4 else x
        return Dense(units, precision=self.style.precision, name=self.prefix + name)(x)

    def activate(self, x, after, activation="relu"):
        return activate(self.module, self.prefix + after, x, activation)

    def add(self, *xs):
        return sum(xs[1:], xs[0])

    def concat(self, *xs):
        return jnp.concatenate(xs, -1)

    def split(self, x, at):
        return x[..., :at], x[..., at:]

    def shuffle(self, x, groups):
        return x.reshape(*x.shape[:3], groups, -1).swapaxes(3, 4).reshape(x.shape)

    def max_pool(self, x, size, stride, pad=0, *, ceil=False):
        return max_pool(x, size, stride, pad, ceil=ceil)

    def avg_pool(self, x, size, stride, pad=0):
        if size == stride and not pad:
            return avg_pool(x, size)
        around = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        zero = np.zeros((), x.dtype)
        return lax.reduce_window(x, zero, lax.add, (1, size, size, 1), (1, stride, stride, 1), around) / size**2

    def mean(self, x):
        return x.mean((1, 2), keepdims=True)

    def gate(self, x, weights):
        return x * nn.sigmoid(weights).reshape(len(x), 1, 1, -1)

    def channels(self, x):
        return x.shape[-1]

    def below(self, name):
        return replace(self, prefix=f"{self.prefix}{name}.")


class Flow(NamedTuple):
    """What a trace knows of an image.

    Attributes:
      channels: number of channels.
      producers: the convolutions whose sum it is, but for identity shortcuts and other sums' inputs.
      direct: whether it is their sum itself, with nothing in between.
      site: position of the site whose output it is, if nothing has changed that.
    """

    channels: int
    producers: tuple[str, ...] = ()
    direct: bool = True
    site: int | None = None

    def changed(self) -> "Flow":
        """The flow behind something that is not a layer and keeps the channels."""
        return Flow(self.channels, self.producers, False)


@dataclass(frozen=True)
class _Trace(Graph):
    """Computes nothing: notes the shapes of kernels, in torch's layout, and the sites, by the layers' full names."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    norms: dict[str, int] = field(default_factory=dict)
    sites: list[Site] = field(default_factory=list)
    prefix: str = ""

    def conv(self, x, layer, *, masked=True):
        name = self.prefix + layer.conv
        self.shapes[name] = (layer.features, x.channels // layer.groups, *both_axes(layer.size))
        if not masked:
            return Flow(layer.features)
        self.sites.append(Site(name, (name,), None))
        return Flow(layer.features, (name,), True, len(self.sites) - 1)

    def norm(self, x, name, eps=None):
        del eps  # no tensor depends on it
        name = self.prefix + name
        self.norms[name] = x.channels
        self.sites.append(Site(name, x.producers, None, x.direct or not x.producers))
        return Flow(x.channels, site=len(self.sites) - 1)

    def idle(self, x, layer):
        self.conv(x, layer, masked=False)
        self.norms[self.prefix + (layer.norm or "")] = layer.features

    def dense(self, x, name, units):
        self.shapes[self.prefix + name] = (units, x.channels)
        return Flow(units)

    def activate(self, x, after, activation="relu"):
        del after  # it only names the activation
        if x.site is not None:
            self.sites[x.site] = self.sites[x.site]._replace(activation=activation)
        return x.changed()

    def add(self, *xs):
        producers = tuple(name for x in xs for name in x.producers)
        return Flow(xs[0].channels, producers, all(x.direct for x in xs if x.producers))

    def concat(self, *xs):
        return Flow(sum(x.channels for x in xs))

    def split(self, x, at):
        return Flow(at), Flow(x.channels - at)

    def shuffle(self, x, groups):
        del groups  # the channels are as many as before
        return Flow(x.channels)

    def max_pool(self, x, size, stride, pad=0, *, ceil=False):
        del size, stride, pad, ceil  # a trace has no pixels
        return x.changed()

    def avg_pool(self, x, size, stride, pad=0):
        del size, stride, pad  # a trace has no pixels
        return x.changed()

    def mean(self, x):
        return Flow(x.channels)

    def gate(self, x, weights):
        del weights  # the channels are as many as before
        return x.changed()

    def channels(self, x):
        return x.channels

    def below(self, name):
        return replace(self, prefix=f"{self.prefix}{name}.")


@lru_cache(256)
def _trace(parts: Parts, channels: int) -> tuple[_Trace, int]:
    """A trace of all parts for images of so many channels, and the number of channels of the last part's output."""
    trace, x = _Trace(), Flow(channels)
    for name, part in parts:
        x = part(trace.below(name) if name else trace, x)
    return trace, x.channels


class _PartModule(nn.Module):
    """One part."""

    part: Part
    style: Style

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B Ho Wo F"]:
        """Applies the part."""
        return self.part(_Apply(self, train, self.style), x)


class GraphNet(Chain):
    """Parts in order, global average pooling, and the linear layer ``head``."""

    parts: Parts
    head: str
    num_classes: int
    style: Style

    @nn.nowrap
    def segments(self) -> tuple[Segment, ...]:
        """One a part, and the head."""
        found = []
        for name, part in self.parts:
            module = _PartModule(part, self.style, parent=None)
            own = _Trace()
            if not name:
                part(own, Flow(1))
            layers = (name,) if name else (*dict.fromkeys((*own.shapes, *own.norms)),)
            found.append(Segment(layers, module, nested=bool(name)))
        head = Head(self.num_classes, self.style.precision, self.head, parent=None)
        return *found, Segment((self.head,), head, nested=False)

    @nn.nowrap
    def sites(self) -> tuple[Site, ...]:
        """The batch norms; in a network without any, the convolutions if masks act on them."""
        trace, _ = _trace(self.parts, 1)
        norms = tuple(site for site in trace.sites if site.layer in trace.norms)
        return norms or (tuple(trace.sites) if self.style.placement == "conv_output" else ())


def graph_design(
    make: Callable[[int], Parts],
    stem: str,
    head: str,
    width: int,
    *,
    eps: float = 1e-5,
    momentum: float = 0.1,
    image_side: int = 32,
    base: str | None = None,
) -> Design:
    """An architecture of parts.

    Args:
      make: the parts for a width.
      stem: name of the first convolution.
      head: name of the last linear layer.
      width: the published width.
      eps: batch norm's.
      momentum: batch norm's.
      image_side: as in ``Design``.
      base: the convolution whose number of filters is the width; by default the stem.
    """
    make, wide = lru_cache(4)(make), f"{base or stem}.weight"

    def build(sizes: Sizes, placement: Placement, precision: Precision) -> GraphNet:
        return GraphNet(make(sizes.width), head, sizes.num_classes, Style(placement, precision, eps, momentum))

    def matches(shapes: Shapes) -> bool:
        features = shapes.get(wide, (0,))[0]
        if not 0 < features <= _LARGEST:
            return False
        trace, last = _trace(make(features), shapes[f"{stem}.weight"][1])
        kernels = {f"{name}.weight": shape for name, shape in trace.shapes.items()}
        kernels[f"{head}.weight"] = (shapes[f"{head}.weight"][0], last)
        norms = {f"{name}.running_var" for name in trace.norms}
        return kernels == {key: tuple(shape) for key, shape in shapes.items() if len(shape) > 1} and norms == {
            key for key in shapes if key.endswith(".running_var")
        }

    return Design(build, matches, f"{stem}.weight", f"{head}.weight", width, wide, image_side)
