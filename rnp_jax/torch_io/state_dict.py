"""Finding the state dict inside a checkpoint, wherever the training code of its author put it."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, Final

import numpy as np

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.checkpoint import Checkpoint, find_extent, materialise
from rnp_jax.torch_io.location import choose_location, follow_key, get_node, is_quantised
from rnp_jax.torch_io.nodes import LONGEST_NAME, Location, Node, Opaque, TensorRef, containers, walk
from rnp_jax.torch_io.shards import check_whole
from rnp_jax.torch_io.text import format_path, quote

_COMPILED: Final = "_orig_mod"  # torch.compile's wrapper, around the network or around a part of it
_PARALLEL_PREFIX: Final = "module."  # torch.nn.DataParallel
_SECOND_PREFIX: Final = "1."  # the network in a Sequential, behind a step without tensors such as a resize
_MOST_WRAPPERS: Final = 4
_MOST_DOTS: Final = 32  # in a name: the time that a search for prefixes takes grows with their square


class Tensors(Mapping[str, np.ndarray]):
    """Arrays that are read from the file whenever they are asked for, and not kept.

    Args:
      checkpoint: their file.
      refs: what is known of each without reading it: shape and dtype.

    Raises:
      CheckpointError: at any reading, that the file is not what it was.
    """

    def __init__(self, checkpoint: Checkpoint, refs: Mapping[str, TensorRef]):
        self._checkpoint, self.refs = checkpoint, refs

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Their shapes, known without reading them."""
        return {name: ref.shape for name, ref in self.refs.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        return materialise(self._checkpoint, self.refs[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.refs)

    def __len__(self) -> int:
        return len(self.refs)

    def __contains__(self, name: object) -> bool:  # the inherited one would read it
        return name in self.refs

    def rename(self, names: Mapping[str, str]) -> "Tensors":
        """Some of the same tensors by other names: the new name of each, and its name here."""
        return Tensors(self._checkpoint, {new: self.refs[name] for new, name in names.items()})


@dataclass(frozen=True, eq=False)
class StateDict:
    """The tensors of a classifier, by bare names: without those of the wrappers around it.

    Attributes:
      location: the keys that lead to it from the root of the tree; empty if the root is the state dict.
      prefix: what the file has before every bare name, such as ``module.`` for a network trained on several GPUs, or
        nothing.
      names: what the tensors are called in the file (the index, in a list), by bare name.
      tensors: by bare name, in the order of the file, in the file's dtypes.
      skipped: the names of entries that are not tensors.
    """

    location: Location
    prefix: str
    names: Mapping[str, Any]
    tensors: Tensors
    skipped: tuple[str, ...]

    def spell(self, name: str) -> Any:
        """What the file calls a tensor, or would call a new one of this bare name."""
        return self.names.get(name, self.prefix + name)

    def under(self, prefix: str) -> "StateDict":
        """The part whose bare names begin with a prefix, which is taken off them."""
        own = {name.removeprefix(prefix): name for name in self.names if name.startswith(prefix)}
        names = {name: self.names[held] for name, held in own.items()}
        return replace(self, prefix=self.prefix + prefix, names=names, tensors=self.tensors.rename(own))

    def select(self, prefix: str) -> "StateDict":
        """The part whose names in the file begin with a prefix; ``torch.compile``'s part of it may be left out."""
        (start,) = drop_compiled([prefix])
        whole = drop_compiled(self.names.values())
        bare = {stored: name for name, stored in self.names.items()}
        own = {name.removeprefix(start): stored for name, stored in whole.items() if name.startswith(start)}
        tensors = self.tensors.rename({name: bare[stored] for name, stored in own.items()})
        return replace(self, prefix=_find_common(tensors.refs, own, start), names=own, tensors=tensors)

    def without(self, left_out: Collection[str]) -> "StateDict":
        """All but some tensors."""
        names = {name: stored for name, stored in self.names.items() if name not in left_out}
        return replace(self, names=names, tensors=self.tensors.rename(dict(zip(names, names, strict=True))))


def find_state_dict(checkpoint: Checkpoint, key: str | None = None) -> StateDict:
    """The state dict under `key`, or the only one that the file can mean (see `choose_location`).

    Args:
      checkpoint: from `read_checkpoint`.
      key: a key of the root, or keys and indices of lists, separated by slashes; a single slash is the root itself.

    Raises:
      CheckpointError: there is none, there are several, or it holds unread objects, names that are not text, a prefix
        on some names only, or more than `Limits.materialised_bytes`; or a tensor anywhere in the file has a name of
        more letters or dots than any network's.
    """
    path, tree = checkpoint.path, checkpoint.tree
    check_whole(path)
    location = choose_location(tree, path) if key is None else follow_key(tree, key, path)
    chosen = get_node(tree, location)
    where = format_path(location)
    if isinstance(chosen, Opaque):
        raise CheckpointError(path, f"{where} is {quote(chosen.name)}, {_advise(location, chosen)}")
    if not isinstance(chosen, dict):
        raise CheckpointError(path, f"{where} is a {type(chosen).__name__}, not a state dict")
    for place, node in walk(chosen):
        if isinstance(node, Opaque):
            shown = format_path(location + place)
            raise CheckpointError(path, f"{shown} is {quote(node.name)}, {_advise(place, node)}")
    for name in chosen:
        if type(name) is not str:
            raise CheckpointError(path, f"{where} has the key {quote(name)}, which is not the name of a tensor")
    _check_names(tree, chosen, path)
    refs = {name: value for name, value in chosen.items() if isinstance(value, TensorRef)}
    if not refs:
        raise CheckpointError(path, f"{where} holds no tensors")
    plain = drop_compiled(refs)
    if len(plain) < len(refs):
        raise CheckpointError(path, f"{where} has two tensors whose names differ by {_COMPILED} alone")
    prefix = _find_prefix([name for name in plain if not is_counter(name, refs[plain[name]])] or plain, where, path)
    total = sum(max(ref.nbytes, (extent := find_extent(ref)).stop - extent.start) for ref in refs.values())
    if total > checkpoint.limits.materialised_bytes:
        allowed = f"{checkpoint.limits.materialised_bytes} (Limits.materialised_bytes)"
        raise CheckpointError(path, f"the tensors of {where} take {total} bytes, more than {allowed}")
    names = {name.removeprefix(prefix): stored for name, stored in plain.items()}
    tensors = Tensors(checkpoint, {name: refs[stored] for name, stored in names.items()})
    skipped = tuple(name for name in chosen if name not in refs)
    return StateDict(location, _find_common(tensors.refs, names, prefix), names, tensors, skipped)


def check_consumed(tensors: Mapping[str, np.ndarray], names: Iterable[str], path: str | PathLike[str]) -> None:
    """Check the values of the tensors that a network will use; others, such as uninitialised noise, may be anything.

    Raises:
      CheckpointError: one holds NaN or infinity, or a running variance is negative.
    """
    for name in names:
        _check_values(name, tensors[name], path)


class Checked(Mapping[str, np.ndarray]):
    """The same tensors, each checked whenever it is asked for, as by ``check_consumed``.

    Args:
      tensors: by name.
      path: their file, for errors.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], path: str | PathLike[str]):
        self._tensors, self._path = tensors, path

    def __getitem__(self, name: str) -> np.ndarray:
        values = self._tensors[name]
        _check_values(name, values, self._path)
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors


def _check_values(name: str, values: np.ndarray, path: str | PathLike[str]) -> None:
    if values.dtype.kind in "iub" or not values.size:
        return
    with np.errstate(invalid="ignore"):
        extremes = values.min(), values.max()  # NaN is both; no array of booleans is made
    if not np.isfinite(extremes).all():
        place = tuple(map(int, np.argwhere(~np.isfinite(values))[0]))
        raise CheckpointError(path, f"tensor {quote(name)} holds {values[place]} at {place}; weights must be finite")
    if name.endswith("running_var") and extremes[0] < 0:
        raise CheckpointError(path, f"tensor {quote(name)} holds the negative variance {extremes[0]}")


def _check_names(tree: Node, chosen: Node, path: str | PathLike[str]) -> None:
    """Refuses tensors, wherever in the tree they are, whose names have more letters or dots than any network's."""
    for location, node in containers(tree):
        for name in node if isinstance(node, dict) else ():
            if type(name) is not str or (node is not chosen and not isinstance(node[name], TensorRef)):
                continue
            for count, most, what in ((len(name), LONGEST_NAME, "letters"), (name.count("."), _MOST_DOTS, "dots")):
                if count > most:
                    key = f"{format_path(location)} has the key {quote(name)}"
                    raise CheckpointError(path, f"{key} of {count} {what}, more than {most}")


def _advise(place: Location, node: Opaque) -> str:
    """What is said of an object that was left unread."""
    if any(is_quantised(key, node) for key in (*place, "")):
        return "one of quantised weights, which are not supported; save the state dict before the network is quantised"
    return "which is not a dense tensor or plain data: it was left unread"


def drop_compiled(names: Iterable[str]) -> dict[str, str]:
    """The names without what ``torch.compile`` puts into them, each with the name as it was."""
    return {".".join(part for part in name.split(".") if part != _COMPILED): name for name in names}


def is_counter(name: str, ref: TensorRef) -> bool:
    """Whether a tensor is a number that a wrapper keeps beside a network, as the count of averaged models."""
    return not ref.shape and "float" not in ref.dtype and name.rpartition(".")[2] != "num_batches_tracked"


def _find_common(refs: Mapping[str, TensorRef], names: Mapping[str, str], prefix: str) -> str:
    """What the file has before all names; without ``torch.compile``'s part of it where only some names have that."""
    own = [name for name, ref in refs.items() if not is_counter(name, ref)]
    common = names[own[0]].removesuffix(own[0]) if own else prefix
    return common if all(names[name] == common + name for name in own) else prefix


def _find_prefix(names: Collection[str], where: str, path: str | PathLike[str]) -> str:
    """The wrappers' names that every name begins with."""
    end = 0
    for _ in range(_MOST_WRAPPERS):
        end += len(_find_wrapper(names, end))
    prefix = next(iter(names))[:end]
    having = [name for name in names if name.startswith(_PARALLEL_PREFIX, end)]
    bare = next((name for name in names if not name.startswith(_PARALLEL_PREFIX, end)), None)
    if having and bare is not None:
        raise CheckpointError(
            path,
            f"in {where}, {len(having)} of {len(names)} names begin with {quote(prefix + _PARALLEL_PREFIX)}, "
            f"such as {quote(having[0])}, but {quote(bare)} does not; a state dict has it on all names or on none",
        )
    return prefix


def _find_wrapper(names: Iterable[str], begin: int) -> str:
    """The next wrapper's name on all names from there on, or nothing."""
    if all(name.startswith(_PARALLEL_PREFIX, begin) for name in names):
        return _PARALLEL_PREFIX
    # A network's own names have dots of their own; ``1.weight`` and ``1.bias`` are a single layer's.
    if not all(name.startswith(_SECOND_PREFIX, begin) for name in names):
        return ""
    return _SECOND_PREFIX if any(name.find(".", begin + len(_SECOND_PREFIX)) > 0 for name in names) else ""
