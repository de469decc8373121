"""Networks that are written once: the same lines compute them, list their tensors and tell their sites.

A part of a network is a function of a ``Graph`` and an image, and asks the graph for layers by name. One
graph declares them in a flax module and computes (``computing_graph``). Another computes nothing: it notes the shape of
every kernel, and every site (``tracing_graph``). So a design states its arithmetic, and nothing else.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from rnp_jax.models.chain import Activation

Image: TypeAlias = Any
"""What flows through a graph: an array [B, H, W, C] where it computes, what a trace knows of it where it is traced."""


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
