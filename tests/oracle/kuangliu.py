"""The networks of kuangliu's pytorch-cifar in PyTorch, with its keys and shapes, of any size.

Glossary: w channels of the first convolution; K classes.
"""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from tests.oracle.dag import Dag, Steps


def _squeeze(steps: Steps, x: str, names: tuple[str, str], channels: int, few: int, act=F.relu) -> str:
    weights = steps.call(lambda a: a.mean((2, 3), keepdim=True), x)
    weights = steps.call(act, steps.conv(weights, names[0], channels, few, bias=True))
    weights = steps.conv(weights, names[1], few, channels, bias=True)
    return steps.call(lambda a, b: a * torch.sigmoid(b), x, weights)


def bottleneck(inputs: int, inner: int, outputs: int, stride: int, groups: int = 1, squeezed: bool = False) -> Dag:
    """ResNeXt's and RegNet's block."""
    steps = Steps()
    out = steps.unit("x", "conv1 bn1", inputs, inner)
    out = steps.unit(out, "conv2 bn2", inner, inner, 3, stride, groups)
    out = _squeeze(steps, out, ("se.se1", "se.se2"), inner, round(inputs * 0.25)) if squeezed else out
    out = steps.unit(out, "conv3 bn3", inner, outputs, act=None)
    short = "x"
    if stride != 1 or inputs != outputs:
        short = steps.unit("x", "shortcut.0 shortcut.1", inputs, outputs, 1, stride, act=None)
    steps.call(F.relu, steps.add(out, short))
    return steps.done()


def bottlenecks(depths, inner, outer, strides, groups, w=64, size=3, squeezed=False, num_classes=10) -> Dag:
    """ResNeXt29 and RegNet."""
    steps = Steps()
    x, inputs = steps.unit("x", "conv1 bn1", 3, w, size), w
    for stage, depth in enumerate(depths):
        for i in range(depth):
            sizes = (inputs, inner[stage], outer[stage], strides[stage] if i == 0 else 1, groups[stage])
            x = steps.module(f"layer{stage + 1}.{i}", bottleneck(*sizes, squeezed), x)
            inputs = outer[stage]
    return steps.classify(x, "linear", inputs, num_classes)


def resnext29(cardinality: int, width: int) -> Dag:
    """``ResNeXt29_2x64d`` and so on."""
    inner = [cardinality * width * 2**i for i in range(3)]
    return bottlenecks((3, 3, 3), inner, [2 * each for each in inner], (1, 2, 2), [cardinality] * 3, size=1)


def regnet(depths, widths, group: int, squeezed: bool = False, w: int = 64) -> Dag:
    """``RegNetX_200MF`` and so on."""
    groups = [width // group for width in widths]
    return bottlenecks(depths, widths, widths, (1, 1, 2, 2), groups, w, squeezed=squeezed)


def preact_resnet(depths, deep: bool, w: int = 64, squeezed: bool = False, num_classes: int = 10) -> Dag:
    """``PreActResNet50`` and so on; ``SENet18`` if ``squeezed``."""
    steps = Steps()
    x = steps.unit("x", "conv1 bn1", 3, w, 3) if squeezed else steps.conv("x", "conv1", 3, w, 3)
    inputs = w
    for stage, depth in enumerate(depths):
        planes = w * 2**stage
        for i in range(depth):
            stride = 2 if stage and i == 0 else 1
            x = steps.module(f"layer{stage + 1}.{i}", _preact(inputs, planes, stride, deep, squeezed), x)
            inputs = planes * (4 if deep else 1)
    return steps.classify(x, "linear", inputs, num_classes)


def _preact(inputs: int, planes: int, stride: int, deep: bool, squeezed: bool) -> Dag:
    steps, outputs = Steps(), planes * (4 if deep else 1)
    active = steps.call(F.relu, steps.module("bn1", nn.BatchNorm2d(inputs), "x"))
    changes = stride != 1 or inputs != outputs
    short = steps.conv(active, "shortcut.0", inputs, outputs, 1, stride) if changes else "x"
    if deep:
        out = steps.preact(steps.conv(active, "conv1", inputs, planes), "bn2 conv2", planes, planes, 3, stride)
        out = steps.preact(out, "bn3 conv3", planes, outputs)
    else:
        out = steps.preact(steps.conv(active, "conv1", inputs, planes, 3, stride), "bn2 conv2", planes, planes, 3)
    out = _squeeze(steps, out, ("fc1", "fc2"), planes, planes // 16) if squeezed else out
    steps.add(out, short)
    return steps.done()


def densenet(depths, growth: int, num_classes: int = 10) -> Dag:
    """``DenseNet121`` and so on."""
    steps, channels = Steps(), 2 * growth
    x = steps.conv("x", "conv1", 3, channels, 3)
    for block, depth in enumerate(depths, 1):
        for i in range(depth):
            inner = Steps()
            out = inner.preact("x", "bn1 conv1", channels, 4 * growth)
            out = inner.preact(out, "bn2 conv2", 4 * growth, growth, 3)
            inner.call(lambda a, b: torch.cat((a, b), 1), out, "x")
            x = steps.module(f"dense{block}.{i}", inner.done(), x)
            channels += growth
        if block < len(depths):
            inner = Steps()
            inner.call(lambda a: F.avg_pool2d(a, 2), inner.preact("x", "bn conv", channels, channels // 2))
            x = steps.module(f"trans{block}", inner.done(), x)
            channels //= 2
    x = steps.call(F.relu, steps.module("bn", nn.BatchNorm2d(channels), x))
    return steps.classify(x, "linear", channels, num_classes)


INCEPTIONS = {
    "a3": (64, 96, 128, 16, 32, 32),
    "b3": (128, 128, 192, 32, 96, 64),
    "a4": (192, 96, 208, 16, 48, 64),
    "b4": (160, 112, 224, 24, 64, 64),
    "c4": (128, 128, 256, 24, 64, 64),
    "d4": (112, 144, 288, 32, 64, 64),
    "e4": (256, 160, 320, 32, 128, 128),
    "a5": (256, 160, 320, 32, 128, 128),
    "b5": (384, 192, 384, 48, 128, 128),
}


def inception(inputs: int, widths, odd_eps: bool = False) -> Dag:
    """One module; weiaicunzai's has an epsilon of its own in one place."""
    n1, red3, n3, red5, n5, pooled = widths
    steps = Steps()
    one = steps.unit("x", "b1.0 b1.1", inputs, n1, bias=True)
    two = steps.unit("x", "b2.0 b2.1", inputs, red3, bias=True)
    two = steps.unit(two, "b2.3 b2.4", red3, n3, 3, bias=True)
    three = steps.unit("x", "b3.0 b3.1", inputs, red5, bias=True)
    three = steps.unit(three, "b3.3 b3.4", red5, n5, 3, bias=True, eps=n5 if odd_eps else 1e-5)
    three = steps.unit(three, "b3.6 b3.7", n5, n5, 3, bias=True)
    four = steps.unit(steps.call(lambda a: F.max_pool2d(a, 3, 1, 1), "x"), "b4.1 b4.2", inputs, pooled, bias=True)
    steps.call(lambda *each: torch.cat(each, 1), one, two, three, four)
    return steps.done()


def googlenet(modules=INCEPTIONS, w: int = 192, num_classes: int = 10) -> Dag:
    """``GoogLeNet`` with these modules; their widths grow with w."""
    steps = Steps()
    x, channels = steps.unit("x", "pre_layers.0 pre_layers.1", 3, w, 3, bias=True), w
    for name, widths in modules.items():
        x = steps.call(lambda a: F.max_pool2d(a, 3, 2, 1), x) if name in ("a4", "a5") else x
        sizes = [each * w // 192 for each in widths]
        x = steps.module(name, inception(channels, sizes), x)
        channels = sizes[0] + sizes[2] + sizes[4] + sizes[5]
    return steps.classify(x, "linear", channels, num_classes)


def shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    """The channels of all groups in turn."""
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


def shufflenet(channels, groups: int, depths=(4, 8, 4), w: int = 24, num_classes: int = 10) -> Dag:
    """``ShuffleNetG2`` and ``ShuffleNetG3``."""
    steps = Steps()
    x, inputs = steps.unit("x", "conv1 bn1", 3, w), w
    for stage, (depth, outputs) in enumerate(zip(depths, channels, strict=True)):
        for i in range(depth):
            first, own = (1 if stage == 0 and i == 0 else groups), outputs - (inputs if i == 0 else 0)
            block, inner = Steps(), own // 4
            out = block.unit("x", "conv1 bn1", inputs, inner, groups=first)
            out = block.call(lambda a, first=first: shuffle(a, first), out)
            out = block.unit(out, "conv2 bn2", inner, inner, 3, 2 if i == 0 else 1, inner)
            out = block.unit(out, "conv3 bn3", inner, own, groups=groups, act=None)
            if i == 0:
                pooled = block.call(lambda a: F.avg_pool2d(a, 3, 2, 1), "x")
                out = block.call(lambda a, b: torch.cat((a, b), 1), out, pooled)
            else:
                out = block.add(out, "x")
            block.call(F.relu, out)
            x, inputs = steps.module(f"layer{stage + 1}.{i}", block.done(), x), outputs
    return steps.classify(x, "linear", inputs, num_classes)


def shufflenet_v2(channels, depths=(4, 8, 4), w: int = 24, num_classes: int = 10) -> Dag:
    """``ShuffleNetV2`` of any size."""
    steps, (*widths, last) = Steps(), channels
    x, inputs = steps.unit("x", "conv1 bn1", 3, w, 3), w
    for stage, (depth, outputs) in enumerate(zip(depths, widths, strict=True)):
        for i in range(depth):
            x = steps.module(f"layer{stage + 1}.{i}", _split(inputs, outputs, first=i == 0), x)
            inputs = outputs
    return steps.classify(steps.unit(x, "conv2 bn2", inputs, last), "linear", last, num_classes)


def _split(inputs: int, outputs: int, first: bool) -> Dag:
    steps, half = Steps(), outputs // 2
    if first:
        left = steps.unit("x", "conv1 bn1", inputs, inputs, 3, 2, inputs, act=None)
        left = steps.unit(left, "conv2 bn2", inputs, half)
        right = steps.unit("x", "conv3 bn3", inputs, half)
        right = steps.unit(right, "conv4 bn4", half, half, 3, 2, half, act=None)
        right = steps.unit(right, "conv5 bn5", half, half)
    else:
        left = steps.call(lambda a: a[:, :half], "x")
        right = steps.unit(steps.call(lambda a: a[:, half:], "x"), "conv1 bn1", half, half)
        right = steps.unit(right, "conv2 bn2", half, half, 3, 1, half, act=None)
        right = steps.unit(right, "conv3 bn3", half, half)
    steps.call(lambda a, b: shuffle(torch.cat((a, b), 1), 2), left, right)
    return steps.done()


EFFICIENT = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)


def efficientnet(rows=EFFICIENT, w: int = 32, num_classes: int = 10) -> Dag:
    """``EfficientNetB0``; the first block's expansion is computed here, but nothing reads it."""
    steps, number = Steps(), 0
    x, inputs = steps.unit("x", "conv1 bn1", 3, w, 3, act=F.silu), w
    for expansion, outputs, count, size, stride in rows:
        for i in range(count):
            block, middle, step = Steps(), inputs * expansion, stride if i == 0 else 1
            out = block.unit("x", "conv1 bn1", inputs, middle, act=F.silu)
            out = "x" if expansion == 1 else out
            out = block.unit(out, "conv2 bn2", middle, middle, size, step, middle, act=F.silu)
            out = _squeeze(block, out, ("se.se1", "se.se2"), middle, inputs // 4, F.silu)
            out = block.unit(out, "conv3 bn3", middle, outputs, act=None)
            if step == 1 and inputs == outputs:
                block.add(out, "x")
            x = steps.module(f"layers.{number}", block.done(), x)
            number, inputs = number + 1, outputs
    return steps.classify(x, "linear", inputs, num_classes)


def mobilenet(rows, w: int = 32, num_classes: int = 10) -> Dag:
    """``MobileNet``; rows of (channels in w, stride)."""
    steps = Steps()
    x, inputs = steps.unit("x", "conv1 bn1", 3, w, 3), w
    for i, (widths, stride) in enumerate(rows):
        block, outputs = Steps(), widths * w
        block.unit(block.unit("x", "conv1 bn1", inputs, inputs, 3, stride, inputs), "conv2 bn2", inputs, outputs)
        x, inputs = steps.module(f"layers.{i}", block.done(), x), outputs
    return steps.classify(x, "linear", inputs, num_classes)


def _basic(steps: Steps, x: str, name: str, inputs: int, outputs: int, stride: int) -> str:
    block = Steps()
    out = block.unit(
        block.unit("x", "conv1 bn1", inputs, outputs, 3, stride), "conv2 bn2", outputs, outputs, 3, act=None
    )
    short = "x"
    if stride != 1 or inputs != outputs:
        short = block.unit("x", "shortcut.0 shortcut.1", inputs, outputs, 1, stride, act=None)
    block.call(F.relu, block.add(out, short))
    return steps.module(name, block.done(), x)


def _tree(inputs: int, outputs: int, levels: int, stride: int, simple: bool) -> Dag:
    steps, names = Steps(), ("left_tree", "right_tree") if simple else ("left_node", "right_node")
    read, x, at = [], "x", inputs
    if levels > 1 and simple:
        left = steps.module(names[0], _tree(inputs, outputs, levels - 1, stride, True), x)
        read = [left, steps.module(names[1], _tree(outputs, outputs, levels - 1, 1, True), left)]
    else:
        if levels > 1:
            read.append(_basic(steps, "x", "prev_root", inputs, outputs, stride))
            x = steps.module("level_1", _tree(inputs, outputs, 1, stride, False), "x")
            read.append(x)
            at, stride = outputs, 1
        left = _basic(steps, x, names[0], at, outputs, stride)
        read += [left, _basic(steps, left, names[1], outputs, outputs, 1)]
    joined = steps.call(lambda *each: torch.cat(each, 1), *read)
    steps.unit(joined, "root.conv root.bn", len(read) * outputs, outputs)
    return steps.done()


def dla(trees, w: int = 16, simple: bool = False, num_classes: int = 10) -> Dag:
    """``DLA`` and ``SimpleDLA``; trees of (channels in w, levels up to 2, stride)."""
    steps = Steps()
    x = steps.unit("x", "base.0 base.1", 3, w, 3)
    x = steps.unit(steps.unit(x, "layer1.0 layer1.1", w, w, 3), "layer2.0 layer2.1", w, 2 * w, 3)
    inputs = 2 * w
    for i, (widths, levels, stride) in enumerate(trees, 3):
        x = steps.module(f"layer{i}", _tree(inputs, widths * w, levels, stride, simple), x)
        inputs = widths * w
    return steps.classify(x, "linear", inputs, num_classes)


def dpn(rows, depths, w: int = 64, groups: int = 32, num_classes: int = 10) -> Dag:
    """``DPN26`` and ``DPN92``; rows of (channels inside, added, appended)."""
    steps = Steps()
    x, inputs = steps.unit("x", "conv1 bn1", 3, w, 3), w
    for stage, ((inner, added, appended), depth) in enumerate(zip(rows, depths, strict=True)):
        for i in range(depth):
            block, stride, width = Steps(), 2 if stage and i == 0 else 1, added + appended
            out = block.unit("x", "conv1 bn1", inputs, inner)
            out = block.unit(out, "conv2 bn2", inner, inner, 3, stride, groups)
            out = block.unit(out, "conv3 bn3", inner, width, act=None)
            short = "x"
            if i == 0:
                short = block.unit("x", "shortcut.0 shortcut.1", inputs, width, 1, stride, act=None)
            block.call(
                lambda a, b, d=added: F.relu(torch.cat((a[:, :d] + b[:, :d], a[:, d:], b[:, d:]), 1)), short, out
            )
            x = steps.module(f"layer{stage + 1}.{i}", block.done(), x)
            inputs = added + (i + 2) * appended
    return steps.classify(x, "linear", inputs, num_classes)


def pnasnet(w: int, wide: bool, cells: int = 6, num_classes: int = 10) -> Dag:
    """``PNASNetA`` and ``PNASNetB`` (``wide``)."""
    steps = Steps()
    x, inputs = steps.unit("x", "conv1 bn1", 3, w, 3), w
    names = [f"layer1.{i}" for i in range(cells)]
    for stage in (1, 2):
        names += [f"layer{2 * stage}", *(f"layer{2 * stage + 1}.{i}" for i in range(cells))]
    for name in names:
        outputs = inputs if "." in name else 2 * inputs
        x, inputs = steps.module(name, _cell(inputs, outputs, wide), x), outputs
    return steps.classify(x, "linear", inputs, num_classes)


def _cell(inputs: int, outputs: int, wide: bool) -> Dag:
    steps, stride = Steps(), 1 if inputs == outputs else 2

    def separable(number: int, size: int) -> str:
        names = f"sep_conv{number}.conv1 sep_conv{number}.bn1"
        return steps.unit("x", names, inputs, outputs, size, stride, inputs, act=None)

    one = separable(1, 7)
    pooled = steps.call(lambda a: F.max_pool2d(a, 3, stride, 1), "x")
    pooled = steps.unit(pooled, "conv1 bn1", inputs, outputs, act=None) if stride == 2 else pooled
    if wide:
        left = steps.call(F.relu, steps.add(one, separable(2, 3)))
        right = steps.call(F.relu, steps.add(pooled, separable(3, 5)))
        both = steps.call(lambda a, b: torch.cat((a, b), 1), left, right)
        steps.unit(both, "conv2 bn2", 2 * outputs, outputs)
    else:
        steps.call(F.relu, steps.add(one, pooled))
    return steps.done()
