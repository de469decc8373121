"""TrojanZoo's networks and the ResNet paper's for CIFAR, built of torchvision's, with the releases' keys."""

from collections import OrderedDict

import torch
from torch import nn

from tests.oracle.vision import torchvision_models


class TrojanZoo(nn.Module):
    """The layers of a torchvision ResNet under ``features``, and the last one as ``classifier.fc``."""

    def __init__(self, network: nn.Module, comp: bool):
        super().__init__()
        layers = OrderedDict(network.named_children())
        del layers["avgpool"]
        last = layers.pop("fc")
        if comp:
            layers["conv1"] = nn.Conv2d(3, len(network.get_parameter("conv1.weight")), 3, 1, 1, bias=False)
            del layers["maxpool"]
        self.features = nn.Sequential(layers)
        self.classifier = nn.Sequential(OrderedDict(fc=last))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class Widened(nn.Module):
    """Every second pixel, between channels of zeros: option A of the ResNet paper."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added = x.shape[1] // 2
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, added, added))


class ThreeStages(nn.Module):
    """The ResNet paper's network for CIFAR: NAD's and others' with projections and torchvision's names, or padded."""

    def __init__(self, blocks: int = 5, width: int = 16, num_classes: int = 10, *, padded: bool = False):
        super().__init__()
        self.padded = padded
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(blocks, width, width, 1)
        self.layer2 = self._stage(blocks, width, 2 * width, 2)
        self.layer3 = self._stage(blocks, 2 * width, 4 * width, 2)
        self.head = "linear" if padded else "fc"
        self.add_module(self.head, nn.Linear(4 * width, num_classes))

    def _stage(self, blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        block = torchvision_models().resnet.BasicBlock
        project = None
        if inputs != outputs:
            projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            project = Widened() if self.padded else projection
        rest = (block(outputs, outputs) for _ in range(blocks - 1))
        return nn.Sequential(block(inputs, outputs, stride, project), *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.get_submodule(self.head)(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))
