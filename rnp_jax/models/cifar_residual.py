"""ResNets, SE-ResNets and ResNeXts for 32-pixel images whose layers have names of their own.

| names | by |
|---|---|
| ``weiaicunzai_resnet18`` to ``152``, ``weiaicunzai_seresnet…``, ``weiaicunzai_resnext…`` | weiaicunzai |
| ``bearpaw_resnext29_8x64d``, ``…_16x64d`` (prlz77's definition) | bearpaw |

weiaicunzai's ResNeXts have groups in the first 1x1 convolution too. In its SE-ResNets all convolutions have a bias, and
a ReLU comes before the gate.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from rnp_jax.models.design import Design, scaled
from rnp_jax.models.graph import Layer, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.parts import Residual, Squeeze, stages, stem
from rnp_jax.models.resnet import DEPTHS

WIDTH = 64


class Source(NamedTuple):
    """The names and habits of a source.

    Attributes:
      stem: names of the first convolution and its batch norm.
      stage: name of a block, for the number of its stage, counted from ``first``, and its position.
      first: number of the first stage.
      layer: names of a block's convolution and batch norm, for their position.
      shortcut: names of the projection and its batch norm.
      head: the classifier.
      bias: whether convolutions have a bias.
      gates: names of the two linear layers of squeeze-and-excitation, if there is one.
    """

    stem: tuple[str, str]
    stage: str
    first: int
    layer: Callable[[int], tuple[str, str]]
    shortcut: tuple[str, str]
    head: str
    bias: bool = False
    gates: tuple[str, str] | None = None


def _sequential(name: str, i: int) -> tuple[str, str]:
    return f"{name}.{3 * i}", f"{name}.{3 * i + 1}"


def _reduced(i: int) -> tuple[str, str]:
    return (("conv_reduce", "bn_reduce"), ("conv_conv", "bn"), ("conv_expand", "bn_expand"))[i]


_SHORTCUT = ("shortcut.0", "shortcut.1")
RESNET = Source(("conv1.0", "conv1.1"), "conv{}_x.{}", 2, partial(_sequential, "residual_function"), _SHORTCUT, "fc")
RESNEXT = RESNET._replace(stage="conv{}.{}", layer=partial(_sequential, "split_transforms"))
SERESNET = Source(
    ("pre.0", "pre.1"),
    "stage{}.{}",
    1,
    partial(_sequential, "residual"),
    _SHORTCUT,
    "linear",
    bias=True,
    gates=("excitation.0", "excitation.2"),
)
BEARPAW = Source(
    ("conv_1_3x3", "bn_1"),
    "stage_{0}.stage_{0}_bottleneck_{1}",
    1,
    _reduced,
    ("shortcut.shortcut_conv", "shortcut.shortcut_bn"),
    "classifier",
)


class Form(NamedTuple):
    """The layers of a network of the published width.

    Attributes:
      depths: blocks of each stage.
      bottleneck: whether the blocks are bottlenecks.
      inner: channels inside the first stage's bottlenecks; twice as many in each of the next.
      groups: groups of the 3x3 convolutions in bottlenecks.
      early: whether the 1x1 convolution before them has the same groups.
    """

    depths: tuple[int, ...]
    bottleneck: bool = True
    inner: int = WIDTH
    groups: int = 1
    early: bool = False


def _parts(source: Source, form: Form, width: int) -> Parts:
    rows, inputs = [], width
    for stage, depth in enumerate(form.depths):
        row, outputs = [], width * 2**stage * (4 if form.bottleneck else 1)
        for i in range(depth):
            row.append(_block(source, form, width, (stage, inputs, outputs), 2 if stage and i == 0 else 1))
            inputs = outputs
        rows.append(row)
    named = stages(source.stage, [*([[]] * (source.first - 1)), *rows])
    return stem(*source.stem, width, bias=source.bias), *named


def _block(source: Source, form: Form, width: int, place: tuple[int, int, int], stride: int) -> Residual:
    stage, inputs, outputs = place
    if form.bottleneck:
        inner, groups = scaled(form.inner, width, WIDTH) * 2**stage, scaled(form.groups, width, WIDTH)
        shapes = ((inner, 1, 1, groups if form.early else 1), (inner, 3, stride, groups), (outputs, 1, 1, 1))
    else:
        shapes = ((outputs, 3, stride, 1), (outputs, 3, 1, 1))
    layers = [Layer(*source.layer(i), *shape, bias=source.bias) for i, shape in enumerate(shapes)]
    if source.gates is None:
        layers[-1] = layers[-1]._replace(activation=None)
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = Layer(*source.shortcut, outputs, stride=stride, bias=source.bias, activation=None)
    squeeze = Squeeze(*source.gates, max(1, outputs // 16), linear=True) if source.gates else None
    return Residual(tuple(layers), shortcut, squeeze)


def design(source: Source, form: Form) -> Design:
    """A network with the names of a source; its sizes grow with the stem, and so does the number of groups."""
    return graph_design(partial(_parts, source, form), source.stem[0], source.head, WIDTH)


_RESNEXT_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 4, 36, 3)}

DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        **{
            f"weiaicunzai_{name}{depth}": design(source, Form(depths, depth > 34))
            for name, source in (("resnet", RESNET), ("seresnet", SERESNET))
            for depth, depths in DEPTHS.items()
        },
        **{
            f"weiaicunzai_resnext{depth}": design(RESNEXT, Form(depths, inner=128, groups=32, early=True))
            for depth, depths in _RESNEXT_DEPTHS.items()
        },
        **{
            f"bearpaw_resnext29_{cardinality}x64d": design(
                BEARPAW, Form((3, 3, 3), inner=64 * cardinality, groups=cardinality)
            )
            for cardinality in (8, 16)
        },
    }
)
