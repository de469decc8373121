"""MobileNetV2 (Sandler et al. 2018): the RNP release's for 32x32 images, torchvision's, and CIFAR's with its names.

torchvision rounds the channels of every layer to multiples of 8, so the stem does not tell the multiplier: 0.35 and 0.5
both have 16 channels there. Where the other layers' channels do not follow from the stem's, they are the ``form``.

chenyaofo's and huyvnphan's models for CIFAR have torchvision's names and shapes, but strides of 1 in the stem and in
the second stage. The tensors fit both, so ``--architecture`` decides, unless the images are larger than 64 pixels.
"""

from collections.abc import Mapping
from types import MappingProxyType

from rnp_jax.models.design import Design, Shapes, Sizes, marked_by, scaled
from rnp_jax.models.inverted_residual import Block, InvertedResidualNet, Style, Unit, widened
from rnp_jax.models.layers import Placement, Precision

WIDTH = 32
_LAST = 1280

Stage = tuple[int, int, int, int]
STAGES: tuple[Stage, ...] = (  # expansion, channels, blocks, stride: Table 2
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
CIFAR_STAGES: tuple[Stage, ...] = (STAGES[0], (6, 24, 2, 1), *STAGES[2:])


def design(stages: tuple[Stage, ...], stride: int = 2, largest_side: int | None = None) -> Design:
    """A network with torchvision's names; ``stride`` is the stem's."""
    last = f"features.{sum(count for *_, count, _ in stages) + 1}"

    def build(sizes: Sizes, placement: Placement, precision: Precision) -> InvertedResidualNet:
        *channels, wide = sizes.form or _channels(stages, sizes.width)
        blocks, inputs = [], sizes.width
        for (expansion, _, count, step), outputs in zip(stages, channels, strict=True):
            for i in range(count):
                block = _block(inputs, inputs * expansion, outputs, step if i == 0 else 1)
                blocks.append((f"features.{len(blocks) + 1}", block))
                inputs = outputs
        return InvertedResidualNet(
            Unit("features.0.0", "features.0.1", sizes.width, 3, stride, activation="relu6"),
            tuple(blocks),
            Unit(f"{last}.0", f"{last}.1", wide, activation="relu6"),
            "classifier.1",
            sizes.num_classes,
            Style(placement, precision),
        )

    def form(shapes: Shapes) -> tuple[int, ...]:
        """Channels of every stage and of the last convolution, unless they follow from the stem's."""
        keys, first = [], 1
        for expansion, _, count, _ in stages:
            keys.append(f"features.{first}.conv.{1 if expansion == 1 else 2}.weight")
            first += count
        found = tuple(shapes.get(key, (1,))[0] for key in (*keys, f"{last}.0.weight"))
        return () if found == _channels(stages, shapes["features.0.0.weight"][0]) else found

    matches = marked_by("features.1.conv.0.0.weight", f"{last}.0.weight")
    names = "features.0.0.weight", "classifier.1.weight"
    return Design(build, matches, *names, WIDTH, largest_side=largest_side, form=form)


def _channels(stages: tuple[Stage, ...], width: int) -> tuple[int, ...]:
    """Of every stage and of the last convolution, which grows with the width, but never shrinks."""
    return *(widened(stage[1], width, WIDTH) for stage in stages), widened(_LAST, max(width, WIDTH), WIDTH)


def _block(inputs: int, expanded: int, outputs: int, stride: int) -> Block:
    units = [Unit("", "", expanded, activation="relu6")] if expanded != inputs else []
    units.append(Unit("", "", expanded, 3, stride, True, "relu6"))
    named = [unit._replace(conv=f"conv.{i}.0", norm=f"conv.{i}.1") for i, unit in enumerate(units)]
    project = Unit(f"conv.{len(units)}", f"conv.{len(units) + 1}", outputs)
    return Block((*named, project), shortcut="identity" if stride == 1 and inputs == outputs else None)


def cifar_design(stages: tuple[Stage, ...]) -> Design:
    """The RNP release's MobileNetV2: stem of stride 1, ReLU, and a projection if stride 1 changes the channels."""

    def build(sizes: Sizes, placement: Placement, precision: Precision) -> InvertedResidualNet:
        blocks, inputs = [], sizes.width
        for expansion, channels, count, stride in stages:
            outputs = scaled(channels, sizes.width, WIDTH)
            for i in range(count):
                block = _cifar_block(inputs, inputs * expansion, outputs, stride if i == 0 else 1)
                blocks.append((f"layers.{len(blocks)}", block))
                inputs = outputs
        return InvertedResidualNet(
            Unit("conv1", "bn1", sizes.width, 3, activation="relu"),
            tuple(blocks),
            Unit("conv2", "bn2", scaled(_LAST, sizes.width, WIDTH), activation="relu"),
            "linear",
            sizes.num_classes,
            Style(placement, precision),
        )

    last = sum(count for *_, count, _ in stages) - 1
    matches = marked_by(
        "layers.0.shortcut.0.weight", f"layers.{last}.conv3.weight", absent=(f"layers.{last + 1}.conv3.weight",)
    )
    return Design(build, matches, "conv1.weight", "linear.weight", WIDTH)


def _cifar_block(inputs: int, expanded: int, outputs: int, stride: int) -> Block:
    units = (
        Unit("conv1", "bn1", expanded, activation="relu"),
        Unit("conv2", "bn2", expanded, 3, stride, True, "relu"),
        Unit("conv3", "bn3", outputs),
    )
    if stride > 1:
        return Block(units)
    return Block(units, shortcut="identity" if inputs == outputs else Unit("shortcut.0", "shortcut.1", outputs))


DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        "mobilenet_v2": design(STAGES),
        "chenyaofo_mobilenet_v2": design(CIFAR_STAGES, stride=1, largest_side=64),
        "cifar_mobilenet_v2": cifar_design(CIFAR_STAGES),
    }
)
