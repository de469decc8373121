"""Residual networks whose blocks begin with batch norm and ReLU (He et al. 2016b), for 32-pixel images.

| names | by |
|---|---|
| ``preactresnet34`` to ``152``; ``cifar_senet18``, whose blocks also have squeeze-and-excitation | kuangliu |
| ``weiaicunzai_preactresnet…``; ``weiaicunzai_wrn40``, a wide ResNet | weiaicunzai |
| ``meliketoy_wrn…``: wide ResNets | meliketoy |
| ``bearpaw_preresnet…``: three stages; ``…_bottleneck`` if they consist of bottlenecks | bearpaw |

``preactresnet18`` is in ``resnet``. weiaicunzai's and meliketoy's convolutions have biases, and their shortcuts read
the input itself, as bearpaw's do. A wide ResNet has any widening factor k; its width is 16k, behind a stem of 16
channels.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from rnp_jax.models.design import Design
from rnp_jax.models.graph import Layer, Part, Parts
from rnp_jax.models.graph_net import graph_design
from rnp_jax.models.parts import Norm, PreActivated, Squeeze, stages, stem
from rnp_jax.models.resnet import DEPTHS

_STEM = 16  # channels of the stem of a wide ResNet


class Source(NamedTuple):
    """What distinguishes the networks of a source.

    Attributes:
      stem: names of the first convolution, and of its batch norm if it has one.
      stage: name of a block, for the number of its stage, counted from ``first``, and its position.
      first: number of the first stage.
      layer: the names of a block's batch norm and convolution, for their position.
      shortcut: name of the projection.
      norm: the last batch norm; None if there is none.
      head: the classifier.
      bias: whether convolutions have a bias.
      raw: whether projections read the block's input itself.
      strided: which convolution of a basic block has its stride, and which of a bottleneck.
    """

    stem: tuple[str, str | None]
    stage: str
    first: int
    layer: Callable[[int], tuple[str, str]]
    shortcut: str
    norm: str | None
    head: str
    bias: bool = False
    raw: bool = False
    strided: tuple[int, int] = (0, 1)


def _numbered(i: int) -> tuple[str, str]:
    return f"bn{i + 1}", f"conv{i + 1}"


def _sequential(step: int, i: int) -> tuple[str, str]:
    return f"residual.{3 * i}", f"residual.{step * i + 2}"


KUANGLIU = Source(("conv1", None), "layer{}.{}", 1, _numbered, "shortcut.0", None, "linear")
SENET = KUANGLIU._replace(stem=("conv1", "bn1"))
_STAGED = Source(("pre.0", "pre.1"), "stage{}.{}", 1, partial(_sequential, 3), "shortcut", None, "linear", bias=True)
WEIAICUNZAI = _STAGED._replace(raw=True, strided=(0, 0))
WIDE = WEIAICUNZAI._replace(
    stem=("init_conv", None),
    stage="conv{}.{}",
    first=2,
    layer=partial(_sequential, 4),  # there is dropout before the second convolution
    shortcut="shortcut.0",
    norm="bn",
)
MELIKETOY = KUANGLIU._replace(norm="bn1", bias=True, raw=True, strided=(1, 1))
BEARPAW = KUANGLIU._replace(shortcut="downsample.0", norm="bn", head="fc", raw=True)


class Form(NamedTuple):
    """The layers of a network.

    Attributes:
      depths: blocks of each stage.
      bottleneck: whether the blocks are bottlenecks.
      squeezed: whether they have squeeze-and-excitation, with a sixteenth of their channels.
      wide: whether the stem has 16 channels at every width.
    """

    depths: tuple[int, ...]
    bottleneck: bool = False
    squeezed: bool = False
    wide: bool = False


def _parts(source: Source, form: Form, width: int) -> Parts:
    first = _STEM if form.wide else width
    rows, inputs = [], first
    for stage, depth in enumerate(form.depths):
        planes, row = width * 2**stage, []
        for i in range(depth):
            row.append(_block(source, form, inputs, planes, 2 if stage and i == 0 else 1))
            inputs = planes * (4 if form.bottleneck else 1)
        rows.append(row)
    conv, norm = source.stem
    blocks = stages(source.stage, [*([[]] * (source.first - 1)), *rows])
    end = [] if source.norm is None else [("", Norm(source.norm))]
    return stem(conv, norm, first, bias=source.bias), *blocks, *end


def _block(source: Source, form: Form, inputs: int, planes: int, stride: int) -> Part:
    sizes, widths = (3, 3), (planes, planes)
    if form.bottleneck:
        sizes, widths = (1, 3, 1), (planes, planes, 4 * planes)
    layers = []
    for i, (features, size) in enumerate(zip(widths, sizes, strict=True)):
        norm, conv = source.layer(i)
        step = stride if i == source.strided[form.bottleneck] else 1
        layers.append(Layer(conv, norm, features, size, step, bias=source.bias))
    shortcut = None
    if stride != 1 or inputs != widths[-1]:
        shortcut = Layer(source.shortcut, None, widths[-1], stride=stride, bias=source.bias)
    squeeze = Squeeze("fc1", "fc2", max(1, planes // 16)) if form.squeezed else None
    return PreActivated(tuple(layers), shortcut, source.raw, squeeze)


def design(source: Source, form: Form, width: int = 64) -> Design:
    """A network with the names of a source; ``width`` is the published one."""
    base = f"{source.stage.format(source.first, 0)}.{source.layer(0)[1]}" if form.wide else None
    return graph_design(partial(_parts, source, form), source.stem[0], source.head, width, base=base)


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        **{
            f"preactresnet{depth}": design(KUANGLIU, Form(depths, depth > 34))
            for depth, depths in DEPTHS.items()
            if depth > 18
        },
        "cifar_senet18": design(SENET, Form(DEPTHS[18], squeezed=True)),
        **{
            f"weiaicunzai_preactresnet{depth}": design(WEIAICUNZAI, Form(depths, depth > 34))
            for depth, depths in DEPTHS.items()
        },
        "weiaicunzai_wrn40": design(WIDE, Form((6, 6, 6), wide=True), 160),
        **{
            f"meliketoy_wrn{depth}": design(MELIKETOY, Form(((depth - 4) // 6,) * 3, wide=True), 160)
            for depth in (16, 22, 28, 34, 40)
        },
        **{
            f"bearpaw_preresnet{depth}": design(BEARPAW, Form(((depth - 2) // 6,) * 3), 16)
            for depth in (20, 32, 44, 56, 110)
        },
        **{
            f"bearpaw_preresnet{depth}_bottleneck": design(BEARPAW, Form(((depth - 2) // 9,) * 3, True), 16)
            for depth in (110, 164)
        },
    }
)
