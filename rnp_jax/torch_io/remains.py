"""What else of a network is in its file, where no name tells: in a list, by number, in one flat vector.

Tensors are compared with the network's kernels, whatever they are called. A kernel that is somewhere else once more has
a cosine near 1 to its own; momenta, gradients and the kernels of another network have one near 0.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.checkpoint import Checkpoint, find_extent, materialise
from rnp_jax.torch_io.dtypes import DTYPES
from rnp_jax.torch_io.nodes import Location, TensorRef, children, containers
from rnp_jax.torch_io.state_dict import StateDict

_STATISTICS: Final = ("running_mean", "running_var")
_LEAST: Final = 500  # elements of a kernel that chance does not make similar to another
_SAMPLE: Final = 4096  # elements of a kernel that are compared
_ALIKE: Final = 0.9  # cosine
_ENOUGH: Final = 2  # kernels of a network that has four or more

_Orders = Sequence[Sequence[str]]


class Remains(NamedTuple):
    """Weights of the network in one part of the file.

    Attributes:
      location: what they have in common of their places.
      tensors: the place of each.
    """

    location: Location
    tensors: tuple[Location, ...]


def find_remains(
    checkpoint: Checkpoint, chosen: StateDict, read: Collection[str], known: Collection[tuple[int, object]]
) -> tuple[Remains, ...]:
    """Tensors that hold kernels of a network, if two kernels or more, or half of a few, are found.

    A tensor with as many elements as a kernel is compared with it. A vector with half of the network's weights or more
    is compared with all of them behind each other, in the orders that training code flattens them in.

    Args:
      checkpoint: from `read_checkpoint`.
      chosen: the state dict of the network.
      read: the names of those of its tensors that the network reads.
      known: tensors that are not looked at: the identity of the dict or list of each, and its key there.

    Raises:
      CheckpointError: the file names so many tensors in the same bytes that reading them takes more than
        `Limits.file_bytes`.
    """
    refs = chosen.tensors.refs
    kernels = [name for name in read if len(refs[name].shape) > 1 and math.prod(refs[name].shape) > _LEAST]
    if not kernels:
        return ()
    sizes = {name: math.prod(ref.shape) for name, ref in refs.items()}
    kernel_sizes = {sizes[name] for name in kernels}
    whole, learnt = sum(sizes.values()), sum(sizes[name] for name in list_learnt(read))
    loose: dict[TensorRef, list[Location]] = {}  # a tensor in several places is read once
    for location, ref in _iterate_tensors(checkpoint, known):
        if math.prod(ref.shape) in kernel_sizes:
            loose.setdefault(ref, []).append(location)
        elif 2 * math.prod(ref.shape) >= learnt and max(ref.shape) == math.prod(ref.shape):
            axis = ref.shape.index(max(ref.shape))
            cut = replace(ref, shape=(min(ref.shape[axis], whole),), strides=(ref.strides[axis],))
            loose.setdefault(cut, []).append(location)
    total, allowed = sum(map(_count_bytes, loose)), checkpoint.limits.file_bytes
    if total > allowed:
        raise CheckpointError(
            checkpoint.path,
            f"{len(loose)} tensors beside the network take {total} bytes, more than {allowed} (Limits.file_bytes)",
        )
    if not loose:
        return ()
    samples = {name: _sample(chosen.tensors[name]) for name in kernels}
    orders = _list_orders(chosen, read)
    hits: set[str] = set()
    found: list[Location] = []
    for ref, locations in loose.items():
        if names := _match(materialise(checkpoint, ref).reshape(-1), sizes, samples, orders):
            hits |= names
            found += locations
    return _group(found) if len(hits) >= min(_ENOUGH, math.ceil(len(kernels) / 2)) else ()


def list_learnt(names: Collection[str]) -> list[str]:
    """The names of those tensors that are no statistics."""
    return [name for name in names if name.rpartition(".")[2] not in _STATISTICS]


def _count_bytes(ref: TensorRef) -> int:
    """What reading a tensor costs: its strides may be wide, or zero."""
    extent = find_extent(ref)
    return max(ref.nbytes, extent.stop - extent.start)


def _iterate_tensors(
    checkpoint: Checkpoint, known: Collection[tuple[int, object]]
) -> Iterator[tuple[Location, TensorRef]]:
    """Each place of a tensor with elements."""
    for location, node in containers(checkpoint.tree):
        for key, value in children(node):
            if (
                isinstance(value, TensorRef)
                and value.dtype in DTYPES
                and value.shape
                and 0 not in value.shape
                and (id(node), key) not in known
            ):
                yield (*location, key), value


def _sample(values: np.ndarray) -> np.ndarray:
    """Some of the elements, of length 1; zeros where they are not finite."""
    flat = values.reshape(-1)
    picked = flat[:: max(1, flat.size // _SAMPLE)].astype(np.float64)
    with np.errstate(all="ignore"):
        length = np.linalg.norm(picked)
        return picked / length if 0 < length < np.inf else np.zeros(picked.shape)


def _list_orders(chosen: StateDict, read: Collection[str]) -> _Orders:
    """How the tensors are put behind each other: without or with statistics and counters, matrices first or last."""
    held = list(chosen.tensors.refs)
    needed = [name for name in held if name in read]
    learnt = list_learnt(needed)
    vectors = [name for name in learnt if len(chosen.tensors.refs[name].shape) < 2]
    decayed = [name for name in learnt if name not in vectors]  # by weight decay: a group of its own in an optimizer
    return (learnt, needed, held, decayed + vectors, vectors + decayed)


def _match(flat: np.ndarray, sizes: Mapping[str, int], samples: Mapping[str, np.ndarray], orders: _Orders) -> set[str]:
    """The kernels that these values hold: one as a whole, or several behind each other."""
    if flat.size in map(sizes.get, samples):
        own = _sample(flat)
        return {name for name, sample in samples.items() if sizes[name] == flat.size and own @ sample > _ALIKE}
    hits: set[str] = set()
    for order in orders:
        start = 0
        for name in order:
            part = flat[start : start + sizes[name]]
            start += sizes[name]
            if name in samples and part.size == sizes[name] and _sample(part) @ samples[name] > _ALIKE:
                hits.add(name)
    return hits


def _group(places: Sequence[Location]) -> tuple[Remains, ...]:
    """The places under one key of the root, together."""
    groups: dict[Location, list[Location]] = {}
    for place in places:
        groups.setdefault(place[:-1][:1], []).append(place)
    return tuple(Remains(_find_common(group), tuple(group)) for group in groups.values())


def _find_common(places: Sequence[Location]) -> Location:
    common = places[0][:-1]
    for place in places:
        while place[: len(common)] != common:
            common = common[:-1]
    return common
