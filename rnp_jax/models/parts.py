"""Parts that several designs share: a stem, residual blocks of both kinds, and squeeze-and-excitation."""

from dataclasses import dataclass
from typing import NamedTuple

from rnp_jax.models.chain import Activation
from rnp_jax.models.graph import Graph, Image, Layer, Part, Parts


class Squeeze(NamedTuple):
    """Squeeze-and-excitation: x times the logistic function of second(activation(first(mean of x over space))).

    Attributes:
      first: name of the layer with few outputs.
      second: name of the layer with one output a channel.
      features: number of outputs of the first.
      activation: of the first.
      linear: whether the two are linear layers and not 1x1 convolutions.
    """

    first: str
    second: str
    features: int
    activation: Activation = "relu"
    linear: bool = False

    def __call__(self, g: Graph, x: Image) -> Image:
        """The gated channels. The two layers have no filter masks: they weight channels and are not channels."""
        few = self._layer(g, x if self.linear else g.mean(x), self.first, self.features)
        few = g.activate(few, self.first, self.activation)
        return g.gate(x, self._layer(g, few, self.second, g.channels(x)))

    def _layer(self, g: Graph, x: Image, name: str, features: int) -> Image:
        if self.linear:
            return g.dense(x, name, features)
        return g.conv(x, Layer(name, None, features, bias=True), masked=False)


@dataclass(frozen=True)
class Units:
    """Layers one after another, perhaps behind max-pooling of 3x3 windows with stride 2."""

    layers: tuple[Layer, ...]
    pooled: bool = False

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the part."""
        x = g.max_pool(x, 3, 2, 1) if self.pooled else x
        for layer in self.layers:
            x = g.unit(x, layer)
        return x


@dataclass(frozen=True)
class Residual:
    """Layers whose output is added to the input or to its projection, and ReLU.

    Attributes:
      layers: the layers.
      shortcut: the projection; None if there is none.
      squeeze: the gate on the output of one of the layers.
      squeezed: which layer's.
    """

    layers: tuple[Layer, ...]
    shortcut: Layer | None = None
    squeeze: Squeeze | None = None
    squeezed: int = -1

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the block."""
        out = x
        for i, layer in enumerate(self.layers):
            out = g.unit(out, layer)
            if self.squeeze and i == self.squeezed % len(self.layers):
                out = self.squeeze(g, out)
        x = x if self.shortcut is None else g.unit(x, self.shortcut)
        last = self.layers[-1]
        if last.activation and self.squeeze:  # the last layer's own activation has its name
            return g.activate(g.add(x, out), self.squeeze.second)
        return g.activate(g.add(x, out), last.norm or last.conv)


@dataclass(frozen=True)
class PreActivated:
    """Layers that begin with batch norm and ReLU, and whose output is added to the input or to its projection.

    Attributes:
      layers: the layers.
      shortcut: the projection, a bare convolution; None if there is none.
      raw: whether the projection reads the input itself and not the activated one.
      squeeze: the gate on the last layer's output.
    """

    layers: tuple[Layer, ...]
    shortcut: Layer | None = None
    raw: bool = False
    squeeze: Squeeze | None = None

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the block."""
        first, *rest = self.layers
        activated = g.activate(g.norm(x, first.norm or ""), first.norm or "")
        shortcut = x if self.shortcut is None else g.conv(x if self.raw else activated, self.shortcut)
        out = g.conv(activated, first)
        for layer in rest:
            out = g.preactivated(out, layer)
        return g.add(shortcut, self.squeeze(g, out) if self.squeeze else out)


@dataclass(frozen=True)
class Norm:
    """Batch norm and ReLU."""

    name: str

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies them."""
        return g.activate(g.norm(x, self.name), self.name)


def stem(conv: str, norm: str | None, features: int, size: int = 3, *, bias: bool = False) -> tuple[str, Part]:
    """The first layer; without a batch norm it has no activation either."""
    return "", Units((Layer(conv, norm, features, size, bias=bias, activation="relu" if norm else None),))


def stages(name: str, blocks: list[list[Part]]) -> Parts:
    """Blocks counted from 0 in stages counted from 1; ``name`` has places for both numbers: ``layer{}.{}``."""
    return tuple((name.format(stage, i), block) for stage, row in enumerate(blocks, 1) for i, block in enumerate(row))
