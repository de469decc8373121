"""SqueezeNet (Iandola et al. 2016) with batch norm and shortcuts for 32-pixel images, by weiaicunzai.

The file keeps the classifier as a 1x1 convolution, whose output is averaged over space.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from rnp_jax.models.design import Design, scaled
from rnp_jax.models.graph import Graph, Image, Layer, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.parts import Units

WIDTH = 96
_HEAD = "conv10"
Row = tuple[int, int, bool, bool]
ROWS: tuple[Row, ...] = (  # squeezed and expanded channels, behind pooling, with a shortcut
    (16, 128, True, False),
    (16, 128, False, True),
    (32, 256, False, False),
    (32, 256, True, True),
    (48, 384, False, False),
    (48, 384, False, True),
    (64, 512, False, False),
    (64, 512, True, False),
)


@dataclass(frozen=True)
class Fire:
    """Few channels, then as many 1x1 as 3x3 convolutions that read them; perhaps added to the input."""

    squeezed: int
    features: int
    pooled: bool
    added: bool

    def __call__(self, g: Graph, x: Image) -> Image:
        """Applies the module, behind max-pooling if it is ``pooled``."""
        x = g.max_pool(x, 2, 2) if self.pooled else x
        half = self.features // 2
        few = g.unit(x, Layer("squeeze.0", "squeeze.1", self.squeezed, bias=True))
        left = g.unit(few, Layer("expand_1x1.0", "expand_1x1.1", half, bias=True))
        out = g.concat(left, g.unit(few, Layer("expand_3x3.0", "expand_3x3.1", half, 3, bias=True)))
        return g.add(out, x) if self.added else out


def _parts(rows: tuple[Row, ...], width: int) -> Parts:
    fires = []
    for i, (squeezed, expanded, pooled, added) in enumerate(rows, 2):
        few, half = scaled(squeezed, width, WIDTH), scaled(expanded // 2, width, WIDTH)
        fires.append((f"fire{i}", Fire(few, 2 * half, pooled, added)))
    return ("", Units((Layer("stem.0", "stem.1", width, 3, bias=True),))), *fires


def design(rows: tuple[Row, ...]) -> Design:
    """A network of these modules."""
    return graph_design(partial(_parts, rows), "stem.0", _HEAD, WIDTH)._replace(axes=((_HEAD, (0, 2)),))


DESIGNS: Mapping[str, Design] = MappingProxyType({"weiaicunzai_squeezenet": design(ROWS)})
