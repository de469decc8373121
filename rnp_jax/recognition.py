"""Which network a state dict is: its architecture, what wraps it, and the normalisation that it brings."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from rnp_jax.errors import AmbiguousError, ArchitectureError, UnknownNetworkError
from rnp_jax.models import Architecture
from rnp_jax.models.bounds import bounds_in
from rnp_jax.models.inference import (
    candidates,
    check_bounds,
    consumed,
    filter_masks,
    infer_architecture,
    resized,
    shorten,
)
from rnp_jax.models.nearest import describe_unknown
from rnp_jax.normaliser import Normaliser, find_pairs, list_constants, read_normaliser
from rnp_jax.stated_settings import Stated, check_stated, compare
from rnp_jax.torch_io import Checkpoint, StateDict, check_consumed
from rnp_jax.torch_io.location import get_node
from rnp_jax.torch_io.nodes import ModuleNode
from rnp_jax.torch_io.state_dict import is_counter
from rnp_jax.torch_io.text import quote

_LARGEST = 4096  # pixels of a side that a file may state
_MOST_WRAPPERS = 4
_SHOWN = 5  # names
_CHANNELS = 4  # of images, at most
_NORMALISES = re.compile(r"mean|std|sigma|var|(?<![a-z])mu(?![a-z])")
_COMPUTED = MappingProxyType(
    {
        re.compile(r"(^|\.)parametrizations\."): "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')",
        re.compile(r"(^|\.)weight_mask$"): "torch.nn.utils.prune.remove(module, 'weight')",
        re.compile(r"(^|\.)weight_g$"): "torch.nn.utils.remove_weight_norm(module)",
    }
)
"""Names of tensors that torch computes weights from, and what makes plain weights of them."""

Shapes = Mapping[str, tuple[int, ...]]


class Recognised(NamedTuple):
    """A network in a file.

    Attributes:
      architecture: of the network.
      state_dict: its tensors alone, without the names of what wraps it.
      normaliser: the normalisation that the file brings; None where it brings none.
      notes: what a whole module states of itself and the architecture may lack, a sentence each.
    """

    architecture: Architecture
    state_dict: StateDict
    normaliser: Normaliser | None
    notes: tuple[str, ...] = ()


def recognise(
    checkpoint: Checkpoint,
    state_dict: StateDict,
    architecture: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
    *,
    prefix: str | None = None,
    checked: bool = True,
) -> Recognised:
    """The network of a state dict, found behind the names of what wraps it.

    A prefix that ends in a dot is taken off where what remains is a known architecture, and where nothing is left over
    but a normalisation, counters, and copies of the same network.

    Args:
      checkpoint: the file.
      state_dict: from ``find_state_dict``.
      architecture: its name, if the caller knows it.
      image_shape: (H, W, C) of the input, if the caller knows it.
      prefix: what the names of the network begin with, if the caller knows it; others are not read.
      checked: whether the values are read and checked now.

    Raises:
      ArchitectureError: its tensors are of no supported architecture, or of several; a whole module states that it
        computes otherwise.
      CheckpointError: a weight is not finite, or a variance negative; a normalisation has impossible values.
    """
    inner = state_dict if prefix is None else _select(state_dict, prefix, checkpoint)
    node = get_node(checkpoint.tree, state_dict.location)
    stated = node.stated if isinstance(node, ModuleNode) else {}
    found, own = _unwrap_stated(inner, architecture, image_shape, stated)
    shapes = own.tensors.shapes
    if image_shape is None and (size := stated_size(checkpoint)) is not None:
        found = resized(found, shapes, size)
    check_bounds(found, shapes)
    classes = checkpoint.tree.get("num_classes") if isinstance(checkpoint.tree, dict) else None
    if isinstance(classes, int) and classes != found.num_classes:
        raise ArchitectureError(
            f"{checkpoint.path}: the file says num_classes {classes}, but its last layer has {found.num_classes} "
            "outputs; one of them is wrong, so do not trust the file as it is"
        )
    if checked:
        check_consumed(own.tensors, [*list_read(own), *filter_masks(own.tensors)], checkpoint.path)
    notes = check_stated(stated, own, found, checkpoint.path) if stated else ()
    normaliser = read_normaliser(state_dict, checkpoint.path, list_constants(checkpoint, node))
    return Recognised(found, own, normaliser, notes)


def list_read(state_dict: StateDict) -> list[str]:
    """The names of the weights and statistics, and of the bounds on activations."""
    return [*consumed(state_dict.tensors.shapes), *bounds_in(state_dict.tensors.refs)]


def stated_size(checkpoint: Checkpoint) -> tuple[int, int] | None:
    """Height and width of the images, where the file says them as BackdoorBench's do."""
    size = checkpoint.tree.get("img_size") if isinstance(checkpoint.tree, dict) else None
    sides = size[:2] if isinstance(size, list | tuple) and len(size) == 3 else ()
    if not all(type(side) is int and 0 < side <= _LARGEST for side in sides) or not sides:
        return None
    height, width = sides
    return height, width


def _select(state_dict: StateDict, prefix: str, checkpoint: Checkpoint) -> StateDict:
    """The tensors whose names in the file, or without what the reader takes off them, begin with a prefix."""
    dotted = prefix.removesuffix(".") + "."
    for own in (state_dict.select(dotted), state_dict.under(dotted)):
        if own.names:
            return own
    known = Counter(str(name).partition(".")[0] + "." for name in state_dict.names.values())
    listed = ", ".join(quote(name) for name, _ in known.most_common(_SHOWN))
    raise ArchitectureError(
        f"{checkpoint.path}: no tensor's name begins with --prefix {quote(dotted)}; most begin with {listed}"
    )


def _unwrap_stated(
    state_dict: StateDict, name: str | None, image_shape: tuple[int, int, int] | None, stated: Stated
) -> tuple[Architecture, StateDict]:
    """As ``_unwrap``; of several architectures, only those that are most like a whole module's settings remain."""
    try:
        return _unwrap(state_dict, name, image_shape)
    except AmbiguousError as error:
        if not stated:
            raise
        read = list(_unwrap_each(error.candidates, state_dict, image_shape))
        unlike = [tuple(map(len, compare(stated, own, found))) for found, own in read]
        best = [each for each, count in zip(read, unlike, strict=True) if count == min(unlike)]
        if len(best) == 1:
            return best[0]
        raise AmbiguousError([found.name for found, _ in best] or error.candidates) from error


def _unwrap_each(
    names: Iterable[str], state_dict: StateDict, image_shape: tuple[int, int, int] | None
) -> Iterator[tuple[Architecture, StateDict]]:
    for name in names:
        try:
            yield _unwrap(state_dict, name, image_shape)
        except ArchitectureError:  # of no fitting sizes
            continue


def _unwrap(
    state_dict: StateDict, name: str | None, image_shape: tuple[int, int, int] | None
) -> tuple[Architecture, StateDict]:
    """The architecture behind the first prefix that leaves a known one, and the tensors behind it."""
    outside = {each for pair in find_pairs(state_dict) for each in pair}
    outside |= {each for each, ref in state_dict.tensors.refs.items() if is_counter(each, ref)}
    unlikely: tuple[Architecture, StateDict] | ArchitectureError | None = None
    errors: list[ArchitectureError] = []
    tried: list[Shapes] = []
    for prefix in _list_prefixes(state_dict):
        own = state_dict.under(prefix).without({each.removeprefix(prefix) for each in outside})
        shapes, left = own.tensors.shapes, _list_left(state_dict, own, prefix, outside)
        if left and unlikely is not None:
            break
        tried.append(shapes)
        try:
            found = infer_architecture(shapes, name=name, image_shape=image_shape)
        except ArchitectureError as error:
            errors.append(error)
            if name is None and candidates(shapes, image_shape=image_shape):
                unlikely = error  # unless a published network is found behind a prefix
            continue
        if left and found.name != "mlp":  # which any linear layers are
            unlikely = ArchitectureError(_tell_left(state_dict.prefix + prefix, found, left))
        elif found.names:
            unlikely = found, own  # an edited network, unless likewise
        elif not left:
            return found, own
    if isinstance(unlikely, ArchitectureError):
        if changed := _tell_changed(state_dict):
            raise ArchitectureError(f"{unlikely}{changed}") from unlikely
        raise unlikely
    if unlikely is not None:
        return unlikely
    first = errors[0]
    message = describe_unknown(tried) if isinstance(first, UnknownNetworkError) else str(first)
    raise ArchitectureError(f"{message}{_tell_changed(state_dict) or _advise(state_dict)}") from first


def _list_prefixes(state_dict: StateDict) -> Iterator[str]:
    """What the most names begin with: nothing, then a part up to a dot, then two."""
    prefix, names = "", list(state_dict.names)
    yield prefix
    for _ in range(_MOST_WRAPPERS):
        parts = Counter(name.partition(".")[0] for name in names if "." in name)
        if not parts:
            return
        (part, _), *_ = parts.most_common(1)
        prefix += f"{part}."
        names = [name.removeprefix(f"{part}.") for name in names if name.startswith(f"{part}.")]
        yield prefix


def _list_left(state_dict: StateDict, own: StateDict, prefix: str, outside: set[str]) -> Shapes:
    """The tensors beside the network that are no copy of one of its own; nor are they those known to be ``outside``."""
    shapes, beside = own.tensors.shapes, state_dict.tensors.shapes
    others = {name: shape for name, shape in beside.items() if not name.startswith(prefix) and name not in outside}
    return {name: shape for name, shape in consumed(others).items() if shape not in _list_tails(name, shapes)}


def _list_tails(name: str, shapes: Shapes) -> list[tuple[int, ...]]:
    """The shapes of the network's tensors whose names this name ends in."""
    parts = name.split(".")
    tails = (".".join(parts[i:]) for i in range(len(parts)))
    return [shapes[tail] for tail in tails if tail in shapes]


def _tell_left(prefix: str, found: Architecture, left: Shapes) -> str:
    listed = shorten([f" + {name}" for name in left], _SHOWN)
    steps = [name for name, shape in left.items() if math.prod(shape) <= _CHANNELS and _NORMALISES.search(name.lower())]
    advice = (
        f"{quote(steps[0])} looks like a part of a normalisation, so give its mean and standard deviation with "
        f"--normalization, and --prefix {prefix}"
        if steps
        else f"if the network does not read them, give --prefix {prefix}"
    )
    return (
        f"behind the prefix {quote(prefix)} is a {found.name}, but there are other tensors beside it (+); "
        f"{advice}\n{listed}"
    )


def _tell_changed(state_dict: StateDict) -> str:
    """What to do where torch computes weights from others."""
    for mark, remove in _COMPUTED.items():
        if name := next((name for name in state_dict.names if mark.search(name)), None):
            return f"\n{quote(name)} is there in the place of weights: call {remove} and save again."
    return ""


def _advise(state_dict: StateDict) -> str:
    """What to do where all names begin alike."""
    read = consumed(state_dict.tensors.shapes)
    common = [prefix for prefix in _list_prefixes(state_dict) if all(name.startswith(prefix) for name in read)]
    whole = state_dict.prefix + common[-1]
    if not whole:
        return "\nIf they are more than the network, say with --prefix what the names of its tensors begin with."
    return (
        f"\nAll names begin with {quote(whole)}, which was taken off, too, to no avail. If more of each name is a "
        "wrapper's, give all of that with --prefix."
    )
