"""Edits that people make to a published network before they train it, read off the names and shapes of the tensors.

- The last layer is replaced by a torch Sequential: one linear layer behind dropout (``fc.1``), or several
  (``fc.0``, ``fc.3``). Between two of them there is a ReLU if their numbers leave room for one; else there is nothing.
- The layers stand below another name, beside a head of any name (``backbone.conv1``, ``classifier``), or are numbered
  there, as ``Sequential(*resnet.children())`` numbers a ResNet's (``features.0`` for ``conv1``).
- Convolutions and linear layers have a bias where the published ones have none, or none where those have one.
"""

import re
from collections.abc import Iterator
from itertools import pairwise, takewhile
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rnp_jax.masks import natural_key
from rnp_jax.models.chain import Chain, Segment, Site, activate
from rnp_jax.models.design import Shapes
from rnp_jax.models.layers import Dense, Placement, Precision
from rnp_jax.models.naming import Names, to_ours
from rnp_jax.types import Tree, Variables

Layers = tuple[tuple[str, int], ...]
"""(name, units) of linear layers, in order."""


class Linear(nn.Module):
    """One linear layer of a head; images are averaged over space first."""

    layer: str
    units: int
    activated: bool
    masked: bool
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> Float[Array, "B F"]:
        """Applies the layer."""
        del train  # nothing in it depends on the mode
        x = x.mean((1, 2)) if x.ndim == 4 else x
        x = Dense(self.units, self.masked, precision=self.precision, name=self.layer)(x)
        return activate(self, self.layer, x) if self.activated else x


class WithHead(Chain):
    """A network whose last segment is replaced by the linear ``layers``."""

    base: Chain
    layers: Layers
    placement: Placement
    precision: Precision

    @nn.nowrap
    def segments(self) -> tuple[Segment, ...]:
        """Those of the network except the last, then one a linear layer."""
        following = (*(name for name, _ in self.layers[1:]), None)
        head = []
        for (name, units), after in zip(self.layers, following, strict=True):
            activated = after is not None and _leaves_room(name, after)
            masked = after is not None and self.placement == "unit"
            module = Linear(name, units, activated, masked, self.precision, parent=None)
            head.append(Segment((name,), module, nested=False))
        return *self.base.segments()[:-1], *head

    @nn.nowrap
    def sites(self) -> tuple[Site, ...]:
        """Those of the network; in the placement ``unit``, the hidden layers of the head too."""
        sites = self.base.sites()
        if self.placement != "unit":
            return sites
        names = [name for name, _ in self.layers]
        hidden = (Site(name, (name,), "relu" if _leaves_room(name, after) else None) for name, after in pairwise(names))
        return *(site for site in sites if site.layer in site.producers), *hidden  # batch norms have no masks here


def _leaves_room(before: str, after: str) -> bool:
    """Whether a layer without parameters may stand between two layers of these names.

    None does if they are neighbours in a Sequential, which numbers its layers from 0 on: ``fc.0`` and ``fc.1``.
    """
    first, second = (name.split(".") for name in (before, after))
    same = sum(takewhile(bool, (one == other for one, other in zip(first, second, strict=False))))
    if same == min(len(first), len(second)):
        return True  # one lies in the other
    (one, *inside), (other, *ahead) = first[same:], second[same:]
    if not (one.isdecimal() and other.isdecimal()):
        return True
    return int(other) - int(one) != 1 or bool(inside) or any(number != "0" for number in ahead)


class Edit(NamedTuple):
    """A reading of the tensors of a network that may have been edited.

    Attributes:
      body: shapes of all layers but those of the head, under the published names.
      layers: the linear layers of the head.
      inputs: number of inputs of the first of them.
      names: the names that differ from the published ones.
      moved: whether the layers do not stand where the published one does.
    """

    body: Shapes
    layers: Layers
    inputs: int
    names: Names = ()
    moved: bool = False

    def published(self, head: str) -> Shapes:
        """The shapes as they would be with one linear layer, whose key is given."""
        return {**self.body, head: (self.layers[-1][1], self.inputs)}


def find_heads(shapes: Shapes, head: str) -> Iterator[Edit]:
    """Linear layers that may take the place of the published last one, whose key is ``head``."""
    name = head.removesuffix(".weight")
    for root in dict.fromkeys((name, name.rpartition(".")[0])):
        below = {key: shape for key, shape in shapes.items() if root and key.startswith(f"{root}.")}
        linear = _linear_layers(below, root)
        if linear and list(linear) != [name]:
            rest = {key: shape for key, shape in shapes.items() if key not in below}
            layers = tuple((layer, units) for layer, (units, _) in linear.items())
            yield Edit(rest, layers, next(iter(linear.values()))[1], moved=root != name)


def _linear_layers(tensors: Shapes, root: str) -> dict[str, tuple[int, int]]:
    """(units, inputs) of linear layers that follow one another in a Sequential; none if there is anything else."""
    numbered = re.compile(rf"{re.escape(root)}(\.\d+)*\.(weight|bias)")
    ranks = {"weight": 2, "bias": 1}
    if not all(
        numbered.fullmatch(key) and len(shape) == ranks[key.rpartition(".")[2]] for key, shape in tensors.items()
    ):
        return {}
    names = sorted((key.removesuffix(".weight") for key in tensors if key.endswith(".weight")), key=natural_key)
    found = {name: (tensors[f"{name}.weight"][0], tensors[f"{name}.weight"][1]) for name in names}
    sizes = list(found.values())
    follow = all(after[1] == before[0] for before, after in pairwise(sizes))
    within = any(other.startswith(f"{name}.") for name in names for other in names)
    return found if follow and not within else {}


def find_bodies(shapes: Shapes) -> Iterator[Edit]:
    """Networks below a name of their own, or numbered, with one linear layer of any name beside them."""
    linear = [
        key.removesuffix(".weight") for key, shape in shapes.items() if key.endswith(".weight") and len(shape) == 2
    ]
    if len(linear) != 1:
        return
    (layer,) = linear
    units, inputs = shapes[f"{layer}.weight"]
    roots = {key.partition(".")[0] for key, shape in shapes.items() if len(shape) == 4}
    root = roots.pop() if len(roots) == 1 else ""
    inside = {key: shape for key, shape in shapes.items() if key.rpartition(".")[0] != layer}
    for names in ((("", root),), _number_children(root)) if root.isidentifier() else (_number_children(""),):
        body = {to_ours(key, names): shape for key, shape in inside.items()}
        if None not in body:
            yield Edit({key: shape for key, shape in body.items() if key}, ((layer, units),), inputs, names, moved=True)


def _number_children(root: str) -> Names:
    """The names of a torchvision ResNet's children in a Sequential; number 2 is the ReLU, 3 the pooling."""
    below = f"{root}." if root else ""
    children = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    return tuple((name, f"{below}{number}") for name, number in children.items())


def is_last(head: str, shapes: Shapes) -> bool:
    """Whether no linear layer follows this one, whose key is given, in its Sequential."""
    outer, _, number = head.removesuffix(".weight").rpartition(".")
    following = re.compile(rf"{re.escape(outer)}\.(\d+)\.(?:.*\.)?weight")
    return not number.isdigit() or not any(
        int(match[1]) > int(number) and len(shape) == 2
        for key, shape in shapes.items()
        if (match := following.fullmatch(key))
    )


def toggle_biases(variables: Variables, layers: tuple[str, ...]) -> Variables:
    """Takes the bias of these layers away, or adds zeros where there is none."""
    return {**variables, "params": _toggle(variables["params"], frozenset(layers), "")} if layers else variables


def _toggle(params: Tree, layers: frozenset[str], name: str) -> Tree:
    if name in layers:
        bias = {} if "bias" in params else {"bias": jnp.zeros(params["kernel"].shape[-1:], jnp.float32)}
        return {"kernel": params["kernel"], **bias}
    return {
        key: _toggle(node, layers, f"{name}.{key}" if name else key) if isinstance(node, dict) else node
        for key, node in params.items()
    }
