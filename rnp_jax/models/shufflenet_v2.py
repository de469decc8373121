"""ShuffleNetV2 (Ma et al. 2018) as torchvision publishes it in four widths. All stems have 24 channels.

chenyaofo's models for CIFAR have the same tensors, but stride 1 in the stem and no pooling behind it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from rnp_jax.models.design import Design, scaled
from rnp_jax.models.graph import Graph, Image, Layer, Part, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.parts import Units

WIDTH = 24
_DEPTHS = (4, 8, 4)
_CHANNELS: Mapping[str, tuple[int, ...]] = MappingProxyType(  # of the stages and of the last convolution
    {
        "shufflenet_v2_x0_5": (48, 96, 192, 1024),
        "shufflenet_v2_x1_0": (116, 232, 464, 1024),
        "shufflenet_v2_x1_5": (176, 352, 704, 1024),
        "shufflenet_v2_x2_0": (244, 488, 976, 2048),
    }
)


@dataclass(frozen=True)
class Unit:
    """One of stride 2 has two branches that read the whole input; the others leave half of the channels as they are."""

    features: int
    stride: int
    pooled: bool = False

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the unit, behind max-pooling if it is ``pooled``."""
        x = g.max_pool(x, 3, 2, 1) if self.pooled else x
        half = self.features // 2
        if self.stride == 1:
            kept, x = g.split(x, half)
        else:
            kept = self._depthwise(g, x, "branch1.0", "branch1.1")
            kept = g.unit(kept, Layer("branch1.2", "branch1.3", half))
        out = g.unit(x, Layer("branch2.0", "branch2.1", half))
        out = self._depthwise(g, out, "branch2.3", "branch2.4")
        return g.shuffle(g.concat(kept, g.unit(out, Layer("branch2.5", "branch2.6", half))), 2)

    def _depthwise(self, g: Graph, x: Image, conv: str, norm: str) -> Image:
        channels = g.channels(x)
        return g.unit(x, Layer(conv, norm, channels, 3, self.stride, channels, activation=None))


def _parts(published: tuple[int, ...], small: bool, width: int) -> Parts:
    *channels, last = (2 * scaled(each // 2, width, WIDTH) for each in published)
    parts: list[tuple[str, Part]] = [("", Units((Layer("conv1.0", "conv1.1", width, 3, 1 if small else 2),)))]
    for stage, (features, depth) in enumerate(zip(channels, _DEPTHS, strict=True), 2):
        units = (Unit(features, 1 if i else 2, pooled=stage == 2 and i == 0 and not small) for i in range(depth))
        parts += [(f"stage{stage}.{i}", unit) for i, unit in enumerate(units)]
    return *parts, ("", Units((Layer("conv5.0", "conv5.1", last),)))


def design(channels: tuple[int, ...], *, small: bool = False) -> Design:
    """torchvision's network of these stages and this last convolution, or chenyaofo's (``small``)."""
    found = graph_design(partial(_parts, channels, small), "conv1.0", "fc", WIDTH, image_side=32 if small else 224)
    return found._replace(largest_side=64 if small else None)


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        **{name: design(channels) for name, channels in _CHANNELS.items()},
        **{f"chenyaofo_{name}": design(channels, small=True) for name, channels in _CHANNELS.items()},
    }
)
