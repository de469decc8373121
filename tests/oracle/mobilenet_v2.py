"""MobileNetV2 for 32x32 images with the state-dict keys of the RNP release.

Glossary: B images, F channels of a layer, w channels of the first convolution (32 as published), K classes.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (everybody's name)

STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, F at w = 32, blocks, stride of the first."""


class Block(nn.Module):
    """1x1, depthwise 3x3 and 1x1 convolutions; a shortcut only where the image keeps its size."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int):
        super().__init__()
        middle = inputs * expansion
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride=stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride == 1 and inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.adds = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = F.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        return branch + self.shortcut(x) if self.adds else branch


class MobileNetV2(nn.Module):
    """[B, 3, 32, 32] -> [B, K]."""

    def __init__(self, width: int = 32, num_classes: int = 10, stages: Sequence[tuple[int, int, int, int]] = STAGES):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks, inputs = [], width
        for expansion, channels, count, stride in stages:
            outputs = channels * width // 32
            for i in range(count):
                blocks.append(Block(inputs, outputs, expansion, stride if i == 0 else 1))
                inputs = outputs
        self.layers = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(inputs, 40 * width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(40 * width)
        self.linear = nn.Linear(40 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.linear(F.avg_pool2d(x, 4).flatten(1))
