"""Architectures by name, and networks as pure, hashable functions."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

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
from rnp_jax.models.chain import ACTIVATED, Chain, Segment, Site
from rnp_jax.models.design import LARGEST_WIDTH, Design, Sizes
from rnp_jax.models.edited import WithHead, toggle_biases
from rnp_jax.models.layers import Placement, Precision
from rnp_jax.models.mlp import Mlp
from rnp_jax.models.naming import Names
from rnp_jax.types import Tree, Variables

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


@dataclass(frozen=True)
class Network:
    """A network as a function of its variables (an ``Apply``). Equal networks share compiled programs.

    Attributes:
      architecture: its architecture.
      mean: per-channel mean, subtracted from images in [0, 1].
      std: per-channel standard deviation; the images are then divided by it.
      placement: where filter masks act.
      precision: arithmetic of convolutions and matrix products.
    """

    architecture: Architecture
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    placement: Placement = "bn_scale"
    precision: Precision = "float32"

    def __post_init__(self):
        channels = self.architecture.image_shape[-1]
        if not (len(self.mean) == len(self.std) == channels and min(self.std) > 0):
            raise ConfigError(
                f"normalisation mean {self.mean}, std {self.std}: expected {channels} values each, all std above 0"
            )

    @cached_property
    def _module(self) -> Chain:
        return self.architecture.module(self.placement, self.precision)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The parts of the network, in order. Each can run alone (in evaluation mode, on normalised images)."""
        return self._module.segments()

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The sites that a defense can score, in forward order."""
        return self._module.sites()

    @property
    def head(self) -> str:
        """Name of the last layer, the linear classifier, whose kernel is [D, K] and whose bias is [K]."""
        return self.segments[-1].layers[0]

    def init(self, key: jax.Array) -> Variables:
        """New variables: He-normal kernels, and masks of ones."""
        variables = _init(self._module, self.architecture.image_shape, key)
        return toggle_biases(variables, self.architecture.biases)

    def normalize(self, images: jax.Array) -> jax.Array:
        """Converts pixels (uint8, or float in [0, 1]) to the network's input, float32 [B, H, W, C]."""
        scaled = images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
        mean, std = (jnp.asarray(values, jnp.float32)[None, None, None] for values in (self.mean, self.std))
        return (scaled - mean) / std

    def __call__(self, variables: Variables, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, Tree]:
        """Logits [B, K] float32, and batch statistics (updated by one step if ``train``)."""
        return self._run(variables, images, train=train, features=False)

    def features(self, variables: Variables, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, Tree]:
        """The input of the classifier's last layer, [B, D] float32, and batch statistics."""
        return self._run(variables, images, train=train, features=True)

    def _run(self, variables: Variables, images: jax.Array, *, train: bool, features: bool) -> tuple[jax.Array, Tree]:
        x = self.normalize(images)
        if not train:
            out: Any = self._module.apply(variables, x, features=features)
            return out.astype(jnp.float32), variables["batch_stats"]
        moved: Any
        out, moved = self._module.apply(variables, x, train=True, features=features, mutable=["batch_stats"])
        return out.astype(jnp.float32), {**variables["batch_stats"], **moved.get("batch_stats", {})}

    @cached_property
    def layers(self) -> Mapping[str, Any]:
        """Every layer as declared (strides, padding, epsilons), by its full name."""
        found: dict[str, nn.Module] = {}

        def note(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
            del args
            found[name] = module.clone(parent=None, name=None)

        with _each_call(note):
            jax.eval_shape(partial(_initialize, self._module, self.architecture.image_shape), jax.random.key(0))
        return found

    def inputs(self, variables: Variables, images: jax.Array) -> dict[str, jax.Array]:
        """The input of every layer, by the layer's name, in evaluation mode."""
        found: dict[str, jax.Array] = {}

        def note(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
            del module
            if args:  # a bare parameter takes no arguments
                found[name] = args[0]

        with _each_call(note):
            self._module.apply(variables, self.normalize(images))
        return found

    def activations(self, variables: Variables, images: jax.Array) -> dict[str, jax.Array]:
        """The output of every layer, by the layer's name, in evaluation mode."""
        state: Any
        _, state = self._module.apply(variables, self.normalize(images), capture_intermediates=True)
        flat: dict[Any, Any] = flax.traverse_util.flatten_dict(state["intermediates"])
        return {".".join(path[:-1]): values[0] for path, values in flat.items() if len(path) > 1}

    def activated(self, variables: Variables, images: jax.Array) -> dict[str, jax.Array]:
        """The output of every activation, by the name of the layer before it, in evaluation mode."""
        state: Any
        _, state = self._module.apply(variables, self.normalize(images), mutable=[ACTIVATED])
        flat: dict[Any, Any] = flax.traverse_util.flatten_dict(dict(state.get(ACTIVATED, {})))
        return {".".join(path): value for path, value in flat.items()}


def _each_call(note: Callable[[str, nn.Module, tuple[Any, ...]], None]) -> AbstractContextManager[None]:
    """Calls ``note`` for every layer applied within the context, with its full name, the layer and its arguments."""

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name == "__call__" and context.module.path:
            note(".".join(context.module.path), context.module, args)
        return call(*args, **kwargs)

    return nn.intercept_methods(intercept)


def _initialize(module: Chain, image_shape: tuple[int, int, int], key: jax.Array) -> Variables:
    return {"batch_stats": {}, **module.init(key, jnp.zeros((1, *image_shape), jnp.float32))}


_init = jax.jit(_initialize, static_argnums=(0, 1))


def of_normalized(
    architecture: Architecture, placement: Placement = "bn_scale", precision: Precision = "float32"
) -> Network:
    """The architecture as a function of images that are normalised already."""
    channels = architecture.image_shape[-1]
    return Network(architecture, (0.0,) * channels, (1.0,) * channels, placement, precision)


def mlp_head(dim: int, units: tuple[int, ...], num_classes: int, precision: Precision = "float32") -> Network:
    """A classifier of features [B, 1, 1, D] with hidden layers of the given sizes, named as in torch's Sequential.

    Raises:
      ConfigError: a size is below 1.
    """
    if dim < 1 or any(size < 1 for size in units):
        raise ConfigError(f"head of {list(units)} hidden units on {dim} features: expected sizes of 1 or more")
    layers = tuple((str(2 * i), size) for i, size in enumerate((*units, num_classes)))
    architecture = Architecture("mlp", num_classes, 0, layers, (1, 1, dim))
    return of_normalized(architecture, "unit", precision)


def count_parameters(variables: Variables) -> int:
    """The number of trainable scalars."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
