"""Other copies of a network in its file: averaged weights, the best ones, those of a wrapper.

Whoever opens a cleaned file may take such a copy and not the weights that were cleaned: timm prefers
``state_dict_ema``. So each is found, wherever in the tree it is, and is replaced with them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from rnp_jax.errors import CheckpointError
from rnp_jax.torch_io.checkpoint import Checkpoint
from rnp_jax.torch_io.location import get_node
from rnp_jax.torch_io.nodes import LONGEST_NAME, Location, Node, TensorRef, containers
from rnp_jax.torch_io.remains import Remains, find_remains, list_learnt
from rnp_jax.torch_io.state_dict import StateDict, Tensors, drop_compiled

_FEW: Final = 4  # tensors: a part of a larger network may look like a whole network of so few
_SIMILAR: Final = 0.5  # cosine to the chosen weights; averaged weights are near 1, gradients and other networks near 0

_Shapes = Mapping[str, tuple[int, ...]]


class Copy(NamedTuple):
    """A second state dict of the same network.

    Attributes:
      state_dict: its tensors.
      equal: whether its values are those of the chosen state dict.
      whole: whether it has all tensors that the network reads.
    """

    state_dict: StateDict
    equal: bool
    whole: bool


class Copies(NamedTuple):
    """What a file holds of a network beside the chosen state dict.

    Attributes:
      fitting: its copies.
      others: state dicts that have most of its names, do not fit it, and do not hold its weights.
      remains: weights of the network that are in no copy.
    """

    fitting: tuple[Copy, ...] = ()
    others: tuple[StateDict, ...] = ()
    remains: tuple[Remains, ...] = ()


NO_COPIES: Final = Copies()
"""Of a network that its file holds once."""


def find_copies(checkpoint: Checkpoint, chosen: StateDict, read: Iterable[str]) -> Copies:
    """Looks through the whole tree for tensors of the names and shapes of a network.

    Names count as the same behind any prefix that ends in a dot, and without what ``torch.compile`` puts into them. All
    tensors that the network reads make a copy. Its learnt tensors alone make one, in a dict or as a list in the same
    order, if their values are similar to the chosen ones: so averages of weights are kept. Gradients are not similar.

    Args:
      checkpoint: from `read_checkpoint`.
      chosen: the state dict of the network.
      read: the names of those of its tensors that the network reads.

    Raises:
      CheckpointError: the copies together take more than `Limits.materialised_bytes`, or other tensors more than
        `Limits.file_bytes`.
    """
    needed = {name: chosen.tensors.refs[name].shape for name in read}
    own = get_node(checkpoint.tree, chosen.location)
    shaped: list[StateDict] = []
    others: list[StateDict] = []
    for location, node in containers(checkpoint.tree):
        held = set(chosen.names.values()) if node is own else set()
        for candidate in _list_candidates(checkpoint, location, node, held, needed):
            if _has_shapes(candidate, chosen, needed):
                shaped.append(candidate)
                held |= set(candidate.names.values())
            elif not held:
                others.append(candidate)
                break
    _check_size([chosen, *shaped], checkpoint)  # before any of them is read
    fitting: list[Copy] = []
    for candidate in shaped:
        whole = needed.keys() <= candidate.names.keys()
        if whole or _is_similar(candidate, chosen, list_learnt(needed)):
            fitting.append(Copy(candidate, _is_equal(candidate, chosen, needed), whole))
        elif isinstance(get_node(checkpoint.tree, candidate.location), dict):
            others.append(candidate)
    state_dicts = [chosen, *(copy.state_dict for copy in fitting)]
    nodes = [(id(get_node(checkpoint.tree, each.location)), each) for each in state_dicts]
    known = {(node, name) for node, each in nodes for name in each.names.values()}
    remains = find_remains(checkpoint, chosen, needed, known)
    holders = {place[:-1] for each in remains for place in each.tensors}
    return Copies(tuple(fitting), tuple(each for each in others if each.location not in holders), remains)


def _list_candidates(
    checkpoint: Checkpoint, location: Location, node: Node, held: set[Any], needed: _Shapes
) -> list[StateDict]:
    """Those of a dict's tensors that have most of the needed names behind one prefix, the fullest first; or a list."""
    if not isinstance(node, dict):
        return _list_items(checkpoint, location, node, needed)
    refs = {
        name: value
        for name, value in node.items()
        if isinstance(value, TensorRef) and type(name) is str and len(name) <= LONGEST_NAME and name not in held
    }
    plain = drop_compiled(refs)
    if len(plain) < len(refs):  # some names differ by that alone: two networks
        plain = {name: name for name in refs}
    votes = Counter(prefix for name in plain for prefix in _list_prefixes(name, needed))
    groups: dict[str, dict[str, str]] = {
        prefix: {}
        for prefix, count in votes.most_common()
        if 2 * count > len(needed) and (len(needed) > _FEW or count == len(plain))
    }
    for name, stored in plain.items():
        prefix = next((prefix for prefix in _list_beginnings(name) if prefix in groups), None)
        if prefix is not None:
            groups[prefix][name.removeprefix(prefix)] = stored
    return [_make(checkpoint, location, prefix, node, names) for prefix, names in groups.items()]


def _list_beginnings(name: str) -> Iterator[str]:
    """What a name begins with up to each of its dots, the longest first, then nothing."""
    end = len(name)
    while (end := name.rfind(".", 0, end)) >= 0:
        yield name[: end + 1]
    yield ""


def _list_prefixes(name: str, needed: _Shapes) -> Iterator[str]:
    """What stands before the name of a needed tensor at the end of this one."""
    begin = 0
    while True:
        if name[begin:] in needed:
            yield name[:begin]
        begin = name.find(".", begin) + 1
        if not begin:
            return


def _list_items(checkpoint: Checkpoint, location: Location, node: Sequence[Node], needed: _Shapes) -> list[StateDict]:
    """A list of the learnt tensors alone, in the order of the state dict, as averages of weights are kept."""
    learnt = list_learnt(needed)
    if len(learnt) <= _FEW or len(node) != len(learnt):
        return []
    if [getattr(value, "shape", None) for value in node] != [needed[name] for name in learnt]:
        return []
    return [_make(checkpoint, location, "", node, dict(zip(learnt, range(len(learnt)), strict=True)))]


def _make(checkpoint: Checkpoint, location: Location, prefix: str, node: Any, names: Mapping[str, Any]) -> StateDict:
    tensors = Tensors(checkpoint, {name: node[stored] for name, stored in names.items()})
    return StateDict(location, prefix, names, tensors, ())


def _has_shapes(candidate: StateDict, chosen: StateDict, needed: _Shapes) -> bool:
    """Whether all learnt tensors are there, and what is needed has the right shapes and can be replaced."""
    refs = candidate.tensors.refs
    for name in (name for name in needed if name in refs):
        castable = "float" in refs[name].dtype or refs[name].dtype == chosen.tensors.refs[name].dtype
        if refs[name].shape != needed[name] or not castable:
            return False
    return all(name in refs for name in list_learnt(needed))


def _is_similar(candidate: StateDict, chosen: StateDict, names: Sequence[str]) -> bool:
    """Whether the matrices and kernels point in the same direction."""
    products = np.zeros(3)
    with np.errstate(all="ignore"):  # values that are not finite are not similar
        for name in names:
            if len(chosen.tensors.refs[name].shape) > 1:
                one, two = (each.tensors[name].astype(np.float64).ravel() for each in (candidate, chosen))
                products += one @ two, one @ one, two @ two
        dot, own, other = products
        return bool(dot > _SIMILAR * np.sqrt(own * other))


def _is_equal(candidate: StateDict, chosen: StateDict, needed: _Shapes) -> bool:
    refs = candidate.tensors.refs
    return all(
        refs[name] == chosen.tensors.refs[name] or _hold_same(candidate.tensors[name], chosen.tensors[name])
        for name in needed
        if name in refs
    )


def _hold_same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the arrays are equal in the dtype of the first."""
    with np.errstate(all="ignore"):
        return np.array_equal(one, other.astype(one.dtype))


def _check_size(state_dicts: Sequence[StateDict], checkpoint: Checkpoint) -> None:
    total, allowed = sum(ref.nbytes for each in state_dicts for ref in each.tensors.refs.values()), checkpoint.limits
    if total > allowed.materialised_bytes:
        raise CheckpointError(
            checkpoint.path,
            f"the network and its copies in the file, {len(state_dicts)} in all, take {total} bytes, more than "
            f"{allowed.materialised_bytes} (Limits.materialised_bytes)",
        )
