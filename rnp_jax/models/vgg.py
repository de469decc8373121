"""VGG (Simonyan & Zisserman, ICLR 2015), with and without batch norm, with all the classifiers used by releases.

| names | classifier | released by |
|---|---|---|
| ``vgg…`` | 7x7 average pooling, ``classifier.0``, ``.3``, ``.6`` | torchvision, BackdoorBench, TrojanZoo |
| ``cifar_vgg…`` | one linear layer, ``classifier`` | RNP, BackdoorBox, LIRA and WaNet (kuangliu's) |
| ``chenyaofo_vgg…`` | global average pooling, ``classifier.0``, ``.3``, ``.6`` of 512 units | chenyaofo's models |
| ``weiaicunzai_vgg…`` | the same, of 4096 units | weiaicunzai's and huyvnphan's models |
| ``toolbox_vgg…`` | ``classifier.1``, ``.4``, ``.6`` of 512 units | backdoor-toolbox |
| ``trojanzoo_vgg…_comp`` | global average pooling, ``classifier.fc1``, ``.fc2``, ``.fc3`` of 512 units | TrojanZoo |
| ``trojanzoo_vgg…_comp_s`` | global average pooling, ``classifier.fc`` | TrojanZoo |
| ``ibau_small_vgg16`` | one linear layer on 4x4 pixels, ``classifier`` | I-BAU (``small_VGG16``) |

I-BAU's has six convolutions, batch norm and ELU. The dropout after each pooling takes a number too, which tells it
apart.
torchvision's image size cannot be inferred from the weights: it is taken as 224 pixels for ImageNet's 1000 classes and
as 32 otherwise.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from rnp_jax.models.chain import Activation
from rnp_jax.models.design import Design, Shapes
from rnp_jax.models.plain import ConvStep, Plan, plain_design

_STAGES: Mapping[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Convolutions of each stage (the paper's table 1: A, B, D, E), behind which the image is halved."""

_FEATURES = (64, 128, 256, 512, 512)

_IBAU_STAGES = ((2, 32), (2, 64), (2, 128))
"""Convolutions of each stage and their filters (https://github.com/YiZeng623/I-BAU, models.py)."""


class _Form(NamedTuple):
    """The layer names of a family and the layers after its convolutions."""

    prefix: str
    suffix: str
    hidden: tuple[tuple[str, int], ...]
    head: str
    pooled: int | None
    image_side: Callable[["_Convs"], int | Callable[[Shapes], int]]


_Convs = tuple[ConvStep, ...]


def _convolutions(
    stages: Sequence[tuple[int, int]], *, batch_norm: bool, activation: Activation = "relu", dropout: bool = False
) -> _Convs:
    """``features.N``, numbered by torch's Sequential: convolution, batch norm, activation; after each stage a pooling.

    ``dropout`` says that one follows each pooling.
    """
    steps: list[ConvStep] = []
    position = 0
    for count, features in stages:
        for i in range(count):
            norm = f"features.{position + 1}" if batch_norm else None
            pool = "max" if i == count - 1 else None
            steps.append(ConvStep(f"features.{position}", features, norm, pool=pool, activation=activation))
            position += 3 if batch_norm else 2
        position += 2 if dropout else 1
    return tuple(steps)


def _torchvision_side(_: _Convs) -> Callable[[Shapes], int]:
    return lambda shapes: 224 if shapes["classifier.6.weight"][0] == 1000 else 32


def _flattened_side(convs: _Convs) -> Callable[[Shapes], int]:
    """Each pooling halves the image, which is then flattened, so the classifier's inputs tell (LIRA's: 2048 for 64)."""

    def side(shapes: Shapes) -> int:
        channels, *_ = shapes.get(f"{convs[-1].conv}.weight", (convs[-1].features,))
        halvings = sum(step.pool is not None for step in convs)
        return 2**halvings * max(1, math.isqrt(shapes["classifier.weight"][-1] // max(1, channels)))

    return side


_FORMS = (
    _Form("vgg", "", (("classifier.0", 4096), ("classifier.3", 4096)), "classifier.6", 7, _torchvision_side),
    _Form("cifar_vgg", "", (), "classifier", None, _flattened_side),
    _Form("chenyaofo_vgg", "", (("classifier.0", 512), ("classifier.3", 512)), "classifier.6", 1, lambda _: 32),
    _Form("weiaicunzai_vgg", "", (("classifier.0", 4096), ("classifier.3", 4096)), "classifier.6", 1, lambda _: 32),
    _Form("toolbox_vgg", "", (("classifier.1", 512), ("classifier.4", 512)), "classifier.6", None, lambda _: 32),
    _Form(
        "trojanzoo_vgg", "_comp", (("classifier.fc1", 512), ("classifier.fc2", 512)), "classifier.fc3", 1, lambda _: 32
    ),
    _Form("trojanzoo_vgg", "_comp_s", (), "classifier.fc", 1, lambda _: 32),
)


def _designs() -> dict[str, Design]:
    found = {}
    for form in _FORMS:
        for depth in _STAGES:
            for batch_norm in (False, True):
                convs = _convolutions(tuple(zip(_STAGES[depth], _FEATURES, strict=True)), batch_norm=batch_norm)
                name = f"{form.prefix}{depth}{'_bn' if batch_norm else ''}{form.suffix}"
                plan = Plan(convs, form.hidden, form.head, form.pooled)
                found[name] = plain_design(plan, form.image_side(convs))
    ibau = _convolutions(_IBAU_STAGES, batch_norm=True, activation="elu", dropout=True)
    return found | {"ibau_small_vgg16": plain_design(Plan(ibau, (), "classifier"), _flattened_side(ibau))}


DESIGNS: Mapping[str, Design] = MappingProxyType(_designs())
