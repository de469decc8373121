"""Architectures by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from rnp_jax.checks import MOST_CLASSES, check_image_shape, check_number
from rnp_jax.errors import ConfigError
from rnp_jax.models import (
    alexnet,
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
    cifar_resnet,
    cifar_shufflenet,
    cifar_squeezenet,
    cifar_xception,
    convnext,
    densenet,
    efficientnet,
    googlenet,
    huggingface,
    inception_v3,
    mnasnet,
    mnist,
    mobilenet_v2,
    mobilenet_v3,
    regnet,
    repvgg,
    resnet,
    shufflenet_v2,
    squeezenet,
    swin,
    timm,
    torchvision_resnet,
    vgg,
    vision_transformer,
    wide_resnet,
)
from rnp_jax.models.chain import Chain
from rnp_jax.models.design import LARGEST_WIDTH, Design, Sizes
from rnp_jax.models.edited import WithHead
from rnp_jax.models.layers import Placement, Precision
from rnp_jax.models.mlp import Mlp
from rnp_jax.models.naming import Names

DESIGNS: Mapping[str, Design] = MappingProxyType(
    {
        **resnet.DESIGNS,
        **cifar_resnet.DESIGNS,
        **convnext.DESIGNS,
        **vision_transformer.DESIGNS,
        **mobilenet_v2.DESIGNS,
        **mobilenet_v3.DESIGNS,
        **efficientnet.DESIGNS,
        **vgg.DESIGNS,
        **mnist.DESIGNS,
        **torchvision_resnet.DESIGNS,
        **densenet.DESIGNS,
        **alexnet.DESIGNS,
        **squeezenet.DESIGNS,
        **googlenet.DESIGNS,
        **regnet.DESIGNS,
        **repvgg.DESIGNS,
        **mnasnet.DESIGNS,
        **shufflenet_v2.DESIGNS,
        **inception_v3.DESIGNS,
        **swin.DESIGNS,
        **timm.DESIGNS,
        **huggingface.DESIGNS,
        **wide_resnet.DESIGNS,
        **cifar_bottlenecks.DESIGNS,
        **cifar_densenet.DESIGNS,
        **cifar_dla.DESIGNS,
        **cifar_dpn.DESIGNS,
        **cifar_efficientnet.DESIGNS,
        **cifar_googlenet.DESIGNS,
        **cifar_mobilenet.DESIGNS,
        **cifar_pnasnet.DESIGNS,
        **cifar_preactresnet.DESIGNS,
        **cifar_residual.DESIGNS,
        **cifar_shufflenet.DESIGNS,
        **cifar_squeezenet.DESIGNS,
        **cifar_xception.DESIGNS,
    }
)
"""All architectures with fixed layers, by name."""

ARCHITECTURES = (*DESIGNS, "mlp")

MOST_LAYERS = 100
"""Of an mlp: to trace one takes time that grows with the square."""


def suggest(name: str) -> str:
    """A hint for an unknown architecture: the names nearest to it, or all names."""
    near = get_close_matches(name, ARCHITECTURES, n=5, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(ARCHITECTURES)}"


@dataclass(frozen=True)
class Architecture:
    """Everything that the names and shapes of a state dict determine.

    Attributes:
      name: one of ``ARCHITECTURES``.
      num_classes: number of classes, K.
      width: number of channels of the first stage (64 for a ResNet as published); 0 for an ``mlp``.
      layers: (name, units) of the layers of an ``mlp``, or of a head that takes the place of the published last layer,
        in order.
      image_shape: (H, W, C) that the network was made for.
      form: numbers of a family's member that its shapes tell (``Design.form``), such as the depths of its stages.
      biases: layers that have a bias though the published ones have none, or the other way round.
      names: (ours, the file's) names of parts of the network that the file has elsewhere, such as below ``backbone``.
    """

    name: str
    num_classes: int
    width: int = 64
    layers: tuple[tuple[str, int], ...] = ()
    image_shape: tuple[int, int, int] = (32, 32, 3)
    form: tuple[int, ...] = ()
    biases: tuple[str, ...] = ()
    names: Names = ()

    def __post_init__(self):
        if self.name not in ARCHITECTURES:
            raise ConfigError(f"unknown architecture {self.name!r}; {suggest(self.name)}")
        check_image_shape(self.image_shape)
        check_number("num_classes", self.num_classes, 2, MOST_CLASSES, integer=True)
        if self.name != "mlp":
            check_number("width", self.width, 1, LARGEST_WIDTH, integer=True)
        if not all(part.replace(".", "").replace("_", "").isalnum() for pair in self.names for part in pair if part):
            raise ConfigError(f"names {self.names}: expected names of layers, of letters, digits and underscores")
        if self.layers or self.name == "mlp":
            _check_layers("an mlp" if self.name == "mlp" else "a head", self.layers)

    @property
    def design(self) -> Design:
        """How it is built and recognised; an ``mlp`` has none."""
        return DESIGNS[self.name]

    @property
    def table(self) -> Names:
        """The source's names of layers, where they are not ours; ``names`` are this file's own."""
        return () if self.name == "mlp" else self.design.names

    @property
    def edits(self) -> tuple[str, ...]:
        """What a network has otherwise than the published one, in words."""
        head = ", ".join(f"{layer} of {units}" for layer, units in self.layers) if self.name != "mlp" else ""
        numbers = ", ".join(map(str, self.form))
        elsewhere = ", ".join(f"{ours or 'the network'} is {theirs}" for ours, theirs in self.names)
        told = {
            "the last layers are": head,
            "sizes read from the shapes:": numbers,
            "with a bias more or less:": ", ".join(self.biases),
            "other names:": elsewhere,
        }
        return tuple(f"{what} {which}" for what, which in told.items() if which)

    def module(self, placement: Placement, precision: Precision) -> Chain:
        """Builds the Flax module."""
        if self.name == "mlp":
            return Mlp(self.layers, precision)
        sizes = Sizes(self.num_classes, self.width, self.image_shape, self.form)
        published = self.design.build(sizes, placement, precision)
        return WithHead(published, self.layers, placement, precision) if self.layers else published

    def place(self, placement: Placement | None = None) -> Placement:
        """Where filter masks act: the given placement, or by default the architecture's own."""
        return placement or ("unit" if self.name == "mlp" else self.design.placement)


def _check_layers(what: str, layers: tuple[tuple[str, int], ...]) -> None:
    if not 1 <= len(layers) <= MOST_LAYERS or min(units for _, units in layers) < 1:
        raise ConfigError(
            f"{what} of {len(layers)} layers: expected its layers, 1 to {MOST_LAYERS}, each of 1 unit or more"
        )
