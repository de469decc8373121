"""PyTorch networks whose state-dict keys are those of published checkpoints.

Glossary: B images of C=3 channels, H x W pixels; F channels of a layer; K classes; w the base width (64 as published).

- ``resnet``: the CIFAR ResNets of the RNP release (He et al. 2016; 3x3 stem, no max-pool, expansion 1 or 4).
- ``preact_resnet18``: He et al. 2016b as in BackdoorBench, WaNet and Input-Aware (no final batch norm).
- ``mlp``: a Linear-ReLU stack, keys ``0.weight``, ``0.bias``, ``2.weight``, ...

Every batch norm can carry a mask (``MaskedBatchNorm2d``); a network without masks is the ordinary network.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (everybody's name)


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with an optional mask on its scale only: y = (weight * mask) * xhat + bias, as in the RNP release.

    ``mask`` [F] is a plain tensor, not a parameter, so the state dict is that of ``nn.BatchNorm2d``; None is no mask.
    """

    mask: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """[B, F, H, W] -> [B, F, H, W]; in train mode the running statistics move (momentum 0.1, unbiased variance)."""
        assert self.num_batches_tracked is not None
        assert self.momentum is not None  # torch's defaults, which all published networks keep
        if self.training:
            self.num_batches_tracked.add_(1)
        scale = self.weight if self.mask is None else self.weight * self.mask
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(input, mean, variance, scale, self.bias, self.training, self.momentum, self.eps)


def batch_norms(model: nn.Module) -> dict[str, MaskedBatchNorm2d]:
    """The maskable layers by name, in the order in which the RNP release lists its masks (order of registration)."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MaskedBatchNorm2d)}


def set_masks(model: nn.Module, masks: Mapping[str, Tensor] | None) -> None:
    """Gives every batch norm its mask [F], or takes all masks away (None). Raises ``KeyError`` if one is missing."""
    for name, norm in batch_norms(model).items():
        norm.mask = None if masks is None else masks[name]


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)


def projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """The shortcut: empty (the identity) where the shape is kept, else 1x1 convolution and batch norm."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(conv1x1(inputs, outputs, stride), MaskedBatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut: [B, inputs, H, W] -> [B, planes, H/stride, W/stride]."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int):
        super().__init__()
        self.conv1 = conv3x3(inputs, planes, stride)
        self.bn1 = MaskedBatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = MaskedBatchNorm2d(planes)
        self.shortcut = projection(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return F.relu(branch + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, strided 3x3, 1x1 convolutions around a shortcut: [B, inputs, H, W] -> [B, 4*planes, H/stride, W/stride]."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int):
        super().__init__()
        outputs = self.expansion * planes
        self.conv1 = conv1x1(inputs, planes)
        self.bn1 = MaskedBatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, stride)
        self.bn2 = MaskedBatchNorm2d(planes)
        self.conv3 = conv1x1(planes, outputs)
        self.bn3 = MaskedBatchNorm2d(outputs)
        self.shortcut = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = F.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        return F.relu(branch + self.shortcut(x))


class PreActBlock(nn.Module):
    """Batch norm and ReLU before each convolution: [B, inputs, H, W] -> [B, planes, H/stride, W/stride].

    The projection is a lone convolution of relu(bn1(x)); where the shape is kept, x itself passes and there is no
    ``shortcut`` key.
    """

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int):
        super().__init__()
        self.bn1 = MaskedBatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, planes, stride)
        self.bn2 = MaskedBatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes)
        changes_shape = stride != 1 or inputs != planes
        self.shortcut = nn.Sequential(conv1x1(inputs, planes, stride)) if changes_shape else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        branch = self.conv1(active)
        branch = self.conv2(F.relu(self.bn2(branch)))
        return branch + kept


Block = type[BasicBlock] | type[Bottleneck] | type[PreActBlock]


class ResNet(nn.Module):
    """Stem, four stages of w, 2w, 4w, 8w planes (strides 1, 2, 2, 2), mean over space, linear.

    The releases pool with a 4x4 window, which on 32x32 images is the mean over space taken here; other sizes work too.
    ``stem_norm`` is false for the pre-activation form: its stem is the bare convolution.
    """

    def __init__(self, block: Block, blocks: Sequence[int], width: int, num_classes: int, *, stem_norm: bool):
        super().__init__()
        self.conv1 = conv3x3(3, width)
        self.bn1 = MaskedBatchNorm2d(width) if stem_norm else None
        inputs = width
        for stage, count in enumerate(blocks):
            planes = width * 2**stage
            layer = nn.Sequential()
            for index in range(count):
                layer.append(block(inputs, planes, 2 if stage and not index else 1))
                inputs = block.expansion * planes
            self.add_module(f"layer{stage + 1}", layer)
        self.linear = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> logits [B, K]."""
        x = self.conv1(x)
        if self.bn1 is not None:
            x = F.relu(self.bn1(x))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.linear(x.mean((2, 3)))


RESNETS: dict[int, tuple[Block, tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


def resnet(depth: int = 18, *, width: int = 64, num_classes: int = 10) -> ResNet:
    """The RNP release's CIFAR ResNet of this depth (18, 34, 50, 101, 152)."""
    block, blocks = RESNETS[depth]
    return ResNet(block, blocks, width, num_classes, stem_norm=True)


def preact_resnet18(*, width: int = 64, num_classes: int = 10) -> ResNet:
    """The PreActResNet-18 of BackdoorBench, WaNet and Input-Aware."""
    return ResNet(PreActBlock, (2, 2, 2, 2), width, num_classes, stem_norm=False)


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers between consecutive ``sizes``, a ReLU between them: [B, sizes[0]] -> [B, sizes[-1]]."""
    stack = nn.Sequential()
    for inputs, outputs in pairwise(sizes):
        if len(stack):
            stack.append(nn.ReLU())
        stack.append(nn.Linear(inputs, outputs))
    return stack
