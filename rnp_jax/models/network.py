"""Networks as pure, hashable functions of their variables."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from rnp_jax.errors import ConfigError
from rnp_jax.models.chain import ACTIVATED, Chain, Segment, Site
from rnp_jax.models.edited import toggle_biases
from rnp_jax.models.folding import fold_batch_norms
from rnp_jax.models.layers import Placement, Precision
from rnp_jax.models.registry import Architecture
from rnp_jax.types import Apply, Tree, Variables


@dataclass(frozen=True)
class Network:
    """A network as a function of its variables (an ``Apply``). Equal networks share compiled programs.

    Attributes:
      architecture: its architecture.
      mean: per-channel mean, subtracted from images in [0, 1].
      std: per-channel standard deviation; the images are then divided by it.
      placement: where filter masks act.
      precision: arithmetic of convolutions and matrix products.
      evaluation: the same where the network only predicts; None is ``precision``.
      folded: whether evaluation folds batch norms into convolutions (see ``folding``), which saves time where neither
        weights nor masks are differentiated.
    """

    architecture: Architecture
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    placement: Placement = "bn_scale"
    precision: Precision = "float32"
    evaluation: Precision | None = None
    folded: bool = False

    def __post_init__(self):
        channels = self.architecture.image_shape[-1]
        if not (len(self.mean) == len(self.std) == channels and min(self.std) > 0):
            raise ConfigError(
                f"normalisation mean {self.mean}, std {self.std}: expected {channels} values each, all std above 0"
            )

    @property
    def fixed(self) -> "Network":
        """This network for searches over images. Float32 stays the arithmetic of torch, layer by layer."""
        return replace(self, folded=self.precision != "float32")

    @property
    def evaluator(self) -> "Network":
        """This network for predictions: ``fixed``, and in the precision of evaluation."""
        return replace(self, precision=self.evaluation or self.precision, evaluation=None).fixed

    @property
    def arithmetic(self) -> str:
        """The precision in words, for documents."""
        differs = self.evaluation not in (None, self.precision)
        return f"{self.precision}, {self.evaluation} in evaluation" if differs else self.precision

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
            with fold_batch_norms(self.folded):
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
            key = jax.eval_shape(jax.random.key, 0)
            jax.eval_shape(partial(_initialize, self._module, self.architecture.image_shape), key)
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


def for_search(apply: Apply) -> Apply:
    """A function of images and fixed variables: a network as ``Network.fixed``, any other function as it is."""
    return apply.fixed if isinstance(apply, Network) else apply


def for_prediction(apply: Apply) -> Apply:
    """A function whose predictions are all that is asked: a network as ``Network.evaluator``, another as it is."""
    return apply.evaluator if isinstance(apply, Network) else apply


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
