"""Infers architecture, width and number of classes from the names and shapes of a state dict."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import jax

from rnp_jax.errors import AmbiguousError, ArchitectureError, ConfigError, UnknownNetworkError
from rnp_jax.models.bounds import bound_entries, bounds_in
from rnp_jax.models.design import Design, Shapes
from rnp_jax.models.edited import Layers, find_bodies, find_heads, is_last
from rnp_jax.models.naming import Names, to_theirs
from rnp_jax.models.network import of_normalized
from rnp_jax.models.registry import ARCHITECTURES, DESIGNS, Architecture, suggest
from rnp_jax.models.torch_names import FILTER_MASK, IGNORED, UNREAD, TorchEntry, table

_SHOWN = 12  # lines of a ± list
_LONGEST = 120  # letters of one
_IMAGENET_CLASSES = 1000


def infer_architecture(
    shapes: Shapes, *, name: str | None = None, image_shape: tuple[int, int, int] | None = None
) -> Architecture:
    """Infers the architecture whose weights these tensors are.

    Args:
      shapes: shape of every tensor, in torch's layout; keys that no forward pass reads are ignored.
      name: architecture, if the caller knows it.
      image_shape: (H, W, C) of the input, which cannot be inferred from the weights of an ``mlp``.

    Raises:
      UnknownNetworkError: the tensors have the structure of no architecture (see ``models.nearest``).
      ArchitectureError: they have that of one, but keys are missing or unexpected, a shape does not fit (the error
        gives its key), or the input shape cannot be inferred.
    """
    weights = consumed(shapes)
    if name is not None and name not in ARCHITECTURES:
        raise ArchitectureError(f"unknown architecture {name!r}; {suggest(name)}")
    if empty := [f" {key}: {tuple(shape)}" for key, shape in weights.items() if 0 in shape]:
        raise ArchitectureError("no network has weights without values:\n" + shorten(empty))
    try:
        proposal = _with_biases(_propose(weights, name, image_shape), weights)
    except ConfigError as error:
        raise ArchitectureError(f"no network has such sizes: {error}") from error
    check_fit(proposal, weights)
    for key in filter_masks(shapes):
        expected = weights.get(key.removesuffix(FILTER_MASK) + "running_var")
        if tuple(shapes[key]) != expected:
            raise ArchitectureError(f"{key}: {tuple(shapes[key])}, expected the shape of its batch norm, {expected}")
    return proposal


def candidates(shapes: Shapes, *, image_shape: tuple[int, int, int] | None = None) -> tuple[str, ...]:
    """The names of all architectures with fixed layers whose structure these tensors have, sorted.

    ``infer_architecture`` asks for a name where there are several. Their tensors are the same, their arithmetic is not.

    Args:
      shapes: as in ``infer_architecture``.
      image_shape: as in ``infer_architecture``; large images rule out what was made for small ones.
    """
    return tuple(sorted({reading.name for reading in _read(consumed(shapes), image_shape)}))


def resized(architecture: Architecture, shapes: Shapes, size: tuple[int, int]) -> Architecture:
    """The architecture for images of another height and width if the weights allow it; otherwise unchanged."""
    try:
        other = replace(architecture, image_shape=(*size, architecture.image_shape[2]))
        check_fit(other, consumed(shapes))
    except (ArchitectureError, ConfigError):
        return architecture
    return other


def consumed(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The tensors that a forward pass uses as weights or statistics."""
    unread = (*IGNORED, FILTER_MASK)
    bounds = set(bounds_in(shapes))
    return {
        key: shape
        for key, shape in shapes.items()
        if key.rpartition(".")[2] not in unread and key not in bounds and not key.startswith(UNREAD)
    }


def filter_masks(shapes: Iterable[str]) -> list[str]:
    """The keys under which a masked release stores the filter masks of its batch norms."""
    return [key for key in shapes if key.rpartition(".")[2] == FILTER_MASK]


def check_bounds(architecture: Architecture, shapes: Shapes) -> None:
    """Checks that every activation has a bound of the right shape, or that none has one.

    Raises:
      ArchitectureError: some are missing (-) or unexpected (+), or are for images of another size.
    """
    found = {key: tuple(shapes[key]) for key in bounds_in(shapes)}
    expected = {entry.key: entry.torch_shape for entry in bound_entries(architecture)} if found else {}
    lines = [f" - {key}" for key in expected if key not in found]
    lines += [f" + {key}" for key in found if key not in expected]
    if lines:
        raise ArchitectureError(
            f"the bounds are not those of the activations of {architecture.name} (- missing, + unexpected):\n"
            + shorten(lines)
        )
    wrong = [f" {key}: {shape}, expected {expected[key]}" for key, shape in found.items() if shape != expected[key]]
    if wrong:
        raise ArchitectureError(
            f"the bounds on activations are for other images than {architecture.image_shape}: give the height, width "
            "and channels of the images they are for with --image-shape\n" + shorten(wrong)
        )


@cache
def entries(architecture: Architecture) -> tuple[TorchEntry, ...]:
    """The architecture's name table."""
    variables = jax.eval_shape(of_normalized(architecture).init, jax.random.key(0))
    return tuple(table(variables, architecture))


def check_fit(architecture: Architecture, shapes: Shapes) -> None:
    """Checks that names and shapes are those of the architecture.

    Raises:
      ArchitectureError: they differ; the error lists the missing (-) and unexpected (+) keys, or the keys whose shapes
        differ.
    """
    found = _expected(architecture)
    expected = {entry.key: entry.shape for entry in found}  # parts of one tensor state the same shape
    lines = [f" - {key}" for key in expected if key not in shapes]
    lines += [f" + {key}" for key in shapes if key not in expected]
    if lines:
        raise ArchitectureError(
            f"the keys are not those of {architecture.name} (- missing, + unexpected):\n" + shorten(lines)
        )
    wrong = [
        f" {key}: {tuple(shapes[key])}, expected {shape}"
        for key, shape in expected.items()
        if tuple(shapes[key]) != shape
    ]
    if wrong:
        raise ArchitectureError(
            f"shapes do not fit {architecture.name} of width {architecture.width}:\n" + shorten(wrong)
        )


def _expected(architecture: Architecture) -> tuple[TorchEntry, ...]:
    """``entries`` of an architecture whose sizes come from a file."""
    try:
        return entries(architecture)
    except (TypeError, ValueError, ArithmeticError) as error:  # JAX's, of shapes that do not go together
        size = architecture.image_shape
        raise ArchitectureError(f"{architecture.name} cannot take images of {size}; give the image shape") from error


def _propose(shapes: Shapes, name: str | None, image_shape: tuple[int, int, int] | None) -> Architecture:
    looks_linear = bool(shapes) and all(len(shape) in (1, 2) for shape in shapes.values())
    if name == "mlp" or (name is None and looks_linear):
        return _propose_mlp(shapes, image_shape)
    readings = _read_as(name, shapes) if name else _read(shapes, image_shape)
    if len(readings) != 1:
        names = sorted({reading.name for reading in readings})
        raise AmbiguousError(names) if readings else UnknownNetworkError(_unknown(shapes))
    (found,) = readings
    design, shapes = DESIGNS[found.name], found.shapes
    for key, rank in ((design.stem, 4), (design.base or design.stem, 4), (design.head, 2)):
        if len(shapes.get(key, ())) != rank:
            held = shapes.get(key, "missing")
            raise ArchitectureError(f"{found.name} needs {key} of {rank} dimensions, but it is {held}")
    if shapes[design.head][0] == 1:
        raise ArchitectureError(
            f"{found.name} with one output is a binary classifier that ends in a sigmoid; expected one output a class. "
            "Put a row of zeros, for class 0, before the row of its last layer: the softmax of both is that sigmoid"
        )
    width, channels = shapes[design.base or design.stem][0], shapes[design.stem][1]
    side = design.read_side(shapes)
    size = image_shape or (side, side, channels)
    classes, form = shapes[design.head][0], design.read_form(shapes)
    return Architecture(found.name, classes, width, found.layers, size, form, names=found.names)


class _Reading(NamedTuple):
    """A design that tensors may be of, their shapes under its names, and how the network differs from it."""

    name: str
    shapes: Shapes
    layers: Layers = ()
    names: Names = ()


def _read(shapes: Shapes, image_shape: tuple[int, int, int] | None) -> list[_Reading]:
    """The designs whose structure the tensors have: as published, else edited; families where no single design fits."""
    found = [_Reading(name, _named(shapes, DESIGNS[name])) for name in DESIGNS if matches(name, shapes)]
    found = found or _read_edited(shapes, DESIGNS)
    found = [reading for reading in found if not DESIGNS[reading.name].family] or found
    return [reading for reading in found if _is_considered(reading, image_shape)]


def _is_considered(reading: _Reading, image_shape: tuple[int, int, int] | None) -> bool:
    """Whether the images, or else the number of classes, may be those that the design was made for."""
    design = DESIGNS[reading.name]
    if design.largest_side is None:
        return True
    assumed = 224 if reading.shapes[design.head][0] == _IMAGENET_CLASSES else 32
    return (max(image_shape[:2]) if image_shape else assumed) <= design.largest_side


def _read_edited(shapes: Shapes, names: Iterable[str]) -> list[_Reading]:
    """The readings of these designs that change the least: few layers, and where the published ones stand."""
    bodies, heads, found = list(find_bodies(shapes)), {}, {}
    for name in names:
        design = DESIGNS[name]
        head = to_theirs(design.head, design.names)
        if head not in heads:
            heads[head] = [*find_heads(shapes, head), *bodies]
        for edit in heads[head]:
            published = edit.published(head)
            if matches(name, published) and not _has_layers(_named(edit.body, design), edit.layers):
                reading = _Reading(name, _named(published, design), edit.layers, edit.names)
                found.setdefault((len(edit.layers), edit.moved, bool(edit.names)), []).append(reading)
    return found[min(found)] if found else []


def _has_layers(body: Shapes, layers: Layers) -> bool:
    """Whether a layer of the body has the name of one of the head's."""
    return any(f"{layer}.weight" in body for layer, _ in layers)


def _read_as(name: str, shapes: Shapes) -> list[_Reading]:
    """The tensors as this design's, whatever their structure."""
    edited = [] if matches(name, shapes) else _read_edited(shapes, [name])
    return edited[:1] or [_Reading(name, _named(shapes, DESIGNS[name]))]


def _named(shapes: Shapes, design: Design) -> Shapes:
    """The shapes under our names for the design's layers, with our axes; a key that its table lacks keeps its name."""
    named = design.rename(shapes)
    kernels = {f"{layer}.weight": after for layer, (_, after) in design.axes}
    return {key: shape[: len(shape) - kernels.get(key, 0)] for key, shape in named.items()} if kernels else named


def matches(name: str, shapes: Shapes) -> bool:
    """Whether tensors have the structure of this design, whatever their sizes."""
    design = DESIGNS[name]
    if not all(to_theirs(key, design.names) in shapes for key in (design.stem, design.head)):
        return False
    named = _named(shapes, design)
    ranks = [len(named.get(key, ())) for key in (design.stem, design.base or design.stem, design.head)]
    return ranks == [4, 4, 2] and is_last(design.head, named) and design.matches(named)


def _with_biases(architecture: Architecture, shapes: Shapes) -> Architecture:
    """The architecture with a bias wherever these tensors have one beside a kernel, and none elsewhere."""
    if architecture.name == "mlp":
        return architecture
    found = _expected(architecture)
    expected = {entry.key for entry in found}
    toggled = []
    for key, path, *_ in found:
        bias = f"{key.removesuffix('weight')}bias"
        if path[-1] == "kernel" and key.endswith(".weight") and (bias in expected) != (bias in shapes):
            toggled.append(".".join(path[1:-1]))
    return replace(architecture, biases=tuple(toggled))


def _propose_mlp(shapes: Shapes, image_shape: tuple[int, int, int] | None) -> Architecture:
    layers, inputs = [], None
    for key, shape in shapes.items():
        name, _, leaf = key.rpartition(".")
        if leaf != "weight" or len(shape) != 2:
            continue
        if not name:
            raise ArchitectureError(
                'a single linear layer without a name ("weight", "bias") is not supported; save it inside a '
                'torch.nn.Sequential, which calls it "0.weight", "0.bias"'
            )
        if layers and layers[-1][1] != shape[1]:
            raise ArchitectureError(
                f"{key} takes {shape[1]} inputs, but the layer before it gives {layers[-1][1]}: "
                "the linear layers of an mlp must follow one another in the file"
            )
        inputs = inputs or shape[1]
        layers.append((name, shape[0]))
    if not layers or not inputs:
        raise UnknownNetworkError(_unknown(shapes))
    if image_shape is not None and math.prod(image_shape) != inputs:
        raise ArchitectureError(f"image shape {image_shape} has {math.prod(image_shape)} values, expected {inputs}")
    image_shape = image_shape or _only_input_shape(inputs)
    return Architecture("mlp", layers[-1][1], 0, tuple(layers), image_shape)


def _only_input_shape(inputs: int) -> tuple[int, int, int]:
    """The shape of an input with this many values, if it can only be a vector of features."""
    squares = [(side, channels) for channels in (1, 3) if (side := math.isqrt(inputs // channels)) > 1]
    images = [(side, side, channels) for side, channels in squares if side * side * channels == inputs]
    if images:
        raise ArchitectureError(
            f"an mlp with {inputs} inputs may take images of shape {images[0]} or vectors of {inputs} features; "
            f"say which with image shape {','.join(map(str, images[0]))} or 1,1,{inputs}"
        )
    return 1, 1, inputs


def _unknown(shapes: Shapes) -> str:
    keys = shorten([f" + {key} {tuple(shape)}" for key, shape in shapes.items()])
    return f"none of the {len(ARCHITECTURES)} supported architectures has these tensors (+):\n{keys}"


def shorten(lines: Sequence[str], most: int = _SHOWN) -> str:
    """The first lines of a ± list, and how many more there are."""
    more = [f" … and {len(lines) - most} more"] if len(lines) > most else []
    return "\n".join([*map(_shorten_line, lines[:most]), *more])


def _shorten_line(line: str) -> str:
    """The line without the middle of a long name."""
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]}…{line[-_LONGEST // 2 :]}"
