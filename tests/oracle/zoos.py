"""Every published network of the zoos for 32-pixel images, by our names; torchvision's, as they changed them."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from tests.oracle import kuangliu, other_zoos, weiaicunzai
from tests.oracle.vision import torchvision_models

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
DENSE = {121: (6, 12, 24, 16), 161: (6, 12, 36, 24), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
V2 = {
    "x0_5": (48, 96, 192, 1024),
    "x1_0": (116, 232, 464, 1024),
    "x1_5": (176, 352, 704, 1024),
    "x2_0": (224, 488, 976, 2048),
}
ROWS = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *[(16, 1)] * 5, (32, 2), (32, 1))
DPN = ((96, 256, 16), (192, 512, 32), (384, 1024, 24), (768, 2048, 128))
TREES = ((4, 1, 1), (8, 2, 2), (16, 2, 2), (32, 1, 2))
X200, X400 = ((1, 1, 4, 7), (24, 56, 152, 368), 8), ((1, 2, 7, 12), (32, 64, 160, 384), 16)

INVERTED = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 1), (6, 320, 1, 1))
FIRES = (
    (16, 128, True, False),
    (16, 128, False, True),
    (32, 256, False, False),
    (32, 256, True, True),
    (48, 384, False, False),
    (48, 384, False, True),
    (64, 512, False, False),
    (64, 512, True, False),
)

PUBLISHED: dict[str, Callable[[], nn.Module]] = {
    **{f"cifar_densenet{d}": partial(kuangliu.densenet, DENSE[d], 48 if d == 161 else 32) for d in DENSE},
    **{f"preactresnet{d}": partial(kuangliu.preact_resnet, DEPTHS[d], d > 34) for d in DEPTHS if d > 18},
    "cifar_senet18": partial(kuangliu.preact_resnet, DEPTHS[18], False, squeezed=True),
    "cifar_googlenet": kuangliu.googlenet,
    "cifar_shufflenet_g2": partial(kuangliu.shufflenet, (200, 400, 800), 2),
    "cifar_shufflenet_g3": partial(kuangliu.shufflenet, (240, 480, 960), 3),
    **{f"cifar_shufflenet_v2_{name}": partial(kuangliu.shufflenet_v2, channels) for name, channels in V2.items()},
    "cifar_efficientnet_b0": kuangliu.efficientnet,
    "cifar_regnetx_200mf": partial(kuangliu.regnet, *X200),
    "cifar_regnetx_400mf": partial(kuangliu.regnet, *X400),
    "cifar_regnety_400mf": partial(kuangliu.regnet, *X400, squeezed=True),
    "cifar_dla": partial(kuangliu.dla, TREES),
    "cifar_simple_dla": partial(kuangliu.dla, TREES, simple=True),
    "cifar_dpn26": partial(kuangliu.dpn, DPN, (2, 2, 2, 2)),
    "cifar_dpn92": partial(kuangliu.dpn, DPN, (3, 4, 20, 3)),
    **{f"cifar_resnext29_{c}x{w}d": partial(kuangliu.resnext29, c, w) for c, w in ((2, 64), (4, 64), (8, 64), (32, 4))},
    "cifar_mobilenet": partial(kuangliu.mobilenet, ROWS),
    "cifar_pnasnet_a": partial(kuangliu.pnasnet, 44, False),
    "cifar_pnasnet_b": partial(kuangliu.pnasnet, 32, True),
    **{f"weiaicunzai_resnet{d}": partial(other_zoos.resnet, DEPTHS[d], d > 34) for d in DEPTHS},
    **{f"weiaicunzai_seresnet{d}": partial(other_zoos.seresnet, DEPTHS[d], d > 34) for d in DEPTHS},
    **{f"weiaicunzai_preactresnet{d}": partial(other_zoos.preactresnet, DEPTHS[d], d > 34) for d in DEPTHS},
    "weiaicunzai_resnext50": partial(other_zoos.resnext, DEPTHS[50]),
    "weiaicunzai_resnext101": partial(other_zoos.resnext, DEPTHS[101]),
    "weiaicunzai_resnext152": partial(other_zoos.resnext, (3, 4, 36, 3)),
    "weiaicunzai_wrn40": other_zoos.wide_resnet,
    **{f"meliketoy_wrn{d}": partial(other_zoos.meliketoy, ((d - 4) // 6,) * 3) for d in (16, 22, 28, 34, 40)},
    **{f"weiaicunzai_densenet{d}": partial(other_zoos.densenet, DENSE[d], 48 if d == 161 else 32) for d in DENSE},
    "weiaicunzai_googlenet": partial(other_zoos.googlenet, kuangliu.INCEPTIONS),
    "weiaicunzai_mobilenet": partial(other_zoos.mobilenet, ROWS),
    "weiaicunzai_shufflenet": partial(other_zoos.shufflenet, (240, 480, 960)),
    "weiaicunzai_mobilenet_v2": partial(weiaicunzai.mobilenet_v2, INVERTED),
    "weiaicunzai_squeezenet": partial(weiaicunzai.squeezenet, FIRES),
    "weiaicunzai_xception": weiaicunzai.xception,
    "weiaicunzai_shufflenet_v2": partial(other_zoos.shufflenet_v2, V2["x1_0"]),
    **{
        f"bearpaw_preresnet{d}": partial(other_zoos.preresnet, ((d - 2) // 6,) * 3, False)
        for d in (20, 32, 44, 56, 110)
    },
    **{
        f"bearpaw_preresnet{d}_bottleneck": partial(other_zoos.preresnet, ((d - 2) // 9,) * 3, True) for d in (110, 164)
    },
    **{f"bearpaw_densenet{d}": partial(other_zoos.bearpaw_densenet, d, k) for d, k in ((100, 12), (190, 40))},
    **{f"bearpaw_resnext29_{c}x64d": partial(other_zoos.bearpaw_resnext, c) for c in (8, 16)},
}


def _vision(name: str, num_classes: int = 10, **options: Any) -> Any:
    return torchvision_models().get_model(name, num_classes=num_classes, **options)


def chenyaofo_mobilenet_v2(width_mult: float = 1.0) -> nn.Module:
    """chenyaofo's and huyvnphan's strides; where these blocks keep their channels, they add their input."""
    module = _vision("mobilenet_v2", width_mult=width_mult)
    block = module.features[2]
    module.features[0][0].stride = block.conv[1][0].stride = (1, 1)
    block.use_res_connect = block.conv[0][0].in_channels == block.out_channels
    return module


def chenyaofo_shufflenet_v2(size: str = "x1_0") -> nn.Module:
    """No halving before the stages."""
    module = _vision(f"shufflenet_v2_{size}")
    module.conv1[0].stride, module.maxpool = (1, 1), nn.Identity()
    return module


def huyvnphan_densenet(depth: int) -> nn.Module:
    """A 3x3 stem of stride 1, and the pooling behind it."""
    module = _vision(f"densenet{depth}")
    module.features.conv0 = nn.Conv2d(3, module.features.conv0.out_channels, 3, padding=1, bias=False)
    return module


def huyvnphan_resnet18() -> nn.Module:
    """A 3x3 stem of stride 1, and the pooling behind it."""
    module = _vision("resnet18")
    module.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    return module


def huyvnphan_googlenet() -> nn.Module:
    """One convolution as stem; padded poolings."""
    module = _vision("googlenet", aux_logits=False, init_weights=False)
    module.conv1 = type(module.conv1)(3, 192, kernel_size=3, padding=1)
    for name in ("maxpool1", "conv2", "conv3", "maxpool2"):
        setattr(module, name, nn.Identity())
    module.maxpool3 = module.maxpool4 = nn.MaxPool2d(3, 2, 1)
    return module


def huyvnphan_inception_v3() -> nn.Module:
    """One convolution as stem."""
    module = _vision("inception_v3", aux_logits=False, init_weights=False)
    module.Conv2d_1a_3x3 = type(module.Conv2d_1a_3x3)(3, 192, kernel_size=3, padding=1)
    for name in ("Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"):
        setattr(module, name, nn.Identity())
    return module
