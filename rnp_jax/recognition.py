"""Which network a state dict is: its architecture, what wraps it, and the normalisation that it brings."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from rnp_jax.errors import ArchitectureError, UnknownNetworkError
from rnp_jax.models import Architecture
from rnp_jax.models.bounds import bounds_in
from rnp_jax.models.inference import (
    candidates,
    check_bounds,
    consumed,
    filter_masks,
    infer_architecture,
    resized,
)
from rnp_jax.models.nearest import describe_unknown
from rnp_jax.normaliser import Normaliser, find_pairs, read_normaliser
from rnp_jax.torch_io import Checkpoint, StateDict, check_consumed
from rnp_jax.torch_io.state_dict import is_counter
from rnp_jax.torch_io.text import quote

_LARGEST = 4096  # pixels of a side that a file may state
_MOST_WRAPPERS = 4
_SHOWN = 5  # names

Shapes = Mapping[str, tuple[int, ...]]


class Recognised(NamedTuple):
    """A network in a file.

    Attributes:
      architecture: of the network.
      state_dict: its tensors alone, without the names of what wraps it.
      normaliser: the normalisation that the file brings; None where it brings none.
    """

    architecture: Architecture
    state_dict: StateDict
    normaliser: Normaliser | None


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
      ArchitectureError: its tensors are of no supported architecture, or of several.
      CheckpointError: a weight is not finite, or a variance negative; a normalisation has impossible values.
    """
    inner = state_dict if prefix is None else _select(state_dict, prefix, checkpoint)
    found, own = _unwrap(inner, architecture, image_shape)
    shapes = shapes_of(own)
    if image_shape is None and (size := stated_size(checkpoint)) is not None:
        found = resized(found, shapes, size)
    check_bounds(found, shapes)
    stated = checkpoint.tree.get("num_classes") if isinstance(checkpoint.tree, dict) else None
    if isinstance(stated, int) and stated != found.num_classes:
        raise ArchitectureError(
            f"{checkpoint.path}: the file says num_classes {stated}, but its last layer has {found.num_classes} "
            "outputs; one of them is wrong, so do not trust the file as it is"
        )
    if checked:
        check_consumed(own.tensors, [*list_read(own), *filter_masks(own.tensors)], checkpoint.path)
    return Recognised(found, own, read_normaliser(state_dict, checkpoint.path))


def list_read(state_dict: StateDict) -> list[str]:
    """The names of the weights and statistics, and of the bounds on activations."""
    return [*consumed(shapes_of(state_dict)), *bounds_in(state_dict.tensors.refs)]


def shapes_of(state_dict: StateDict) -> dict[str, tuple[int, ...]]:
    """The tensors' shapes, known without reading them."""
    return {name: ref.shape for name, ref in state_dict.tensors.refs.items()}


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
        shapes, left = shapes_of(own), _list_left(state_dict, own, prefix, outside)
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
        raise unlikely
    if unlikely is not None:
        return unlikely
    first = errors[0]
    message = describe_unknown(tried) if isinstance(first, UnknownNetworkError) else str(first)
    raise ArchitectureError(f"{message}{_advise(state_dict)}") from first


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


def _list_left(state_dict: StateDict, own: StateDict, prefix: str, outside: set[str]) -> list[str]:
    """The tensors beside the network that are no copy of one of its own; nor are they those known to be ``outside``."""
    shapes, beside = shapes_of(own), shapes_of(state_dict)
    others = {name: shape for name, shape in beside.items() if not name.startswith(prefix) and name not in outside}
    return [name for name, shape in consumed(others).items() if shape not in _list_tails(name, shapes)]


def _list_tails(name: str, shapes: Shapes) -> list[tuple[int, ...]]:
    """The shapes of the network's tensors whose names this name ends in."""
    parts = name.split(".")
    tails = (".".join(parts[i:]) for i in range(len(parts)))
    return [shapes[tail] for tail in tails if tail in shapes]


def _tell_left(prefix: str, found: Architecture, left: list[str]) -> str:
    listed = "".join(f"\n + {name}" for name in left[:_SHOWN])
    more = f"\n … and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
    return (
        f"behind the prefix {quote(prefix)} is a {found.name}, but there are other tensors beside it (+); if the "
        f"network does not read them, give --prefix {prefix}{listed}{more}"
    )


def _advise(state_dict: StateDict) -> str:
    """What to do where all names begin alike."""
    read = consumed(shapes_of(state_dict))
    common = [prefix for prefix in _list_prefixes(state_dict) if all(name.startswith(prefix) for name in read)]
    whole = state_dict.prefix + common[-1]
    if not whole:
        return "\nIf they are more than the network, say with --prefix what the names of its tensors begin with."
    return (
        f"\nAll names begin with {quote(whole)}, which was taken off, too, to no avail. If more of each name is a "
        "wrapper's, give all of that with --prefix."
    )
