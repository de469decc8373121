"""weiaicunzai's SqueezeNet, Xception and MobileNetV2 in PyTorch, with their keys, of any size.

Glossary: w channels of the first convolution; K classes.
"""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from tests.oracle.dag import Dag, Steps


class ConvHead(nn.Module):
    """A 1x1 convolution and the mean over space, in either order, as vectors."""

    def __init__(self, features: int, num_classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, features, 1, 1).normal_(0, 0.1))
        self.bias = nn.Parameter(torch.empty(num_classes).normal_(0, 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x.mean((2, 3), keepdim=True), self.weight, self.bias).flatten(1)


def _classify(steps: Steps, x: str, head: str, features: int, num_classes: int) -> Dag:
    steps.module(head, ConvHead(features, num_classes), x)
    return steps.done()


def squeezenet(rows, w: int = 96, num_classes: int = 100) -> Dag:
    """``squeezenet``; rows of (squeezed, expanded, behind pooling, with a shortcut)."""
    steps = Steps()
    x, inputs = steps.unit("x", "stem.0 stem.1", 3, w, 3, bias=True), w
    for i, (few, outputs, pooled, added) in enumerate(rows, 2):
        x = steps.call(lambda a: F.max_pool2d(a, 2, 2), x) if pooled else x
        block = Steps()
        squeezed = block.unit("x", "squeeze.0 squeeze.1", inputs, few, bias=True)
        left = block.unit(squeezed, "expand_1x1.0 expand_1x1.1", few, outputs // 2, bias=True)
        right = block.unit(squeezed, "expand_3x3.0 expand_3x3.1", few, outputs // 2, 3, bias=True)
        block.call(lambda a, b: torch.cat((a, b), 1), left, right)
        out = steps.module(f"fire{i}", block.done(), x)
        x, inputs = steps.add(out, x) if added else out, outputs
    return _classify(steps, x, "conv10", inputs, num_classes)


def mobilenet_v2(rows, w: int = 32, last: int = 1280, num_classes: int = 100) -> Dag:
    """``mobilenetv2``; rows of (expansion, channels, blocks, stride)."""
    steps, inputs = Steps(), w
    x = steps.module("pre.0", nn.Conv2d(3, w, 1, padding=1), "x")
    x = steps.call(F.relu6, steps.module("pre.1", nn.BatchNorm2d(w), x))
    for stage, (expansion, outputs, count, stride) in enumerate(rows, 1):
        for i in range(count):
            block, middle, step = Steps(), inputs * expansion, stride if i == 0 else 1
            out = block.unit("x", "residual.0 residual.1", inputs, middle, act=F.relu6, bias=True)
            sizes = (middle, middle, 3, step, middle)
            out = block.unit(out, "residual.3 residual.4", *sizes, act=F.relu6, bias=True)
            out = block.unit(out, "residual.6 residual.7", middle, outputs, act=None, bias=True)
            if step == 1 and inputs == outputs:
                block.add(out, "x")
            name = f"stage{stage}.{i}" if count > 1 else f"stage{stage}"
            x, inputs = steps.module(name, block.done(), x), outputs
    x = steps.unit(x, "conv1.0 conv1.1", inputs, last, act=F.relu6, bias=True)
    return _classify(steps, x, "conv2", last, num_classes)


def _separable(steps: Steps, x: str, name: str, norm: str, inputs: int, outputs: int) -> str:
    x = steps.conv(x, f"{name}.depthwise", inputs, inputs, 3, 1, inputs)
    return steps.module(norm, nn.BatchNorm2d(outputs), steps.conv(x, f"{name}.pointwise", inputs, outputs))


def xception(widths=(64, 128, 256, 728, 1024, 1536, 2048), middle: int = 8, w: int = 32, num_classes: int = 100) -> Dag:
    """``xception``; a ReLU in place changes what the shortcut beside it reads."""
    steps, (second, *entry, third, fourth, fifth) = Steps(), widths
    x = steps.unit("x", "entry_flow.conv1.0 entry_flow.conv1.1", 3, w, 3)
    x, inputs = steps.unit(x, "entry_flow.conv2.0 entry_flow.conv2.1", w, second, 3), second
    for i, outputs in enumerate(entry, 3):
        x = x if i == 3 else steps.call(F.relu, x)
        stride, at = 1 if outputs == entry[-1] else 2, 0 if i == 3 else 1
        residual, shortcut = f"entry_flow.conv{i}_residual", f"entry_flow.conv{i}_shortcut"
        out = _separable(steps, x, f"{residual}.{at}", f"{residual}.{at + 1}", inputs, outputs)
        out = steps.call(F.relu, out)
        out = _separable(steps, out, f"{residual}.{at + 3}", f"{residual}.{at + 4}", outputs, outputs)
        out = steps.call(lambda a, s=stride: F.max_pool2d(a, 3, s, 1), out)
        names = f"{shortcut}.0 {shortcut}.1"
        x = steps.add(out, steps.unit(x, names, inputs, outputs, 1, stride, act=None, bias=True))
        inputs = outputs
    for i in range(middle):
        block = Steps()
        active = out = block.call(F.relu, "x")
        for j in (1, 2, 3):
            out = out if j == 1 else block.call(F.relu, out)
            out = _separable(block, out, f"conv{j}.1", f"conv{j}.2", inputs, inputs)
        block.add(active, out)
        x = steps.module(f"middel_flow.middel_block.{i}", block.done(), x)
    block = Steps()
    short = block.unit("x", "shortcut.0 shortcut.1", inputs, third, 1, 2, act=None, bias=True)
    out = _separable(block, block.call(F.relu, "x"), "residual.1", "residual.2", inputs, inputs)
    out = _separable(block, block.call(F.relu, out), "residual.4", "residual.5", inputs, third)
    out = block.add(short, block.call(lambda a: F.max_pool2d(a, 3, 2, 1), out))
    out = block.call(F.relu, _separable(block, out, "conv.0", "conv.1", third, fourth))
    block.call(F.relu, _separable(block, out, "conv.3", "conv.4", fourth, fifth))
    return steps.classify(steps.module("exit_flow", block.done(), x), "fc", fifth, num_classes)
