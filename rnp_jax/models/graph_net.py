"""Networks of parts, and the architectures that consist of such."""

from collections.abc import Callable
from functools import lru_cache

import flax.linen as nn
from jaxtyping import Array, Float

from rnp_jax.models.chain import Chain, Segment, Site
from rnp_jax.models.computing_graph import compute
from rnp_jax.models.design import LARGEST_WIDTH, Design, Shapes, Sizes
from rnp_jax.models.graph import Part, Parts
from rnp_jax.models.inverted_residual import Style
from rnp_jax.models.layers import Placement, Precision
from rnp_jax.models.resnet import Head
from rnp_jax.models.tracing_graph import trace


class _PartModule(nn.Module):
    """One part."""

    part: Part
    style: Style

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B Ho Wo F"]:
        """Applies the part."""
        return compute(self.part, self, x, self.style, train=train)


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
            layers = (name,) if name else _list_layers(part)
            found.append(Segment(layers, module, nested=bool(name)))
        head = Head(self.num_classes, self.style.precision, self.head, parent=None)
        return *found, Segment((self.head,), head, nested=False)

    @nn.nowrap
    def sites(self) -> tuple[Site, ...]:
        """The batch norms; in a network without any, the convolutions if masks act on them."""
        traced = trace(self.parts, 1)
        norms = tuple(site for site in traced.sites if site.layer in traced.norms)
        return norms or (traced.sites if self.style.placement == "conv_output" else ())


def _list_layers(part: Part) -> tuple[str, ...]:
    """The layers of a part whose layers are the network's own."""
    traced = trace((("", part),), 1)
    return tuple(dict.fromkeys((*traced.shapes, *traced.norms)))


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
        if not 0 < features <= LARGEST_WIDTH:
            return False
        traced = trace(make(features), shapes[f"{stem}.weight"][1])
        kernels = {f"{name}.weight": shape for name, shape in traced.shapes.items()}
        kernels[f"{head}.weight"] = (shapes[f"{head}.weight"][0], traced.channels)
        norms = {f"{name}.running_var" for name in traced.norms}
        return kernels == {key: tuple(shape) for key, shape in shapes.items() if len(shape) > 1} and norms == {
            key for key in shapes if key.endswith(".running_var")
        }

    return Design(build, matches, f"{stem}.weight", f"{head}.weight", width, wide, image_side)
