"""Small networks with timm's layer names, written from its definitions."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from rnp_jax.models import efficientnet, mobilenet_v3


class Attention(nn.Module):
    """Queries, keys and values from one layer, in this order."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """A hidden layer with GELU."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class VitBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, 1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, 1e-6), Mlp(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    def __init__(self, side: int, patch: int, depth: int, heads: int, width: int, num_classes: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (side // patch) ** 2, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.Sequential(*(VitBlock(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width, 1e-6), nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patch_embed.get_submodule("proj")(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of an image."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # torch's name
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv_dw, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width, 1e-6)
        self.mlp, self.gamma = Mlp(width), nn.Parameter(torch.rand(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
        return x + (self.gamma * y).permute(0, 3, 1, 2)


class ConvNextStage(nn.Module):
    def __init__(self, inputs: int, width: int, depth: int):
        super().__init__()
        halved = nn.Sequential(LayerNorm2d(inputs, 1e-6), nn.Conv2d(inputs, width, 2, 2))
        self.downsample = nn.Identity() if inputs == width else halved
        self.blocks = nn.Sequential(*(ConvNextBlock(width) for _ in range(depth)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.downsample(x))


class ConvNext(nn.Module):
    def __init__(self, depths: tuple[int, ...], width: int, num_classes: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 4, 4), LayerNorm2d(width, 1e-6))
        widths = [width, *(width * 2**i for i in range(4))]
        stages = zip(widths[:-1], widths[1:], depths, strict=True)
        self.stages = nn.Sequential(*(ConvNextStage(*sizes) for sizes in stages))
        self.head = nn.Module()
        self.head.norm, self.head.fc = LayerNorm2d(widths[-1], 1e-6), nn.Linear(widths[-1], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stages(self.stem(x)).mean((2, 3), keepdim=True)
        return self.head.get_submodule("fc")(self.head.get_submodule("norm")(x).flatten(1))


class Squeeze(nn.Module):
    def __init__(self, channels: int, few: int, first: Any, gate: Any):
        super().__init__()
        self.conv_reduce, self.conv_expand = nn.Conv2d(channels, few, 1), nn.Conv2d(few, channels, 1)
        self.first, self.gate = first, gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.conv_expand(self.first(self.conv_reduce(x.mean((2, 3), keepdim=True)))))


class Inverted(nn.Module):
    """Without an expansion, the depthwise convolution comes first and the projection is called ``conv_pw``."""

    def __init__(self, sizes: tuple[int, int, int], kernel: int, stride: int, activation: Any, squeeze: Any = None):
        super().__init__()
        inputs, inner, outputs = sizes
        self.expands, self.adds, self.activation = inputs != inner, stride == 1 and inputs == outputs, activation
        if self.expands:
            self.conv_pw, self.bn1 = nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv_dw = nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False)
        self.add_module("bn2" if self.expands else "bn1", nn.BatchNorm2d(inner))
        self.se = nn.Identity() if squeeze is None else squeeze
        self.add_module("conv_pwl" if self.expands else "conv_pw", nn.Conv2d(inner, outputs, 1, bias=False))
        self.add_module("bn3" if self.expands else "bn2", nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.activation(self.bn1(self.conv_pw(x))) if self.expands else x
        depthwise, project, last = ("bn2", "conv_pwl", "bn3") if self.expands else ("bn1", "conv_pw", "bn2")
        y = self.se(self.activation(self.get_submodule(depthwise)(self.conv_dw(y))))
        y = self.get_submodule(last)(self.get_submodule(project)(y))
        return x + y if self.adds else y


class EfficientNet(nn.Module):
    """The first version: ``rows`` are expansion, kernel, stride, channels and blocks of the stages."""

    def __init__(self, rows: tuple[tuple[int, ...], ...], width: int, num_classes: int):
        super().__init__()
        self.conv_stem, self.bn1 = nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width)
        stages, inputs = [], width
        for expansion, kernel, stride, channels, count in rows:
            blocks = []
            for i in range(count):
                inner = inputs * expansion
                squeeze = Squeeze(inner, max(1, inputs // 4), functional.silu, torch.sigmoid)
                sizes = (inputs, inner, channels)
                blocks.append(Inverted(sizes, kernel, 1 if i else stride, functional.silu, squeeze))
                inputs = channels
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head, self.bn2 = nn.Conv2d(inputs, 4 * inputs, 1, bias=False), nn.BatchNorm2d(4 * inputs)
        self.classifier = nn.Linear(4 * inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(functional.silu(self.bn1(self.conv_stem(x))))
        return self.classifier(functional.silu(self.bn2(self.conv_head(x))).mean((2, 3)))


class MobileNetV3(nn.Module):
    """The layer behind the pooling is a convolution. ``depths`` are the numbers of blocks of the stages.

    ``rows`` are kernel, channels inside and behind, squeezed, activation and stride of the blocks.
    """

    def __init__(self, rows: Any, depths: tuple[int, ...], hidden: int, width: int, num_classes: int):
        super().__init__()
        self.conv_stem, self.bn1 = nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width)
        blocks, inputs = [], width
        for kernel, inner, channels, squeezed, activation, stride in rows:
            few = max(8, int(inner / 4 + 4) // 8 * 8)
            squeeze = Squeeze(inner, few + 8 if few < 0.9 * inner / 4 else few, functional.relu, functional.hardsigmoid)
            function = functional.relu if activation == "relu" else functional.hardswish
            sizes = (inputs, inner, channels)
            blocks.append(Inverted(sizes, kernel, stride, function, squeeze if squeezed else None))
            inputs = channels
        rest = iter(blocks)
        stages = [nn.Sequential(*(next(rest) for _ in range(depth))) for depth in depths]
        last = nn.Module()
        last.conv, last.bn1 = nn.Conv2d(inputs, 6 * inputs, 1, bias=False), nn.BatchNorm2d(6 * inputs)
        self.blocks = nn.ModuleList([*stages, nn.ModuleList([last])])
        self.conv_head, self.classifier = nn.Conv2d(6 * inputs, hidden, 1), nn.Linear(hidden, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.hardswish(self.bn1(self.conv_stem(x)))
        *stages, ending = self.blocks
        for stage in stages:
            x = stage(x)
        last = ending.get_submodule("0")
        x = functional.hardswish(last.get_submodule("bn1")(last.get_submodule("conv")(x))).mean((2, 3), keepdim=True)
        return self.classifier(functional.hardswish(self.conv_head(x)).flatten(1))


PUBLISHED: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "timm_vit_tiny_patch16": partial(VisionTransformer, 224, 16, 12, 3, 192, 10),
        "timm_vit_base_patch16": partial(VisionTransformer, 224, 16, 12, 12, 768, 10),
        "timm_convnext_tiny": partial(ConvNext, (3, 3, 9, 3), 96, 10),
        "timm_efficientnet_b0": partial(EfficientNet, efficientnet.STAGES, 32, 10),
        "timm_mobilenetv3_large": partial(MobileNetV3, mobilenet_v3.LARGE, (1, 2, 3, 4, 2, 3), 1280, 16, 10),
        "timm_mobilenetv3_small": partial(MobileNetV3, mobilenet_v3.SMALL, (1, 2, 3, 2, 3), 1024, 16, 10),
    }
)
