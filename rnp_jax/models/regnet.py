"""RegNet (Radosavovic et al. 2020) as torchvision publishes it: X of grouped bottlenecks, Y with gates as well."""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from rnp_jax.models.design import Design, scaled
from rnp_jax.models.graph import Layer, Part, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.parts import Residual, Squeeze, Units

WIDTH = 32  # of the stem

Stages = tuple[tuple[int, ...], tuple[int, ...], int]
_X: Mapping[str, Stages] = MappingProxyType(  # blocks and channels of the four stages, channels of a group
    {
        "400mf": ((1, 2, 7, 12), (32, 64, 160, 400), 16),
        "800mf": ((1, 3, 7, 5), (64, 128, 288, 672), 16),
        "1_6gf": ((2, 4, 10, 2), (72, 168, 408, 912), 24),
        "3_2gf": ((2, 6, 15, 2), (96, 192, 432, 1008), 48),
        "8gf": ((2, 5, 15, 1), (80, 240, 720, 1920), 120),
        "16gf": ((2, 6, 13, 1), (256, 512, 896, 2048), 128),
        "32gf": ((2, 7, 13, 1), (336, 672, 1344, 2520), 168),
    }
)
_Y: Mapping[str, Stages] = MappingProxyType(
    {
        "400mf": ((1, 3, 6, 6), (48, 104, 208, 440), 8),
        "800mf": ((1, 3, 8, 2), (64, 144, 320, 784), 16),
        "1_6gf": ((2, 6, 17, 2), (48, 120, 336, 888), 24),
        "3_2gf": ((2, 5, 13, 1), (72, 216, 576, 1512), 24),
        "8gf": ((2, 4, 10, 1), (224, 448, 896, 2016), 56),
        "16gf": ((2, 4, 11, 1), (224, 448, 1232, 3024), 112),
        "32gf": ((2, 5, 12, 1), (232, 696, 1392, 3712), 232),
        "128gf": ((2, 7, 17, 1), (528, 1056, 2904, 7392), 264),
    }
)


def _block(inputs: int, features: int, groups: int, stride: int, *, squeezed: bool) -> Residual:
    layers = (
        Layer("f.a.0", "f.a.1", features),
        Layer("f.b.0", "f.b.1", features, 3, stride, groups),
        Layer("f.c.0", "f.c.1", features, activation=None),
    )
    projects = stride > 1 or inputs != features
    shortcut = Layer("proj.0", "proj.1", features, 1, stride, activation=None) if projects else None
    squeeze = Squeeze("f.se.fc1", "f.se.fc2", max(1, round(inputs / 4))) if squeezed else None
    return Residual(layers, shortcut, squeeze, squeezed=1)


def _parts(stages: Stages, squeezed: bool, width: int) -> Parts:
    depths, channels, group = stages
    parts: list[tuple[str, Part]] = [("", Units((Layer("stem.0", "stem.1", width, 3, 2),)))]
    inputs = width
    for stage, (depth, published) in enumerate(zip(depths, channels, strict=True), 1):
        own = min(group, published)
        groups = published // own
        features = groups * scaled(own, width, WIDTH)
        for i in range(depth):
            block = _block(inputs, features, groups, 1 if i else 2, squeezed=squeezed)
            parts.append((f"trunk_output.block{stage}.block{stage}-{i}", block))
            inputs = features
    return tuple(parts)


def design(stages: Stages, *, squeezed: bool) -> Design:
    """A RegNet of these stages, with or without squeeze-and-excitation."""
    return graph_design(partial(_parts, stages, squeezed), "stem.0", "fc", WIDTH, image_side=224)


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        **{f"regnet_x_{name}": design(stages, squeezed=False) for name, stages in _X.items()},
        **{f"regnet_y_{name}": design(stages, squeezed=True) for name, stages in _Y.items()},
    }
)
