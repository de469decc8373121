"""The graph that computes nothing: it tells a network's kernels, batch norms and sites."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

from rnp_jax.models.chain import Site
from rnp_jax.models.graph import Graph, Parts
from rnp_jax.models.layers import both_axes


class Trace(NamedTuple):
    """What parts in order have.

    Attributes:
      shapes: of each kernel, in torch's layout, by its layer's full name.
      norms: channels of each batch norm, by its full name.
      sites: every convolution and batch norm, in forward order.
      channels: of the last part's output.
    """

    shapes: Mapping[str, tuple[int, ...]]
    norms: Mapping[str, int]
    sites: tuple[Site, ...]
    channels: int


@lru_cache(256)
def trace(parts: Parts, channels: int) -> Trace:
    """The trace of all parts for images of so many channels."""
    graph, x = _TracingGraph(), _Flow(channels)
    for name, part in parts:
        x = part(graph.below(name) if name else graph, x)
    return Trace(graph.shapes, graph.norms, tuple(graph.sites), x.channels)


class _Flow(NamedTuple):
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

    def changed(self) -> "_Flow":
        """The flow behind something that is not a layer and keeps the channels."""
        return _Flow(self.channels, self.producers, False)


@dataclass(frozen=True)
class _TracingGraph(Graph):
    """Computes nothing: notes the shapes of kernels, in torch's layout, and the sites, by the layers' full names."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    norms: dict[str, int] = field(default_factory=dict)
    sites: list[Site] = field(default_factory=list)
    prefix: str = ""

    def conv(self, x, layer, *, masked=True):
        name = self.prefix + layer.conv
        self.shapes[name] = (layer.features, x.channels // layer.groups, *both_axes(layer.size))
        if not masked:
            return _Flow(layer.features)
        self.sites.append(Site(name, (name,), None))
        return _Flow(layer.features, (name,), True, len(self.sites) - 1)

    def norm(self, x, name, eps=None):
        del eps  # no tensor depends on it
        name = self.prefix + name
        self.norms[name] = x.channels
        self.sites.append(Site(name, x.producers, None, x.direct or not x.producers))
        return _Flow(x.channels, site=len(self.sites) - 1)

    def idle(self, x, layer):
        self.conv(x, layer, masked=False)
        self.norms[self.prefix + (layer.norm or "")] = layer.features

    def dense(self, x, name, units):
        self.shapes[self.prefix + name] = (units, x.channels)
        return _Flow(units)

    def activate(self, x, after, activation="relu"):
        del after  # it only names the activation
        if x.site is not None:
            self.sites[x.site] = self.sites[x.site]._replace(activation=activation)
        return x.changed()

    def add(self, *xs):
        producers = tuple(name for x in xs for name in x.producers)
        return _Flow(xs[0].channels, producers, all(x.direct for x in xs if x.producers))

    def concat(self, *xs):
        return _Flow(sum(x.channels for x in xs))

    def split(self, x, at):
        return _Flow(at), _Flow(x.channels - at)

    def shuffle(self, x, groups):
        del groups  # the channels are as many as before
        return _Flow(x.channels)

    def max_pool(self, x, size, stride, pad=0, *, ceil=False):
        del size, stride, pad, ceil  # a trace has no pixels
        return x.changed()

    def avg_pool(self, x, size, stride, pad=0):
        del size, stride, pad  # a trace has no pixels
        return x.changed()

    def mean(self, x):
        return _Flow(x.channels)

    def gate(self, x, weights):
        del weights  # the channels are as many as before
        return x.changed()

    def channels(self, x):
        return x.channels

    def below(self, name):
        return replace(self, prefix=f"{self.prefix}{name}.")
