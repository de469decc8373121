"""Networks of inverted residual blocks (Sandler et al., "MobileNetV2", 2018), as data: one chain serves all families.

A block expands its input with a 1x1 convolution, filters every channel separately (depthwise), in some networks gates
the channels by squeeze-and-excitation (Hu et al. 2018), and projects to few channels without an activation. The modules
in ``mobilenet_v2``, ``mobilenet_v3`` and ``efficientnet`` differ only in sizes, activations and names.

Dropout and stochastic depth are left out, even in training mode: a network is a deterministic function.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from rnp_jax.models.chain import Activation, Chain, Segment, Site, activate
from rnp_jax.models.layers import BatchNorm, Conv, Dense, Placement, Precision

Gate = Literal["sigmoid", "hard_sigmoid"]

_GATES: Mapping[Gate, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {"sigmoid": nn.sigmoid, "hard_sigmoid": nn.hard_sigmoid}
)


class Style(NamedTuple):
    """Settings that all layers of a network share: arithmetic, where masks act, and batch norm's eps and momentum."""

    placement: Placement
    precision: Precision
    eps: float = 1e-5
    momentum: float = 0.1


class Unit(NamedTuple):
    """A convolution padded by half its size, the batch norm after it, and an activation.

    Attributes:
      conv: name of the convolution.
      norm: name of the batch norm.
      features: number of filters, F.
      size: side of the kernel.
      stride: stride along both axes.
      depthwise: whether every channel is filtered separately; F is then the input's C.
      activation: the activation; None if there is none.
    """

    conv: str
    norm: str
    features: int
    size: int = 1
    stride: int = 1
    depthwise: bool = False
    activation: Activation | None = None

    def site(self, prefix: str = "") -> Site:
        """The batch norm as a site."""
        return Site(f"{prefix}{self.norm}", (f"{prefix}{self.conv}",), self.activation)


class Squeeze(NamedTuple):
    """Squeeze-and-excitation: x · gate(fc2(activation(fc1(mean of x over space)))).

    ``name`` is the prefix of fc1 and fc2; ``features`` is the number of outputs of fc1.
    """

    name: str
    features: int
    activation: Activation
    gate: Gate


class Block(NamedTuple):
    """One inverted residual block.

    Attributes:
      units: expansion (if the block expands), depthwise convolution, projection.
      squeeze: squeeze-and-excitation that gates the channels before the projection.
      shortcut: what is added to the projection: the input, a projection of the input, or nothing (None).
    """

    units: tuple[Unit, ...]
    squeeze: Squeeze | None = None
    shortcut: Literal["identity"] | Unit | None = None

    def sites(self, prefix: str) -> list[Site]:
        """Its batch norms, in forward order."""
        units = (*self.units, self.shortcut) if isinstance(self.shortcut, Unit) else self.units
        return [unit.site(prefix) for unit in units]


def _apply(parent: nn.Module, unit: Unit, style: Style, x: jax.Array, train: bool) -> jax.Array:
    """Declares a unit's layers in ``parent``, the module that is being called, and applies them."""
    placement, precision = style.placement, style.precision
    groups = unit.features if unit.depthwise else 1
    x = Conv(
        unit.features,
        unit.size,
        unit.stride,
        unit.size // 2,
        groups,
        placement=placement,
        precision=precision,
        name=unit.conv,
    )(x)
    x = BatchNorm(placement, style.momentum, style.eps, precision, name=unit.norm)(x, train)
    return x if unit.activation is None else activate(parent, unit.norm, x, unit.activation)


class Single(nn.Module):
    """One unit: the convolution before the blocks, or the one after them."""

    unit: Unit
    style: Style

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B Ho Wo F"]:
        """Applies the unit."""
        return _apply(self, self.unit, self.style, x, train)


class InvertedResidual(nn.Module):
    """One block."""

    block: Block
    style: Style

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B Ho Wo F"]:
        """Applies the block."""
        *before, project = self.block.units
        out = x
        for unit in before:
            out = _apply(self, unit, self.style, out, train)
        out = _apply(self, project, self.style, self._gated(out), train)
        if self.block.shortcut is None:
            return out
        if isinstance(self.block.shortcut, Unit):
            x = _apply(self, self.block.shortcut, self.style, x, train)
        return out + x

    def _gated(self, x: Float[Array, "B H W F"]) -> Float[Array, "B H W F"]:
        """The channels times their gates. Gates have no filter masks: they weight channels and are not channels."""
        squeeze, precision = self.block.squeeze, self.style.precision
        if squeeze is None:
            return x
        first = Conv(squeeze.features, 1, use_bias=True, precision=precision, name=f"{squeeze.name}.fc1")
        second = Conv(x.shape[-1], 1, use_bias=True, precision=precision, name=f"{squeeze.name}.fc2")
        reduced = first(x.mean((1, 2), keepdims=True))
        reduced = activate(self, f"{squeeze.name}.fc1", reduced, squeeze.activation)
        return x * _GATES[squeeze.gate](second(reduced))


class Linear(nn.Module):
    """A linear layer; it averages images over space first. A hidden one has an activation."""

    layer: str
    units: int
    activation: Activation | None
    style: Style

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> Float[Array, "B F"]:
        """Applies the layer."""
        del train  # nothing in it depends on the mode
        x = x.mean((1, 2)) if x.ndim == 4 else x
        masked = self.activation is not None and self.style.placement == "unit"
        x = Dense(self.units, masked, precision=self.style.precision, name=self.layer)(x)
        return x if self.activation is None else activate(self, self.layer, x, self.activation)


class Hidden(NamedTuple):
    """A hidden linear layer before the head."""

    name: str
    features: int
    activation: Activation


class InvertedResidualNet(Chain):
    """A unit, blocks by name, a unit of size 1, global average pooling, perhaps a hidden layer, and the classifier.

    Attributes:
      stem: the first unit.
      blocks: (name, block) in order.
      last: the unit after the blocks.
      head: name of the classifier.
      num_classes: number of classes, K.
      style: settings of all layers.
      hidden: the linear layer before the classifier, if there is one.
    """

    stem: Unit
    blocks: tuple[tuple[str, Block], ...]
    last: Unit
    head: str
    num_classes: int
    style: Style
    hidden: Hidden | None = None

    @nn.nowrap
    def segments(self) -> tuple[Segment, ...]:
        """Stem, blocks, last unit, hidden layer, head."""
        blocks = (
            Segment((name,), InvertedResidual(block, self.style, parent=None), nested=True)
            for name, block in self.blocks
        )
        hidden = [self._linear(*self.hidden)] if self.hidden else []
        head = self._linear(self.head, self.num_classes, None)
        return self._single(self.stem), *blocks, self._single(self.last), *hidden, head

    @nn.nowrap
    def sites(self) -> tuple[Site, ...]:
        """The batch norms, or in the placement ``unit`` the hidden layer."""
        if self.style.placement == "unit":
            return (Site(self.hidden.name, (self.hidden.name,), self.hidden.activation),) if self.hidden else ()
        inner = [site for name, block in self.blocks for site in block.sites(f"{name}.")]
        return self.stem.site(), *inner, self.last.site()

    @nn.nowrap
    def _single(self, unit: Unit) -> Segment:
        return Segment((unit.conv, unit.norm), Single(unit, self.style, parent=None), nested=False)

    @nn.nowrap
    def _linear(self, name: str, units: int, activation: Activation | None) -> Segment:
        return Segment((name,), Linear(name, units, activation, self.style, parent=None), nested=False)


def bottleneck(
    sizes: tuple[int, int, int],
    activation: Activation,
    size: int = 3,
    stride: int = 1,
    squeeze: tuple[int, Activation, Gate] | None = None,
) -> Block:
    """A block with the names of torchvision's MobileNetV3 and EfficientNet: ``block.0.0``, ``block.0.1``, …

    Args:
      sizes: channels of the input, after the expansion (which is left out if it would not expand), and of the output.
      activation: activation after every convolution except the projection.
      size: side of the depthwise kernel.
      stride: stride of the depthwise convolution.
      squeeze: features, activation and gate of squeeze-and-excitation.
    """
    inputs, expanded, outputs = sizes
    units = [Unit("", "", expanded, activation=activation)] if expanded != inputs else []
    units.append(Unit("", "", expanded, size, stride, True, activation))
    gate = Squeeze(f"block.{len(units)}", *squeeze) if squeeze else None
    project = len(units) + 1 if squeeze else len(units)  # the gate stands before the projection
    named = [unit._replace(conv=f"block.{i}.0", norm=f"block.{i}.1") for i, unit in enumerate(units)]
    last = Unit(f"block.{project}.0", f"block.{project}.1", outputs)
    return Block((*named, last), gate, "identity" if stride == 1 and inputs == outputs else None)


def divisible(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of the divisor that is at most a tenth lower. MobileNets round channels in this way."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def widened(channels: int, width: int, published: int) -> int:
    """Channels of a layer if the stem has ``width`` channels, as torchvision's ``width_mult`` gives them.

    They are multiples of 8, like all published ones. If ``width`` is not, all layers are scaled without rounding to 8.
    """
    return divisible(channels * width / published, 1 if width % 8 else 8)
