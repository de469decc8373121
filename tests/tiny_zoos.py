"""A shallow and narrow network of every family of the zoos, in torch and here."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import NamedTuple

import torch
from torch import nn

from rnp_jax.models import (
    Architecture,
    Network,
    cifar_bottlenecks,
    cifar_densenet,
    cifar_dla,
    cifar_dpn,
    cifar_efficientnet,
    cifar_googlenet,
    cifar_mobilenet,
    cifar_pnasnet,
    cifar_preactresnet,
    cifar_residual,
    cifar_shufflenet,
    cifar_squeezenet,
    cifar_xception,
)
from rnp_jax.models.design import Design
from rnp_jax.types import Variables
from tests.oracle import kuangliu, other_zoos, weiaicunzai
from tests.oracle.zoos import ROWS, TREES
from tests.parity import load, randomize, registered


class Tiny(NamedTuple):
    """A shallow and narrow network of a family, in torch and here; images have this side."""

    design: Design
    build: Callable[[], nn.Module]
    side: int = 8


Plan, Form = cifar_bottlenecks.Plan, cifar_preactresnet.Form
_INCEPTIONS = {"a3": (12, 6, 12, 9, 6, 3), "a4": (6, 12, 9, 6, 12, 6)}
_NARROW = (24, 48)
TINY = {
    "resnext": Tiny(
        cifar_bottlenecks.design(Plan((2, 1), (32, 64), (64, 128), (1, 2), (8, 8), stem=1)),
        lambda: kuangliu.bottlenecks((2, 1), (8, 16), (16, 32), (1, 2), (2, 2), 16, size=1),
    ),
    "regnet": Tiny(
        cifar_bottlenecks.design(Plan((1, 2), (64, 128), (64, 128), (1, 2), (8, 16), squeezed=True)),
        lambda: kuangliu.bottlenecks((1, 2), (16, 32), (16, 32), (1, 2), (2, 4), 16, squeezed=True),
    ),
    "preact": Tiny(
        cifar_preactresnet.design(cifar_preactresnet.KUANGLIU, Form((2, 1), bottleneck=True)),
        lambda: kuangliu.preact_resnet((2, 1), True, 4),
    ),
    "senet": Tiny(
        cifar_preactresnet.design(cifar_preactresnet.SENET, Form((1, 2), squeezed=True)),
        lambda: kuangliu.preact_resnet((1, 2), False, 16, squeezed=True),
    ),
    "densenet": Tiny(cifar_densenet.design((2, 1), cifar_densenet.KUANGLIU, 12), lambda: kuangliu.densenet((2, 1), 3)),
    "googlenet": Tiny(cifar_googlenet.design(_INCEPTIONS), lambda: kuangliu.googlenet(_INCEPTIONS, 64)),
    "shufflenet": Tiny(
        cifar_shufflenet.v1_design((48, 96), 2, depths=(2, 1)), lambda: kuangliu.shufflenet((48, 96), 2, (2, 1))
    ),
    "shufflenet_v2": Tiny(
        cifar_shufflenet.v2_design((*_NARROW, 40), depths=(2, 1)),
        lambda: kuangliu.shufflenet_v2((12, 24, 20), (2, 1), 12),
    ),
    "efficientnet": Tiny(
        cifar_efficientnet.design(((1, 16, 1, 3, 1), (6, 24, 2, 5, 2))),
        lambda: kuangliu.efficientnet(((1, 4, 1, 3, 1), (6, 6, 2, 5, 2)), 8),
    ),
    "mobilenet": Tiny(cifar_mobilenet.design(ROWS[:3]), lambda: kuangliu.mobilenet(ROWS[:3], 4)),
    "dla": Tiny(cifar_dla.design(TREES[:2], simple=False), lambda: kuangliu.dla(TREES[:2], 3)),
    "simple_dla": Tiny(cifar_dla.design(TREES[:2], simple=True), lambda: kuangliu.dla(TREES[:2], 3, simple=True)),
    "dpn": Tiny(
        cifar_dpn.design(((96, 160, 16), (192, 224, 32)), (2, 1)),
        lambda: kuangliu.dpn(((12, 20, 2), (24, 28, 4)), (2, 1), 8, 4),
    ),
    "pnasnet_a": Tiny(cifar_pnasnet.design(44, wide=False, cells=1), lambda: kuangliu.pnasnet(4, False, 1)),
    "pnasnet_b": Tiny(cifar_pnasnet.design(32, wide=True, cells=1), lambda: kuangliu.pnasnet(4, True, 1)),
    "w_resnet": Tiny(
        cifar_residual.design(cifar_residual.RESNET, cifar_residual.Form((2, 1), False)),
        lambda: other_zoos.resnet((2, 1), False, 4),
    ),
    "w_resnext": Tiny(
        cifar_residual.design(cifar_residual.RESNEXT, cifar_residual.Form((2, 1), inner=128, groups=32, early=True)),
        lambda: other_zoos.resnext((2, 1), 16, 4, 8),
    ),
    "w_seresnet": Tiny(
        cifar_residual.design(cifar_residual.SERESNET, cifar_residual.Form((2, 1))),
        lambda: other_zoos.seresnet((2, 1), True, 8),
    ),
    "w_preact": Tiny(
        cifar_preactresnet.design(cifar_preactresnet.WEIAICUNZAI, Form((2, 1), bottleneck=True)),
        lambda: other_zoos.preactresnet((2, 1), True, 4),
    ),
    "w_wrn": Tiny(
        cifar_preactresnet.design(cifar_preactresnet.WIDE, Form((1, 2), wide=True), 16),
        lambda: other_zoos.wide_resnet((1, 2), 0.25),
    ),
    "w_densenet": Tiny(
        cifar_densenet.design((2, 1), cifar_densenet.WEIAICUNZAI, 12), lambda: other_zoos.densenet((2, 1), 3)
    ),
    "w_googlenet": Tiny(
        cifar_googlenet.design(_INCEPTIONS, other=True), lambda: other_zoos.googlenet(_INCEPTIONS, 32), 16
    ),
    "w_mobilenet": Tiny(cifar_mobilenet.design(ROWS[:3], other=True), lambda: other_zoos.mobilenet(ROWS[:3], 4)),
    "w_shufflenet": Tiny(
        cifar_shufflenet.v1_design((48, 96), 3, other=True, depths=(2, 1)),
        lambda: other_zoos.shufflenet((48, 96), 3, (2, 1)),
    ),
    "w_shufflenet_v2": Tiny(
        cifar_shufflenet.v2_design((*_NARROW, 40), other=True, depths=(2, 1)),
        lambda: other_zoos.shufflenet_v2((12, 24, 20), (2, 1), 12),
    ),
    "meliketoy": Tiny(
        cifar_preactresnet.design(cifar_preactresnet.MELIKETOY, Form((1, 1, 1), wide=True), 16),
        lambda: other_zoos.meliketoy((1, 1, 1), 0.5),
    ),
    "w_mobilenet_v2": Tiny(
        cifar_mobilenet.v2_design(((1, 16, 1, 1), (6, 24, 2, 2))),
        lambda: weiaicunzai.mobilenet_v2(((1, 4, 1, 1), (6, 6, 2, 2)), 8, 320),
    ),
    "w_squeezenet": Tiny(
        cifar_squeezenet.design(((32, 96, True, True), (48, 96, True, True))),
        lambda: weiaicunzai.squeezenet(((4, 12, True, True), (6, 12, True, True)), 12),
    ),
    "w_xception": Tiny(
        cifar_xception.design((32, 48, 64, 80, 96, 112, 128), 2),
        lambda: weiaicunzai.xception((8, 12, 16, 20, 24, 28, 32), 2, 8),
        16,
    ),
    "b_preresnet": Tiny(
        cifar_preactresnet.design(cifar_preactresnet.BEARPAW, Form((2, 1), bottleneck=True), 16),
        lambda: other_zoos.preresnet((2, 1), True, 4),
    ),
    "b_densenet": Tiny(
        cifar_densenet.design((1, 1, 1), cifar_densenet.BEARPAW, 12), lambda: other_zoos.bearpaw_densenet(10, 3)
    ),
    "b_resnext": Tiny(
        cifar_residual.design(cifar_residual.BEARPAW, cifar_residual.Form((2, 1), inner=64, groups=8)),
        lambda: other_zoos.bearpaw_resnext(2, (2, 1), 8, 16),
    ),
}


def register() -> AbstractContextManager[None]:
    """Makes them known, as ``tiny_NAME``, while the block runs."""
    return registered(**{f"tiny_{name}": tiny.design for name, tiny in TINY.items()})


@cache
def loaded(name: str) -> tuple[nn.Module, Network, Variables]:
    """A tiny network, recognised from its tensors alone."""
    tiny = TINY[name]
    with torch.random.fork_rng(devices=[]), register():
        torch.manual_seed(0)
        module = randomize(tiny.build())
        return module, *load(module, image_shape=(tiny.side, tiny.side, 3))


def network_of(name: str, width: int) -> Network:
    """One of another width."""
    return Network(Architecture(f"tiny_{name}", 10, width))
