"""Xception (Chollet 2017) for 32-pixel images, of weiaicunzai's pytorch-cifar100.

Its ReLUs work in place, so a shortcut beside a block that begins with one reads the rectified input too; but the last
block's shortcut reads the input as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from rnp_jax.models.design import Design, scaled
from rnp_jax.models.graph import Graph, Image, Layer, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.parts import Units

WIDTH = 32
_MIDDLE = 8
_WIDTHS = (64, 128, 256, 728, 1024, 1536, 2048)


def _separable(g: Graph, x: Image, name: str, norm: str, features: int, *, rectified: bool) -> Image:
    """A depthwise 3x3 and a 1x1 convolution, batch norm, and perhaps ReLU."""
    channels = g.channels(x)
    x = g.conv(x, Layer(f"{name}.depthwise", None, channels, 3, groups=channels))
    return g.unit(x, Layer(f"{name}.pointwise", norm, features, activation="relu" if rectified else None))


@dataclass(frozen=True)
class Entry:
    """Two separable convolutions and pooling beside a projection; the first block does not begin with a ReLU."""

    name: str
    features: int
    stride: int

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the block and the ReLU of the next one."""
        first = 0 if self.name.endswith("conv3") else 1
        residual, shortcut = f"{self.name}_residual", f"{self.name}_shortcut"
        out = x
        for i, rectified in ((first, True), (first + 3, False)):
            names = (f"{residual}.{i}", f"{residual}.{i + 1}")
            out = _separable(g, out, *names, self.features, rectified=rectified)
        out = g.max_pool(out, 3, self.stride, 1)
        project = Layer(f"{shortcut}.0", f"{shortcut}.1", self.features, 1, self.stride, bias=True, activation=None)
        return g.activate(g.add(out, g.unit(x, project)), f"{shortcut}.1")


@dataclass(frozen=True)
class Middle:
    """Three separable convolutions whose output is added to the input, and the ReLU of the next block."""

    last: bool

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the block; behind the ``last`` there is no ReLU yet."""
        out, features = x, g.channels(x)
        for i in (1, 2, 3):
            out = _separable(g, out, f"conv{i}.1", f"conv{i}.2", features, rectified=i < 3)
        out = g.add(x, out)
        return out if self.last else g.activate(out, "conv3.2")


@dataclass(frozen=True)
class Exit:
    """A block that halves the image, and two more separable convolutions."""

    widths: tuple[int, int, int]

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies all of it."""
        features, *wider = self.widths
        shortcut = g.unit(x, Layer("shortcut.0", "shortcut.1", features, 1, 2, bias=True, activation=None))
        out = g.activate(x, "shortcut.1")
        out = _separable(g, out, "residual.1", "residual.2", g.channels(x), rectified=True)
        out = _separable(g, out, "residual.4", "residual.5", features, rectified=False)
        out = g.add(shortcut, g.max_pool(out, 3, 2, 1))
        for i, each in zip((0, 3), wider, strict=True):
            out = _separable(g, out, f"conv.{i}", f"conv.{i + 1}", each, rectified=True)
        return out


def _parts(widths: tuple[int, ...], middle: int, width: int) -> Parts:
    second, *entry, last, third, fourth = (scaled(channels, width, WIDTH) for channels in widths)
    sizes = (("conv1", width), ("conv2", second))
    stem = tuple(Layer(f"entry_flow.{name}.0", f"entry_flow.{name}.1", features, 3) for name, features in sizes)
    blocks = [Entry(f"entry_flow.conv{i}", features, 2) for i, features in enumerate(entry, 3)]
    blocks[-1] = Entry(blocks[-1].name, blocks[-1].features, 1)
    return (
        ("", Units(stem)),
        *(("", block) for block in blocks),
        *((f"middel_flow.middel_block.{i}", Middle(i == middle - 1)) for i in range(middle)),
        ("exit_flow", Exit((last, third, fourth))),
    )


def design(widths: tuple[int, ...] = _WIDTHS, middle: int = _MIDDLE) -> Design:
    """A network of these widths and so many blocks in the middle."""
    return graph_design(partial(_parts, widths, middle), "entry_flow.conv1.0", "fc", WIDTH)


DESIGNS: Mapping[str, Design] = MappingProxyType({"weiaicunzai_xception": design()})
