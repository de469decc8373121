"""Upper bounds on activations, and how a PyTorch file keeps them.

An activation a with a bound b returns min(a, max(b, 0)). There is one b for each of its neurons, so a network with
bounds takes images of one size only. A bound is the leaf ``bound`` of the masks of the last layer before the activation
(of the last batch norm of the branch, where a shortcut is added in between); a network without bounds has no such
leaves, and its programs are those of a network that cannot have any.

In a PyTorch file, the state dict has one more tensor for each activation, ``activation_bounds.N.LAYER``, where N
numbers the activations in the order in which they run: ``activation_bounds.000.bn1``. It is in torch's layout, without
the axis of the batch. ``load_state_dict`` refuses these tensors, so that nobody uses the network without its bounds by
accident. In PyTorch, this applies them to any network, be its activations functions or modules::

    import torch
    from torch.nn import functional as F
    from torch.overrides import TorchFunctionMode

    ACTIVATIONS = (F.relu, torch.relu, torch.Tensor.relu, F.relu6, F.hardtanh, F.elu, F.gelu, F.silu, F.hardswish)


    class Bounded(TorchFunctionMode):
        def __init__(self, bounds):
            super().__init__()
            self.bounds = bounds

        def __enter__(self):
            self.rest = iter(self.bounds)
            return super().__enter__()

        def __exit__(self, *error):
            super().__exit__(*error)
            if error[0] is None and next(self.rest, None) is not None:
                raise RuntimeError("bounds are left: name every function that the network calls in ACTIVATIONS")

        def __torch_function__(self, function, types, args=(), kwargs=None):
            output = function(*args, **(kwargs or {}))
            return torch.minimum(output, next(self.rest).clamp(min=0)) if function in ACTIVATIONS else output


    def split_bounds(state_dict):
        names = sorted(name for name in state_dict if "activation_bounds." in name)
        return {k: v for k, v in state_dict.items() if k not in names}, [state_dict[name] for name in names]


    weights, bounds = split_bounds(state_dict)  # of the written file
    model.load_state_dict(weights)
    model.eval()
    with torch.no_grad(), Bounded(bounds):  # anew for every forward pass
        logits = model(images)
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rnp_jax import masks
from rnp_jax.models.layers import Dense
from rnp_jax.models.network import of_normalized
from rnp_jax.models.registry import Architecture
from rnp_jax.types import Tree, Variables

_FIRST = "activation_bounds."  # of a key in a file


class BoundEntry(NamedTuple):
    """Where the bound on an activation is stored in torch.

    Attributes:
      key: its key in the state dict.
      layer: the layer before the activation.
      shape: its shape here, the activation's without the batch.
      channels_first: whether torch has the channels of this image first; behind a linear layer they are last.
      one_pixel: whether these are the channels of an image of one pixel in torch, behind a 1x1 convolution.
    """

    key: str
    layer: str
    shape: tuple[int, ...]
    channels_first: bool
    one_pixel: bool = False

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """Its shape in torch."""
        if self.one_pixel:
            return (*self.shape, 1, 1)
        return (self.shape[2], *self.shape[:2]) if self.channels_first else self.shape

    def from_torch(self, value: np.ndarray) -> np.ndarray:
        """Converts a torch tensor to our layout, float32."""
        value = value.astype(np.float32, copy=False)
        return value.transpose(1, 2, 0) if self.channels_first else value.reshape(self.shape)

    def to_torch(self, value: Array | np.ndarray) -> np.ndarray:
        """The inverse of ``from_torch``."""
        value = np.asarray(value)
        return value.transpose(2, 0, 1) if self.channels_first else value.reshape(self.torch_shape)


@cache
def bound_entries(architecture: Architecture) -> tuple[BoundEntry, ...]:
    """Where a file keeps the bounds on the architecture's activations, in the order in which these run."""
    network = of_normalized(architecture, architecture.place())
    image = jax.ShapeDtypeStruct((1, *architecture.image_shape), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    outputs = jax.eval_shape(network.activated, variables, image)
    kept_as_convolutions = () if architecture.name == "mlp" else dict(architecture.design.axes)
    entries = []
    for layer in (name for name in network.layers if name in outputs):
        shape = outputs[layer].shape[1:]
        linear = isinstance(network.layers[layer], Dense) and layer not in kept_as_convolutions
        if linear and len(shape) == 3:  # the layer may be that of a gate: vectors, which weight an image's channels
            linear = len(jax.eval_shape(network.activations, variables, image)[layer].shape) == 4
        channels_first, one_pixel = len(shape) == 3 and not linear, len(shape) == 1 and layer in kept_as_convolutions
        entries.append(BoundEntry(f"{_FIRST}{len(entries):03d}.{layer}", layer, shape, channels_first, one_pixel))
    return tuple(entries)


def bounds_in(keys: Iterable[str]) -> list[str]:
    """The keys of bounds among those of a state dict; none in most files."""
    return [key for key in keys if key.startswith(_FIRST)]


def find_bounds(tree: Tree) -> dict[str, Array]:
    """The bounds in a mask tree by layer, in natural order; none in most networks."""
    return {name: leaves["bound"] for name, leaves in masks.layers(tree) if "bound" in leaves}


def apply_bounds(variables: Variables, bounds: Mapping[str, Any]) -> Variables:
    """The variables with these bounds and no others.

    Raises:
      KeyError: a bound is of no layer of the network.
    """
    if unknown := set(bounds) - {name for name, _ in masks.layers(variables["masks"])}:
        raise KeyError(f"bounds do not fit the network: + {sorted(unknown)}")

    def replace(name: str, leaves: Tree) -> Tree:
        rest = {leaf: value for leaf, value in leaves.items() if leaf != "bound"}
        return {**rest, "bound": bounds[name]} if name in bounds else rest

    return {**variables, "masks": _map_layers(variables["masks"], replace)}


def _map_layers(tree: Tree, function: Callable[[str, Tree], Tree], prefix: str = "") -> Tree:
    if "neuron" in tree:
        return function(prefix, tree)
    below = f"{prefix}." if prefix else ""
    return {name: _map_layers(node, function, below + name) for name, node in tree.items()}
