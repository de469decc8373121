"""The networks of weiaicunzai's pytorch-cifar100 and bearpaw's pytorch-classification, with their keys, of any size.

Glossary: w channels of the first convolution; K classes.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (everybody's name)

from tests.oracle.dag import Dag, Steps
from tests.oracle.kuangliu import inception, shuffle


def _options(bias: bool) -> dict[str, Any]:
    return {"bias": bias}


def _numbered(root: str, step: int = 3):
    """Convolution and batch norm of a Sequential in which they come with a ReLU."""
    return lambda i: f"{root}.{step * i} {root}.{step * i + 1}"


def resnet(depths, deep: bool, w: int = 64, num_classes: int = 100) -> Dag:
    """weiaicunzai's ``resnet18`` and so on."""
    names = (_numbered("residual_function"), "conv{}_x.{}", 2, "shortcut.0 shortcut.1")
    return _residual(names, "conv1.0 conv1.1", "fc", depths, w, num_classes, w if deep else None)


def resnext(depths, inner: int = 128, groups: int = 32, w: int = 64, num_classes: int = 100) -> Dag:
    """weiaicunzai's ``resnext50`` and so on, whose first convolutions have groups too."""
    names = (_numbered("split_transforms"), "conv{}.{}", 2, "shortcut.0 shortcut.1")
    return _residual(names, "conv1.0 conv1.1", "fc", depths, w, num_classes, inner, groups, early=groups)


def seresnet(depths, deep: bool, w: int = 64, num_classes: int = 100) -> Dag:
    """weiaicunzai's ``seresnet18`` and so on."""
    names = (_numbered("residual"), "stage{}.{}", 1, "shortcut.0 shortcut.1")
    return _residual(names, "pre.0 pre.1", "linear", depths, w, num_classes, w if deep else None, gated=True)


def bearpaw_resnext(cardinality: int, depths=(3, 3, 3), base: int = 64, w: int = 64, num_classes: int = 10) -> Dag:
    """bearpaw's ResNeXt-29, 8x64d or 16x64d."""
    layers = ("conv_reduce bn_reduce", "conv_conv bn", "conv_expand bn_expand")
    names = (
        lambda i: layers[i],
        "stage_{0}.stage_{0}_bottleneck_{1}",
        1,
        "shortcut.shortcut_conv shortcut.shortcut_bn",
    )
    stem = "conv_1_3x3 bn_1"
    return _residual(names, stem, "classifier", depths, w, num_classes, base * cardinality, cardinality)


def _residual(names, stem, head, depths, w, num_classes, inner=None, groups=1, early=1, gated=False) -> Dag:
    layer, stage_name, first, short_names = names
    steps, options = Steps(), _options(gated)
    x, inputs = steps.unit("x", stem, 3, w, 3, **options), w
    for stage, depth in enumerate(depths):
        outputs = w * 2**stage * (1 if inner is None else 4)
        for i in range(depth):
            block, stride = Steps(), 2 if stage and i == 0 else 1
            if inner is None:
                out = block.unit("x", layer(0), inputs, outputs, 3, stride, **options)
                last, sizes = layer(1), (outputs, outputs, 3)
            else:
                d = inner * 2**stage
                out = block.unit("x", layer(0), inputs, d, groups=early, **options)
                out = block.unit(out, layer(1), d, d, 3, stride, groups, **options)
                last, sizes = layer(2), (d, outputs)
            out = block.unit(out, last, *sizes, act=F.relu if gated else None, **options)
            if gated:
                weights = block.call(lambda a: a.mean((2, 3)), out)
                weights = block.module("excitation.0", nn.Linear(outputs, outputs // 16), weights)
                weights = block.module("excitation.2", nn.Linear(outputs // 16, outputs), block.call(F.relu, weights))
                out = block.call(lambda a, b: a * torch.sigmoid(b)[:, :, None, None], out, weights)
            short = "x"
            if stride != 1 or inputs != outputs:
                short = block.unit("x", short_names, inputs, outputs, 1, stride, act=None, **options)
            block.call(F.relu, block.add(out, short))
            x, inputs = steps.module(stage_name.format(stage + first, i), block.done(), x), outputs
    return steps.classify(x, head, inputs, num_classes)


def preactresnet(depths, deep: bool, w: int = 64, num_classes: int = 100) -> Dag:
    """weiaicunzai's ``preactresnet18`` and so on."""
    names = ("residual.0 residual.2", "residual.3 residual.5", "residual.6 residual.8")
    return _preact(names, "stage{}.{}", 1, "shortcut", depths, w, w, num_classes, deep, bias=True, head="linear")


def wide_resnet(depths=(6, 6, 6), k: float = 10, num_classes: int = 100) -> Dag:
    """weiaicunzai's ``wideresnet``."""
    names = ("residual.0 residual.2", "residual.3 residual.6")
    sizes = (depths, 16, int(16 * k), num_classes)
    return _preact(names, "conv{}.{}", 2, "shortcut.0", *sizes, bias=True, head="linear", stem="init_conv")


def meliketoy(depths, k: float = 10, num_classes: int = 10) -> Dag:
    """meliketoy's ``Wide_ResNet``."""
    names = ("bn1 conv1", "bn2 conv2")
    sizes = (depths, 16, int(16 * k), num_classes)
    return _preact(names, "layer{}.{}", 1, "shortcut.0", *sizes, bias=True, head="linear", norm="bn1")


def preresnet(depths, deep: bool, w: int = 16, num_classes: int = 10) -> Dag:
    """bearpaw's PreResNet."""
    names = ("bn1 conv1", "bn2 conv2", "bn3 conv3")
    return _preact(names, "layer{}.{}", 1, "downsample.0", depths, w, w, num_classes, deep, head="fc")


def _preact(
    names,
    stage_name,
    first,
    short_name,
    depths,
    w,
    planes,
    num_classes,
    deep=False,
    bias=False,
    head="",
    stem="conv1",
    norm="bn",
) -> Dag:
    steps, options, inputs = Steps(), _options(bias), w
    if short_name == "shortcut":
        x = steps.unit("x", "pre.0 pre.1", 3, w, 3, **options)
    else:
        x = steps.conv("x", stem, 3, w, 3, **options)
    for stage, depth in enumerate(depths):
        outputs = planes * (4 if deep else 1)
        for i in range(depth):
            block, stride = Steps(), 2 if stage and i == 0 else 1
            if deep:
                early, late = (stride, 1) if bias else (1, stride)
                out = block.preact("x", names[0], inputs, planes, 1, early, **options)
                out = block.preact(out, names[1], planes, planes, 3, late, **options)
                out = block.preact(out, names[2], planes, outputs, **options)
            else:
                early, late = (1, stride) if norm == "bn1" else (stride, 1)
                out = block.preact("x", names[0], inputs, planes, 3, early, **options)
                out = block.preact(out, names[1], planes, outputs, 3, late, **options)
            changes = stride != 1 or inputs != outputs
            block.add(out, block.conv("x", short_name, inputs, outputs, 1, stride, **options) if changes else "x")
            x, inputs = steps.module(stage_name.format(stage + first, i), block.done(), x), outputs
        planes *= 2
    if short_name != "shortcut":
        x = steps.call(F.relu, steps.module(norm, nn.BatchNorm2d(inputs), x))
    return steps.classify(x, head, inputs, num_classes)


def densenet(depths, growth: int, num_classes: int = 100) -> Dag:
    """weiaicunzai's ``densenet121`` and so on; transitions have no ReLU."""
    names = ("bottle_neck.0 bottle_neck.2", "bottle_neck.3 bottle_neck.5", "down_sample.0 down_sample.1")
    blocks = [f"features.dense_block_layer_{i}" for i in range(len(depths) - 1)]
    blocks = [f"{name}.bottle_neck_layer_" for name in (*blocks, f"features.dense_block{len(depths) - 1}")]
    between = [f"features.transition_layer_{i}" for i in range(len(depths) - 1)]
    return _dense(names, blocks, between, ("features.bn", "linear"), depths, growth, num_classes, None)


def bearpaw_densenet(depth: int, growth: int, num_classes: int = 10) -> Dag:
    """bearpaw's ``densenet-bc``."""
    names = ("bn1 conv1", "bn2 conv2", "bn1 conv1")
    blocks, between = [f"dense{i}." for i in (1, 2, 3)], ["trans1", "trans2"]
    return _dense(names, blocks, between, ("bn", "fc"), [(depth - 4) // 6] * 3, growth, num_classes, F.relu)


def _dense(names, blocks, between, last, depths, growth, num_classes, act) -> Dag:
    steps, channels = Steps(), 2 * growth
    x = steps.conv("x", "conv1", 3, channels, 3)
    for block, depth in enumerate(depths):
        for i in range(depth):
            inner = Steps()
            out = inner.preact("x", names[0], channels, 4 * growth)
            out = inner.preact(out, names[1], 4 * growth, growth, 3)
            inner.call(lambda a, b: torch.cat((a, b), 1), "x", out)
            x, channels = steps.module(f"{blocks[block]}{i}", inner.done(), x), channels + growth
        if block < len(between):
            inner = Steps()
            out = inner.preact("x", names[2], channels, channels // 2, act=act)
            inner.call(lambda a: F.avg_pool2d(a, 2), out)
            x, channels = steps.module(between[block], inner.done(), x), channels // 2
    x = steps.call(F.relu, steps.module(last[0], nn.BatchNorm2d(channels), x))
    return steps.classify(x, last[1], channels, num_classes)


def googlenet(modules, w: int = 64, num_classes: int = 100) -> Dag:
    """weiaicunzai's ``googlenet``."""
    steps = Steps()
    x = steps.unit("x", "prelayer.0 prelayer.1", 3, w, 3)
    x = steps.unit(steps.unit(x, "prelayer.3 prelayer.4", w, w, 3), "prelayer.6 prelayer.7", w, 3 * w, 3)
    channels = 3 * w
    for number, (name, widths) in enumerate(modules.items()):
        x = steps.call(lambda a: F.max_pool2d(a, 3, 2, 1), x) if number == 0 or name in ("a4", "a5") else x
        sizes = [each * w // 64 for each in widths]
        x = steps.module(name, inception(channels, sizes, odd_eps=True), x)
        channels = sizes[0] + sizes[2] + sizes[4] + sizes[5]
    return steps.classify(x, "linear", channels, num_classes)


def mobilenet(rows, w: int = 32, num_classes: int = 100) -> Dag:
    """weiaicunzai's ``mobilenet``; rows of (channels in w, stride)."""
    steps = Steps()
    x, inputs, stage, position = steps.unit("x", "stem.0.conv stem.0.bn", 3, w, 3), w, 0, 1
    for widths, stride in rows:
        if stride == 2:
            stage, position = stage + 1, 0
        block, outputs = Steps(), widths * w
        out = block.unit("x", "depthwise.0 depthwise.1", inputs, inputs, 3, stride, inputs)
        block.unit(out, "pointwise.0 pointwise.1", inputs, outputs, bias=True)
        x = steps.module(f"conv{stage}.{position}" if stage else "stem.1", block.done(), x)
        inputs, position = outputs, position + 1
    return steps.classify(x, "fc", inputs, num_classes)


def shufflenet(channels, groups: int = 3, depths=(4, 8, 4), w: int = 24, num_classes: int = 100) -> Dag:
    """weiaicunzai's ``shufflenet``."""
    steps = Steps()
    x, inputs = steps.unit("x", "conv1.conv conv1.bn", 3, w, 3, bias=True), w
    for stage, (depth, outputs) in enumerate(zip(depths, channels, strict=True)):
        for i in range(depth):
            block, inner, own = Steps(), outputs // 4, outputs - (inputs if i == 0 else 0)
            name = "bottlneck.0.pointwise"
            out = block.unit("x", f"{name}.0 {name}.1", inputs, inner, groups=groups, bias=True)
            out, name = block.call(lambda a: shuffle(a, groups), out), "depthwise.depthwise"
            sizes = (inner, inner, 3, 2 if i == 0 else 1, inner)
            out, name = block.unit(out, f"{name}.0 {name}.1", *sizes, act=None, bias=True), "expand.pointwise"
            out = block.unit(out, f"{name}.0 {name}.1", inner, own, groups=groups, act=None, bias=True)
            if i == 0:
                pooled = block.call(lambda a: F.avg_pool2d(a, 3, 2, 1), "x")
                out = block.call(lambda a, b: torch.cat((a, b), 1), pooled, out)
            else:
                out = block.add("x", out)
            block.call(F.relu, out)
            x, inputs = steps.module(f"stage{stage + 2}.{i}", block.done(), x), outputs
    return steps.classify(x, "fc", inputs, num_classes)


def shufflenet_v2(channels, depths=(4, 8, 4), w: int = 24, num_classes: int = 100) -> Dag:
    """weiaicunzai's ``shufflenetv2``."""
    steps, (*widths, last) = Steps(), channels
    x, inputs = steps.unit("x", "pre.0 pre.1", 3, w, 3, act=None, bias=True), w
    for stage, (depth, outputs) in enumerate(zip(depths, widths, strict=True)):
        for i in range(depth):
            x = steps.module(f"stage{stage + 2}.{i}", _split(inputs, outputs, first=i == 0), x)
            inputs = outputs
    return steps.classify(steps.unit(x, "conv5.0 conv5.1", inputs, last, bias=True), "fc", last, num_classes)


def _split(inputs: int, outputs: int, first: bool) -> Dag:
    steps, half = Steps(), outputs // 2
    inner, stride = (inputs, 2) if first else (half, 1)
    left = "x" if first else steps.call(lambda a: a[:, :half], "x")
    right = "x" if first else steps.call(lambda a: a[:, half:], "x")
    if first:
        left = steps.unit(left, "shortcut.0 shortcut.1", inputs, inputs, 3, 2, inputs, act=None, bias=True)
        left = steps.unit(left, "shortcut.2 shortcut.3", inputs, half, bias=True)
    right = steps.unit(right, "residual.0 residual.1", inner, inner, bias=True)
    right = steps.unit(right, "residual.3 residual.4", inner, inner, 3, stride, inner, act=None, bias=True)
    right = steps.unit(right, "residual.5 residual.6", inner, half, bias=True)
    steps.call(lambda a, b: shuffle(torch.cat((a, b), 1), 2), left, right)
    return steps.done()


def repvgg(depths, widths, strides=(1, 1, 2, 2, 2), deploy: bool = False, num_classes: int = 10) -> Dag:
    """RepVGG with chenyaofo's strides; all its convolutions put together if ``deploy``."""
    steps, x, inputs = Steps(), "x", 3
    for stage, (depth, outputs) in enumerate(zip(depths, widths, strict=True)):
        for i in range(depth):
            block, stride = Steps(), strides[stage] if i == 0 else 1
            if deploy:
                total = block.conv("x", "rbr_reparam", inputs, outputs, 3, stride, bias=True)
            else:
                same = stride == 1 and inputs == outputs
                kept = block.module("rbr_identity", nn.BatchNorm2d(inputs), "x") if same else None
                wide = block.unit("x", "rbr_dense.conv rbr_dense.bn", inputs, outputs, 3, stride, act=None)
                narrow = block.unit("x", "rbr_1x1.conv rbr_1x1.bn", inputs, outputs, 1, stride, act=None)
                total = block.add(wide, narrow)
                total = total if kept is None else block.add(total, kept)
            block.call(F.relu, total)
            x = steps.module(f"stage{stage}.{i}" if stage else "stage0", block.done(), x)
            inputs = outputs
    return steps.classify(x, "linear", inputs, num_classes)
